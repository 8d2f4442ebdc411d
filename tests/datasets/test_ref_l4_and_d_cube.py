"""Ref-L4 and D-cube, in their files' own forms."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lab.base.errors import UserError
from lab.datasets import read_jsonl, rle
from lab.datasets.__main__ import main
from lab.datasets.d_cube import read_d_cube
from lab.datasets.ref_l4 import read_ref_l4
from lab.datasets.sample import read_truth
from lab.datasets.skipped import Skipped

SIZE = (60, 40)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(path)


# Ref-L4


def row(number: int, **changes) -> dict:
    return {
        "id": f"{number:06}", "caption": "the red chair, left of the table", "bbox": [3.5, 4.0, 20.0, 10.25],
        "bbox_area": 205.0, "bbox_id": "b", "ori_category_id": "o365_25", "image_id": "i", "height": 40, "width": 60,
        "file_name": "images/a.jpg", "is_rewrite": False, "split": "val",
    } | changes  # fmt: skip


def ref_l4(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "ref-l4-val.parquet")
    picture(folder / "unpacked/images/a.jpg")
    return folder


def test_ref_l4_gives_a_sample_for_each_row(tmp_path):
    folder = ref_l4(tmp_path / "set", [row(0), row(1, caption="a lamp")])
    first, second = read_ref_l4(folder, folder / "unpacked", split="val")
    assert (first.id, first.query, second.query) == ("000000", "the red chair, left of the table", "a lamp")
    assert first.box_xyxy == (3.5, 4.0, 23.5, 14.25)
    assert (first.split, first.image_size, first.extra["ori_category_id"]) == ("val", SIZE, "o365_25")


def test_rows_of_no_use_are_listed_and_the_rest_goes_on(tmp_path):
    wrong = [row(1, caption=" "), row(2, bbox=[50.0, 4.0, 20.0, 10.0]), row(3, width=61), row(4, file_name="b.jpg")]
    folder, skipped = ref_l4(tmp_path / "set", [row(0), *wrong]), Skipped()
    assert [one.id for one in read_ref_l4(folder, folder / "unpacked", split="val", skip=skipped)] == ["000000"]
    assert [one["kind"] for one in skipped.rows] == [
        "no expression", "malformed", "no usable picture", "no usable picture",
    ]  # fmt: skip


def test_a_split_that_is_not_there_and_another_table_are_told(tmp_path):
    folder = ref_l4(tmp_path / "set", [{"id": "a"}])
    with pytest.raises(UserError, match="lacks the columns caption"):
        list(read_ref_l4(folder, tmp_path, split="val"))
    with pytest.raises(UserError, match=r"ref-l4-test\.parquet: no such file"):
        list(read_ref_l4(folder, tmp_path, split="test"))


# D-cube

BOX = np.zeros((40, 60), bool)
BOX[5:15, 10:30] = True
OTHER = np.zeros((40, 60), bool)
OTHER[20:30, 40:50] = True


def packed(mask: np.ndarray) -> dict:
    found = rle.encode(mask)
    counts = found["counts"]
    return {"size": found["size"], "counts": counts.encode() if isinstance(counts, str) else counts}


def annotation(number: int, sentences: list[int], *masks: np.ndarray) -> dict:
    y, x = np.nonzero(np.logical_or.reduce(masks))
    box = np.array([[x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]])
    return {
        "id": number, "sent_id": sentences, "segmentation": [packed(mask) for mask in masks], "bbox": box,
        "area": np.array([1]), "iscrowd": 0, "image_id": 0, "group_id": 0,
    }  # fmt: skip


TABLES = {
    "images": {0: {"id": 0, "file_name": "g/0.jpg", "width": 60, "height": 40, "anno_id": [1, 2], "group_id": 0}},
    "annotations": {1: annotation(1, [1, 2], BOX), 2: annotation(2, [2, 4], BOX, OTHER)},
    "sentences": {
        number: {"id": number, "raw_sent": text, "is_negative": negative}
        for number, text, negative in (
            (1, "a dog led by a rope", False), (2, "dog", False), (3, "a cat", False),
            (4, "a dog without a leash", True), (5, "of another group", False),
        )
    },
    "groups": {0: {"id": 0, "inner_sent_id": [1, 2, 3, 4]}},
}  # fmt: skip


def d_cube(folder: Path, tables: dict) -> Path:
    folder.mkdir()
    for name, table in tables.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(table))
    picture(folder / "pictures/g/0.jpg")
    return folder


def test_d_cube_asks_a_picture_the_sentences_of_its_group(tmp_path):
    folder, skipped = d_cube(tmp_path / "set", TABLES), Skipped()
    samples = {one.id: one for one in read_d_cube(folder, folder / "pictures", split="full", skip=skipped)}
    assert list(samples) == ["0_1", "0_3", "0_4"]
    assert samples["0_1"].box_xyxy == (10, 5, 30, 15)
    assert (read_truth(samples["0_1"]).mask == BOX).all()
    assert not samples["0_3"].present
    assert (read_truth(samples["0_4"]).mask == (BOX | OTHER)).all()  # one thing in two parts
    assert [samples[name].split for name in samples] == ["pres", "pres", "abs"]
    assert [one["kind"] for one in skipped.rows] == ["several targets"]


def test_d_cube_becomes_a_data_file(tmp_path, capsys):
    folder, out = d_cube(tmp_path / "set", TABLES), tmp_path / "out.jsonl"
    main(["convert", "d_cube", str(folder), "--images", str(folder / "pictures"), "--split", "abs", "--out", str(out)])
    assert [one.id for one in read_jsonl(out)] == ["0_4"]
    main(["convert", "d_cube", str(folder), "--images", str(folder / "pictures"), "--out", str(out)])
    assert [json.loads(line).get("present", True) for line in out.read_text().splitlines()] == [True, False, True]
    assert "several targets" in capsys.readouterr().out


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({0: Evil()}), "refused, it asks for"),
        (b"\x80\x04}", "truncated or damaged"),
        (pickle.dumps([1]), "expected a table of dicts"),
    ],
)
def test_a_file_that_is_none_of_d_cube_is_told_and_never_executed(tmp_path, content, message, capsys):
    folder = d_cube(tmp_path / "set", TABLES)
    (folder / "groups.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_d_cube(folder, folder / "pictures", split="full"))
    assert capsys.readouterr().out == ""
    (folder / "groups.pkl").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        list(read_d_cube(folder, folder / "pictures", split="full"))
