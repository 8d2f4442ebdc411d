"""Data files as a stream: read a sample at a time, from lines of JSON, Parquet and tar files alike."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.base.errors import UserError
from lab.base.images import header_size, open_image
from lab.base.tars import members, read_member, there
from lab.datasets import read_jsonl, read_samples, read_truth
from lab.datasets.__main__ import main as convert
from lab.datasets.hub import COLUMNS
from lab.datasets.stream import open_samples

ROWS = [{"id": f"s{i}", "prompt": f"thing {i}", "image_path": f"{i % 3}.png", "bbox": [1, 2, 3, 4]} for i in range(7)]


def lines(folder: Path, rows=ROWS) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")  # every second line is empty
    return path


def png(size=(8, 6), colour="red", mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "png")
    return stream.getvalue()


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# lines


def test_samples_are_read_when_they_are_asked_for_and_equal_those_of_the_list(tmp_path):
    path = lines(tmp_path)
    samples, listed = open_samples(path), read_jsonl(path)
    assert list(samples) == listed == [samples[i] for i in range(7)]
    assert len(samples) == 7
    assert samples[3].line == 7
    assert list(samples[2:5]) == listed[2:5]
    assert list(samples[np.array([5, 0])]) == [listed[5], listed[0]]
    assert samples[-1] == listed[-1]
    assert list(pickle.loads(pickle.dumps(samples))) == listed
    assert open_samples(path, final_period=True)[0].query == "thing 0."


def test_a_glance_tells_what_planning_needs(tmp_path):
    glance = open_samples(lines(tmp_path, [*ROWS, {**ROWS[0], "id": "sized", "image_size": [10, 20]}])).glance
    assert glance.letters.tolist() == [7] * 8
    assert glance.pixels.tolist() == [0] * 7 + [200]
    same = (glance.pictures[:, None] == glance.pictures).all(2)
    assert same[0].tolist() == [True, False, False, True, False, False, True, True]


def test_an_id_that_is_there_twice_is_told_with_both_lines(tmp_path):
    path = lines(tmp_path, [*ROWS, {**ROWS[2], "prompt": "again"}, ROWS[0]])
    for read in (open_samples, read_jsonl):
        with pytest.raises(UserError, match=r"data.jsonl line 15: id 's2' was used in line 5; ids must be unique"):
            read(path)


def test_a_line_beyond_all_measure_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.datasets.stream.MOST_LINE", 100)
    with pytest.raises(UserError, match=r"data.jsonl line 1: is longer than 100 bytes"):
        open_samples(lines(tmp_path, [{**ROWS[0], "prompt": "x" * 100}]))


def test_many_samples_take_arrays_and_no_objects(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(f'{{"id": {i}, "prompt": "x", "image_path": "a.png"}}\n' for i in range(3000)))
    samples = open_samples(path)
    kept = [samples.starts, samples.numbers, samples.glance.pictures, samples.glance.letters, samples.glance.pixels]
    assert sum(column.nbytes for column in kept) == 3000 * 48
    assert samples[2999].id == "2999"


# Parquet


def test_a_parquet_file_is_read_as_its_lines_would_be(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [*ROWS, {"id": 7, "prompt": "the cat", "image_path": "a.png", "segmentation": [[0, 0, 4, 0, 4, 4]]}]
    table = arrow.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows], schema=None)
    table = table.append_column("jpg", arrow.array([b"\xff"] * len(rows)))
    path = tmp_path / "data.parquet"
    parquet.write_table(table, path, row_group_size=2)
    expected = read_jsonl(lines(tmp_path, rows))
    found = list(read_samples(path))
    assert [(s.id, s.query, s.image_file, s.box_xyxy) for s in found] == [
        (s.id, s.query, s.image_file, s.box_xyxy) for s in expected
    ]
    assert read_jsonl(path)[2].line == 3
    parquet.write_table(arrow.Table.from_pylist([{"id": "a", "prompt": "x"}]), path)
    with pytest.raises(UserError, match=r"data.parquet row 1: no key image_path or image"):
        read_samples(path)
    parquet.write_table(arrow.Table.from_pylist([{"id": "a", "prompt": "x", "image": {"bytes": b"x"}}]), path)
    with pytest.raises(UserError, match=r"column image holds struct<.*save the pictures as files and name these"):
        read_samples(path)
    columns = dict.fromkeys(COLUMNS, "x") | {"image": {"bytes": b"x"}}
    parquet.write_table(arrow.Table.from_pylist([columns]), path)
    with pytest.raises(UserError, match=r"column image holds struct<.*convert hub writes its pictures into files"):
        read_samples(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"data.parquet: no Parquet file, or damaged"):
        read_samples(path)


def test_without_pyarrow_it_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"reading Parquet files needs pyarrow: pip install pyarrow"):
        read_samples(tmp_path / "data.parquet")


# tar


@pytest.fixture
def pictures(tmp_path) -> Path:
    boxed = {"id": "cup", "prompt": "the cup", "bbox": [1, 1, 4, 3]}
    several = [{"prompt": "left"}, {"prompt": "right", "id": "r"}]
    return tar(
        tmp_path / "train-0.tar",
        {
            "0001.png": png(),
            "0001.json": json.dumps(boxed).encode(),
            "0001.mask.png": png(mode="L", colour=255),
            "notes/readme.md": b"not a sample",
            "b/0002.JPG": png((4, 9)),
            "b/0002.json": json.dumps(several).encode(),
            "0003.txt": "größer\n".encode(),
            "0003.webp": png((5, 5)),
        },
    )


def test_a_tar_of_samples_is_read_in_place(pictures):
    samples = read_samples(pictures)
    assert [(s.id, s.query) for s in samples] == [
        ("cup", "the cup"),
        ("b-0002-0", "left"),
        ("r", "right"),
        ("0003", "größer"),
    ]
    assert samples[0].image_file == pictures / "0001.png"
    assert header_size(samples[1].image_file) == (4, 9)
    assert open_image(samples[0].image_file).getpixel((0, 0)) == (255, 0, 0)
    truth = read_truth(samples[0])
    assert truth.box_xyxy == (1, 1, 5, 4)
    assert truth.mask.sum() == 48
    assert there(samples[0].image_file)
    assert not there(pictures / "0004.png")
    assert list(pictures.parent.iterdir()) == [pictures]


def test_a_pattern_names_many_files(pictures):
    tar(pictures.parent / "train-1.tar", {"0009.txt": b"a bird", "0009.png": png()})
    assert [s.id for s in read_samples(pictures.parent / "train-*.tar")][-2:] == ["0003", "0009"]
    with pytest.raises(UserError, match="nothing has such a name"):
        read_samples(pictures.parent / "test-*.tar")


def test_files_of_a_pattern_are_named_where_one_is_wrong(tmp_path):
    for number in (1, 2, 3):
        rows = [{"id": f"{number}-{i}", "prompt": "x", "image_path": "a.png"} for i in range(number)]
        (tmp_path / f"part-{number}.jsonl").write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows))
    pattern = tmp_path / "part-*.jsonl"
    assert [s.id for s in read_samples(pattern)] == ["1-0", "2-0", "2-1", "3-0", "3-1", "3-2"]
    lines = (tmp_path / "part-3.jsonl").read_text().splitlines()
    (tmp_path / "part-3.jsonl").write_text("\n".join([lines[0], '{"id": "y"}', *lines[1:]]))
    with pytest.raises(UserError, match=r"/part-3\.jsonl line 2: no key prompt$"):
        read_samples(pattern)
    (tmp_path / "part-3.jsonl").write_text(lines[0].replace("3-0", "2-1"))
    for read in (open_samples, read_jsonl):
        used = r"/part-3\.jsonl line 1: id '2-1' was used in /.*/part-2\.jsonl line 2; ids must be unique"
        with pytest.raises(UserError, match=used):
            read(pattern)
    (tmp_path / "part-3.jsonl").write_bytes(b"\n\xff\n")
    with pytest.raises(UserError, match=r"^/.*/part-3\.jsonl line 2: byte 1 \(0xff\) is not UTF-8"):
        read_samples(pattern)
    (tmp_path / "part-3.jsonl").unlink()
    (tmp_path / "part-4.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"part-4\.tar: expected files of one kind, \.jsonl"):
        read_samples(tmp_path / "part-*")


def test_a_faulty_row_of_a_pattern_is_told_with_its_own_file(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"id": str(i), "prompt": "x", "image_path": "a.png"} for i in range(4)]
    parquet.write_table(arrow.Table.from_pylist(rows[:3]), tmp_path / "no1.parquet")
    parquet.write_table(arrow.Table.from_pylist([rows[3], {**rows[3], "id": None}]), tmp_path / "no2.parquet")
    with pytest.raises(UserError, match=r"/no2\.parquet row 2: no key id or question_id"):
        read_samples(tmp_path / "no*.parquet")
    boxed = [{**row, "bbox": [1, 1, 2, 2]} for row in rows]
    parquet.write_table(arrow.Table.from_pylist(boxed[:3]), tmp_path / "no1.parquet")
    parquet.write_table(arrow.Table.from_pylist([{**boxed[3], "image_path": "b.png"}]), tmp_path / "no2.parquet")
    (tmp_path / "a.png").write_bytes(png())
    with pytest.raises(UserError, match=r"/no2\.parquet row 1: No such image: .*b\.png"):
        convert(["convert", "jsonl", str(tmp_path / "no*.parquet"), "--out", str(tmp_path / "x.jsonl")])


@pytest.mark.parametrize("name", ["nosuch.jsonl", "nosuch.tar", "nosuch.parquet"])
def test_a_file_that_is_not_there_may_be_of_any_kind(tmp_path, name):
    with pytest.raises(UserError, match=r"no data file .*: set data.data_file to a JSONL, Parquet or tar file"):
        read_samples(tmp_path / name)


def test_a_picture_that_a_tar_does_not_hold_is_told(pictures):
    with pytest.raises(UserError, match=r"No such image: .*train-0.tar/0004.png"):
        open_image(pictures / "0004.png")
    broken = tar(pictures.parent / "broken.tar", {"a.png": b"no picture"})
    with pytest.raises(UserError, match=r"broken.tar/a.png cannot be read"):
        open_image(broken / "a.png")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.png": png()}, "sample a has no expression, .json or .txt; its files must follow each other; found png"),
        ({"a.json": b"{}"}, "sample a has no picture; its files must follow each other; found json"),
        ({"a.png": png(), "b.txt": b"x", "a.json": b"{}"}, "sample a has no expression"),
        ({"a.png": png(), "a.json": b"[1]"}, "sample a: a JSON object is expected"),
        ({"a.png": png(), "a.json": b"{"}, "sample a: not JSON"),
        ({"a.png": png(), "a.json": b"{}"}, "sample 1: no key prompt"),
        ({"a.png": png(), "a.txt": b"\xff\xfe\xfd"}, "sample a: line 1: byte"),
        ({"../a.png": png(), "../a.txt": b"x"}, "names '../a.png', which lies outside"),
        ({"/a.png": png(), "/a.txt": b"x"}, "names '/a.png', which lies outside"),
        ({}, r"holds no samples: a picture and \.json or \.txt for each sample are expected"),
    ],
)
def test_a_tar_of_something_else_is_one_line(tmp_path, files, told):
    with pytest.raises(UserError, match=told) as caught:
        read_samples(tar(tmp_path / "data.tar", files))
    assert "\n" not in str(caught.value)
    assert "data.tar" in str(caught.value)


def test_a_tar_that_is_compressed_cut_or_none_is_one_line(tmp_path, pictures):
    packed = tar(tmp_path / "packed.tar", {"a.png": png(), "a.txt": b"x"}, "w:gz")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(pictures.read_bytes()[:600])
    none = tmp_path / "none.tar"
    none.write_bytes(b"x" * 2000)
    for path in (packed, cut, none):
        with pytest.raises(UserError, match=r"is no tar file, compressed, or damaged \(.*\); expected a plain .tar"):
            read_samples(path)


def test_links_and_folders_in_a_tar_are_no_files(tmp_path):
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"m{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert list(members(path)) == []
    with pytest.raises(FileNotFoundError):
        read_member(path, "m2.png")
