"""Data files as they come: odd encodings, absurd numbers and paths. Each is read rightly or told in one line."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.base.errors import UserError
from lab.base.files import check_id
from lab.base.images import header_size, open_image
from lab.base.paths import PROJECT, find
from lab.datasets import Sample, read_jsonl, read_samples, write_jsonl
from lab.datasets.texts import decode_any

ROW = {"id": "a", "prompt": "the cat", "image_path": "cat.png"}


def written(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "data.jsonl"
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_samples(path)
    told = str(error.value)
    assert "\n" not in told
    assert len(told) < 400
    return told


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_kind_of_unicode_is_read(tmp_path, encoding):
    line = json.dumps({**ROW, "prompt": "größer 猫"}, ensure_ascii=False)
    path = written(tmp_path, line, line.replace('"a"', '"b"'), encoding=encoding)
    assert [(sample.id, sample.query) for sample in read_samples(path)] == [("a", "größer 猫"), ("b", "größer 猫")]


def test_another_encoding_is_told_by_line(tmp_path):
    path = written(tmp_path, json.dumps(ROW), '{"prompt": "größer"}', encoding="cp1252")
    assert "data.jsonl line 2: byte" in refused(path)
    assert "is not UTF-8; save the file as UTF-8" in refused(path)


@pytest.mark.parametrize(("pack", "unpack"), [(gzip, "gunzip"), (bz2, "bunzip2"), (lzma, "unxz")])
@pytest.mark.parametrize("name", ["data.jsonl", "dat*.jsonl"])
def test_a_compressed_file_is_told_how_to_be_unpacked(tmp_path, pack, unpack, name):
    (tmp_path / "data.jsonl").write_bytes(pack.compress(json.dumps(ROW).encode()))
    assert refused(tmp_path / name).endswith(f"data.jsonl is compressed; expected it unpacked: {unpack} data.jsonl")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_of_all_samples_is_told_how_to_become_lines(tmp_path, indent):
    told = refused(written(tmp_path, json.dumps([ROW, {**ROW, "id": "b"}], indent=indent)))
    assert "data.jsonl line 1: a JSON object is expected on each line, not one list of all" in told
    assert "jq -c '.[]' data.jsonl > lines.jsonl" in told


EXPECTED = "a JSON object is expected on each line, with id, prompt and image_path"


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        (
            "d.jsonl",
            [json.dumps(ROW), '{"id": 1 "prompt"}'],
            f"d.jsonl line 2: not JSON (Expecting ',' delimiter at column 10); {EXPECTED}",
        ),
        (
            "d.csv",
            ["id,prompt", "a,b"],
            f"d.csv line 1: not JSON (Expecting value at column 1); {EXPECTED}; write each row as an object of JSON",
        ),
        ("d.json", ["{", "}"], f"{EXPECTED}; python -m lab.datasets convert makes such a file of a published data set"),
        ("d.p", ["\x80"], "d.p: a JSONL, Parquet or tar file is expected; python -m lab.datasets convert makes"),
    ],
)
def test_what_is_no_lines_of_json_says_what_is_expected_and_what_makes_it(tmp_path, name, lines, told):
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    assert told in refused(tmp_path / name)


def line_with(**texts: str) -> str:
    """The row with these keys, whose values are JSON."""
    return (
        "{"
        + ", ".join(f'"{key}": {text}' for key, text in ({k: json.dumps(v) for k, v in ROW.items()} | texts).items())
        + "}"
    )


HUGE = "9" * 400
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (line_with(prompt='"half \\ud83d"'), "half a character, a lone surrogate"),
        (line_with(image_path='"\\uDC00.png"'), "half a character, a lone surrogate"),
        (line_with(split='"\\ud800"'), "half a character, a lone surrogate"),
        (line_with(bbox=f"[8, 10, {HUGE}, 4]"), "bbox .* is malformed"),
        (line_with(bbox=f"[8, 10, -{HUGE}, 4.5]"), "bbox .* is malformed"),
        (line_with(bbox="[8, 10, 1e400, 4]"), "is malformed; expected four numbers"),
        (line_with(bbox=f"[8, 10, {'9' * 5000}, 4]"), "a number of thousands of digits"),
        (line_with(bbox="[8, NaN, 32, 4]"), "is malformed; expected four numbers"),
        (line_with(id=HUGE), "id '999.*is 400 bytes long"),
        (line_with(id="NaN"), "id must be a text or a whole number, not nan"),
        (line_with(image_size=f"[64, {HUGE}]"), "image_size .* is malformed"),
        (line_with(image_size="[NaN, 48]"), "image_size .* is malformed"),
        (line_with(segmentation=f"[[1, 2, 3, 4, 5, {HUGE}]]"), "polygon .* is malformed"),
        (line_with(segmentation=f'{{"size": [{HUGE}, 2], "counts": "a"}}'), "RLE with keys"),
        (line_with(mood=DEEP), "lists and objects in one another"),
        (line_with(id="[" * 900 + "]" * 900), "lists and objects in one another"),
        (line_with(prompt='{"a":' * 900 + "1" + "}" * 900), "lists and objects in one another"),
        (DEEP, "lists and objects in one another"),
        ("[1, 2]", "a JSON object is expected"),
    ],
)
def test_a_line_that_nothing_can_be_made_of_is_told_by_number(tmp_path, line, told):
    path = written(tmp_path, json.dumps({**ROW, "id": "first"}), line)
    message = refused(path)
    assert "data.jsonl line 2: " in message
    with pytest.raises(UserError, match=told):
        read_jsonl(path)


def test_whole_characters_that_are_written_as_surrogates_are_read(tmp_path):
    path = written(tmp_path, line_with(prompt='"\\ud83d\\ude00 \\\\ud800"'))
    assert read_jsonl(path)[0].query == "😀 \\ud800"


def test_ids_of_numpy_are_ids_and_are_written_as_json_has_them(tmp_path):
    assert check_id(np.int64(7)) == "7"
    with pytest.raises(UserError, match="is empty"):
        check_id(np.bool_(True))
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    extra = {"ref_id": np.int64(7), "scores": np.array([0.5, 1]), "area": np.float32(2)}
    write_jsonl(tmp_path / "out.jsonl", [Sample("7", "the cat", tmp_path / "cat.png", extra=extra)])
    assert dict(read_jsonl(tmp_path / "out.jsonl")[0].extra) == {"ref_id": 7, "scores": [0.5, 1], "area": 2}


PATHS = [
    ("data:image/png;base64," + "iVBORw0KGgo" * 1000, "longer than the system allows"),
    ("data:image/png;base64,iVBORw0KGgo", "it is a data URL; save the picture as a file"),
    ("iVBORw0KGgo" * 100, "longer than the system allows; expected a path, not the picture itself"),
    ("a\0b.png", "its path holds a NUL byte"),
    ("~nobody_of_that_name/cat.png", "no such user"),
    ("data.jsonl/cat.png", "a part of its path is a file, not a folder"),
    (".", "is a folder, not an image"),
]


@pytest.mark.parametrize(("name", "told"), PATHS)
@pytest.mark.parametrize("read", [open_image, header_size])
def test_a_path_that_the_system_refuses_is_wrong_for_its_own_sample_only(tmp_path, name, told, read):
    path = written(tmp_path, json.dumps(ROW), json.dumps({**ROW, "id": "b", "image_path": name, "mask_path": name}))
    _, sample = read_jsonl(path)
    with pytest.raises(UserError, match=told) as error:
        read(sample.image_file)
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


def test_a_folder_without_permission_is_told(tmp_path, monkeypatch):
    path = written(tmp_path, json.dumps(ROW))

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    monkeypatch.setattr("lab.datasets.stream.open_regular", denied)
    assert find("examples") == Path("examples")
    assert refused(path) == f"cannot read {path} (Permission denied); expected a JSONL, Parquet or tar file"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (".", r"cannot read .* \(Is a directory\)"),
        ("data.jsonl/x", r"cannot read .* \(Not a directory\)"),
        ("x" * 300, r"cannot read x+\.\.\.x+ \(File name too long\)"),
        ("a\0b", r"cannot read a\\x00b"),
        ("~nobody_of_that_name/x", "no data file .*nobody.*: set data.data_file"),
    ],
)
def test_a_data_file_that_cannot_be_read_is_told(tmp_path, monkeypatch, name, told):
    written(tmp_path, json.dumps(ROW))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        read_samples(find(name))


def test_the_projects_own_files_are_still_found(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find("examples/README.md") == PROJECT / "examples/README.md"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("图中可以坐的东西", "gbk"),
        ("the 红色的 cup", "gb18030"),
        ("镕喆 可以坐的东西", "gbk"),  # the first two are not in GB2312
        ("the “café”", "cp1252"),
        ("naïve über", "cp1252"),
        ("l\u2019été à la plage", "cp1252"),
        ("größer 猫", "utf-8"),
        ("größer 猫", "utf-8-sig"),
        ("größer 猫", "utf-16"),
    ],
)
def test_annotations_are_read_in_the_encodings_that_people_save_them_in(text, encoding):
    assert decode_any(json.dumps({"text": text}, ensure_ascii=False).encode(encoding)) == json.dumps(
        {"text": text}, ensure_ascii=False
    )


def test_bytes_of_no_encoding_are_told():
    with pytest.raises(UserError, match="neither UTF-8 nor UTF-16, GB18030 or Windows-1252; save it as UTF-8"):
        decode_any(b'{"text": "\x81\x20\x8d"}')
