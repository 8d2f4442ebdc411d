"""Data sets: every format as its authors write it becomes the same samples; what is wrong is told in one line."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools import mask as coco

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.datasets import Sample, need_truth, read_jsonl, read_samples, read_truth, rle, write_jsonl
from lab.datasets.__main__ import main
from lab.datasets.hub import read_hub
from lab.datasets.reasonseg import read_reasonseg
from lab.datasets.refcoco import read_refcoco
from lab.datasets.sample import with_period
from lab.datasets.skipped import Skipped

WIDTH, HEIGHT = 64, 48
BOX = (8.0, 10.0, 40.0, 30.0)
POLYGON = [8, 10, 40, 10, 40, 30, 8, 30]
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[10:30, 8:40] = True


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def row(sample_id: str = "a", **keys: object) -> dict:
    return {"id": sample_id, "prompt": "the cat", "image_path": "cat.png", **keys}


def jsonl(folder: Path, *rows: object) -> Path:
    picture(folder / "cat.png")
    path = folder / "data.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# our own files


def runs(mask: np.ndarray) -> dict:
    return {"size": list(mask.shape), "counts": rle.text_to_counts(rle.encode(mask)["counts"]).tolist()}


@pytest.mark.parametrize(
    "mask", [{"segmentation": form} for form in (rle.encode(MASK), runs(MASK), [POLYGON])] + [{"mask_path": "mask.png"}]
)
@pytest.mark.parametrize("box", [{"bbox": [8, 10, 32, 20]}, {"bbox": [8, 10, 40, 30], "bbox_format": "xyxy"}, {}])
def test_every_form_of_box_and_mask_is_the_same_truth(tmp_path, box, mask):
    Image.fromarray(MASK.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    (sample,) = read_jsonl(jsonl(tmp_path, row(**box, **mask)))
    truth = read_truth(sample)
    assert truth.box_xyxy == BOX
    assert truth.area == 640
    assert_array_equal(truth.mask, MASK)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_mask_images_of_every_kind_count_what_is_not_zero(tmp_path, mode):
    values = Image.fromarray(MASK.astype(np.uint8))  # 0 and 1
    image = Image.fromarray(MASK.astype(np.uint16)) if mode == "I;16" else values.point(lambda v: v * 255).convert(mode)
    if mode == "P":
        image = values.copy()
        image.putpalette([0, 0, 0, 9, 9, 9])
    image.save(tmp_path / "mask.png")
    (sample,) = read_jsonl(jsonl(tmp_path, row(mask_path="mask.png")))
    assert_array_equal(read_truth(sample).mask, MASK)


def test_a_box_alone_is_a_truth_without_mask(tmp_path):
    (sample,) = read_jsonl(jsonl(tmp_path, row(bbox=[8.5, 10, 20.25, 4], split="val")))
    truth = read_truth(sample)
    assert (truth.box_xyxy, truth.mask, truth.area, truth.split) == ((8.5, 10, 28.75, 14), None, 81, "val")


def test_writing_and_reading_keeps_everything(tmp_path, monkeypatch):
    image, extra = (
        picture(tmp_path / "images" / "cat.png"),
        {"ref_id": 7, "category": "cat", "unsaid": [1, {"a": None}]},
    )
    bare = Sample("a", "the cat", image, BOX, [POLYGON], rle.encode(~MASK), "val", (WIDTH, HEIGHT), extra)
    samples = [
        bare,
        replace(bare, id="b", mask_source=rle.encode(MASK)),
        replace(bare, id="c", mask_source=image, ignore_source=None),
    ]
    samples += [Sample("d", "größer als\u2028“this”", image)]
    (tmp_path / "sub").mkdir()
    write_jsonl(tmp_path / "sub" / "data.jsonl", samples)
    monkeypatch.chdir(tmp_path / "sub")
    again = read_jsonl(tmp_path / "sub" / "data.jsonl")
    for written, read in zip(samples, again, strict=True):
        assert read.image_file.samefile(image)
        source = read.mask_source.resolve() if isinstance(read.mask_source, Path) else read.mask_source
        assert replace(read, image_file=image, line=None, mask_source=source) == written
    assert [sample.line for sample in again] == [1, 2, 3, 4]


def test_writing_refuses_an_id_twice_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="id 'a' stands for two samples"):
        write_jsonl(tmp_path / "data.jsonl", [Sample("a", "x", tmp_path), Sample("a", "y", tmp_path)])
    assert not (tmp_path / "data.jsonl").exists()


def test_paths_in_a_written_file_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    picture(tmp_path / "pictures" / "cat.png")
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("out/data.jsonl"), [Sample("a", "the cat", Path("pictures/cat.png"), BOX)])
    monkeypatch.chdir("/")
    (sample,) = read_jsonl(tmp_path / "out" / "data.jsonl")
    assert sample.image_file.samefile(tmp_path / "pictures" / "cat.png")


def test_a_line_ends_only_at_a_line_end_and_a_byte_order_mark_is_no_text(tmp_path):
    text = json.dumps(row(prompt="one\u2028two\u0085three"), ensure_ascii=False)
    path = jsonl(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n" + json.dumps(row("b")).encode())
    samples = read_jsonl(path)
    assert [sample.query for sample in samples] == ["one\u2028two\u0085three", "the cat"]
    assert [sample.line for sample in samples] == [1, 3]


def test_null_is_as_good_as_absent(tmp_path):
    (sample,) = read_jsonl(
        jsonl(tmp_path, row(bbox=None, mask_path=None, segmentation=None, ignore=None, split=None, category=None))
    )
    assert (sample.box_xyxy, sample.mask_source, sample.split, dict(sample.extra)) == (None, None, None, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat", "the cat."),
        ("the cat.", "the cat."),
        ("the cat ", "the cat."),
        ("which cat?", "which cat?"),
        ("that one!", "that one!"),
    ],
)
def test_a_final_period_is_added_where_none_is(tmp_path, text, expected):
    assert with_period(text) == expected
    assert read_jsonl(jsonl(tmp_path, row(prompt=text)), final_period=True)[0].query == expected
    assert read_jsonl(jsonl(tmp_path, row(prompt=text)))[0].query == text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bbox": [8, 10, 0, 20]}, "box is 0 wide and 20 high; expected more than 0"),
        ({"bbox": [8, 10, 32, -20]}, "box is 32 wide and -20 high"),
        ({"bbox": [8, 10, 4, 4], "bbox_format": "xyxy"}, "box is -4 wide and -6 high"),
        ({"bbox": [8, 10, 4, 4], "bbox_format": "cxcywh"}, "bbox_format 'cxcywh': choose from xywh, xyxy"),
        ({"bbox": [8, 10, 4]}, r"bbox \[8, 10, 4\] is malformed; expected \[x, y, width, height\]"),
        ({"bbox": "8 10 4 4"}, "bbox '8 10 4 4' is malformed"),
        ({"bbox": [8, 10, float("nan"), 4]}, r"box \[8, 10, nan, 14\] is malformed; expected four numbers"),
        ({"bbox": [8, 10, float("inf"), 4]}, ".* is malformed; expected four numbers"),
        ({"bbox": [8, "10", 4, 4]}, "bbox .* is malformed"),
        ({"bbox": [-5, 10, 20, 4]}, r"box from \(-5, 10\) to \(15, 14\) leaves the image"),
        (
            {"bbox": [8, 10, 99, 4], "image_size": [64, 48]},
            r"box from \(8, 10\) to \(107, 14\) leaves the image of 64 x 48 pixels",
        ),
        ({"image_size": [64]}, r"image_size \[64\] is malformed; expected \[width, height\]"),
        ({"image_size": [64, 0]}, "image_size"),
        ({"mask_path": "mask.png", "segmentation": [POLYGON]}, "mask_path and segmentation are two masks; give one"),
        ({"mask_path": 3}, "mask_path must be a path"),
        ({"segmentation": []}, r"segmentation \[\] is malformed; expected polygons"),
        ({"segmentation": POLYGON}, "polygon 8 is malformed; expected"),
        ({"segmentation": [[1, 2, 3, 4]]}, r"polygon \[1, 2, 3, 4\] is malformed; expected .* three points or more"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "polygon .* is malformed"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e12]]}, "polygon .* is malformed"),
        ({"segmentation": [[[1, 2], [3, 4], [5]]]}, "polygon .* is malformed"),
        ({"segmentation": {"counts": "abc"}}, r"RLE with keys \['counts'\]; expected {\"size\": \[height, width\]"),
        (
            {"segmentation": rle.encode(MASK.T), "image_size": [64, 48]},
            "mask is 48 x 64, its image 64 x 48; expected the same size",
        ),
        ({"ignore": "everything"}, "segmentation everything is malformed"),
    ],
)
def test_an_impossible_truth_is_refused_by_line(tmp_path, keys, message):
    with pytest.raises(UserError, match=rf"data\.jsonl line 2: {message}") as error:
        read_jsonl(jsonl(tmp_path, row(), row("b", **keys)))
    one_line(error)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bbox": [8, 10, 57.5, 4]}, r"box from \(8, 10\) to \(65.5, 14\) leaves the image of 64 x 48 pixels"),
        ({"bbox": [8, 10, 32, 60]}, "leaves the image of 64 x 48 pixels"),
        ({"segmentation": rle.encode(MASK.T)}, "mask is 48 x 64, its image 64 x 48; expected the same size"),
        ({"mask_path": "small.png"}, "mask is 32 x 48, its image 64 x 48"),
        ({"bbox": [8, 10, 32, 20], "ignore": rle.encode(MASK[1:])}, "mask is 64 x 47, its image 64 x 48"),
        ({"segmentation": rle.encode(MASK & False)}, "its mask is empty"),
        ({"segmentation": {"size": [48, 64], "counts": [3, 4]}}, "RLE counts add up to 7"),
        ({"mask_path": "none.png"}, "No such image: .*none.png"),
        ({"mask_path": "data.jsonl"}, "not an image"),
        ({}, "no ground truth; give it bbox, mask_path or segmentation"),
    ],
)
def test_a_truth_that_does_not_fit_its_image_is_refused_by_id(tmp_path, keys, message):
    picture(tmp_path / "small.png", (32, 48))
    (sample,) = read_jsonl(jsonl(tmp_path, row("b", **keys)))
    with pytest.raises(UserError, match=f"^sample b: .*{message}") as error:
        read_truth(sample)
    one_line(error)


def test_a_box_may_reach_a_rounding_beyond_its_image(tmp_path):
    (sample,) = read_jsonl(jsonl(tmp_path, row(bbox=[-0.5, 0, 65, 48.9])))
    assert read_truth(sample).box_xyxy == (-0.5, 0, 64.5, 48.9)


def test_a_photograph_lying_on_its_side_is_measured_upright(tmp_path):
    path = jsonl(tmp_path, {**row(bbox=[1, 2, 40, 60]), "image_path": "turned.jpg"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_truth(read_jsonl(path)[0]).box_xyxy == (1, 2, 41, 62)


def test_a_known_size_spares_opening_the_image(tmp_path):
    sample = Sample("a", "x", tmp_path / "none.png", BOX)
    assert read_truth(sample, (WIDTH, HEIGHT)).box_xyxy == BOX
    with pytest.raises(UserError, match="No such image"):
        read_truth(sample)


def test_data_without_truth_is_told_which_keys_it_needs(tmp_path):
    samples = read_jsonl(
        jsonl(tmp_path, row("a", bbox=[1, 2, 3, 4]), row("b"), row("c"), row("d", segmentation=[POLYGON]))
    )
    with pytest.raises(
        UserError,
        match=r"x\.jsonl: no ground-truth box for 2 of 4 samples \(the first: b\); give each line bbox, mask_path or",
    ):
        need_truth(samples, "x.jsonl")
    with pytest.raises(
        UserError,
        match=r"no ground-truth mask for 3 of 4 samples \(the first: a\); give each line mask_path or segmentation",
    ):
        need_truth(samples, "x.jsonl", mask=True)
    need_truth([samples[0], samples[3]], "x.jsonl")


# RefCOCO as distributed


class Python2(pickle._Pickler):
    """Pickles as Python 2 did, whose texts were bytes."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, text: str) -> None:
        data = text.encode()
        self.write(b"U" + bytes([len(data)]) + data)

    dispatch[str] = save_str


def sentence(sent_id: int, raw: str) -> dict:
    sent = raw.lower().rstrip(".")
    return {"sent_id": sent_id, "raw": raw, "sent": sent, "tokens": sent.split()}


def ref(ref_id: int, ann_id: int, image_id: int, split: str, *sentences: dict) -> dict:
    name = f"COCO_train2014_{image_id:012d}_{ref_id}.jpg"
    ids = [one["sent_id"] for one in sentences]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 51,
        "split": split,
        "file_name": name,
    } | {
        "sent_ids": ids,
        "sentences": list(sentences),
    }


REFS = [
    ref(
        77,
        1537681,
        580957,
        "val",
        sentence(222, "bowl behind the others"),
        sentence(223, "White dish in the top right corner."),
    ),
    ref(78, 710706, 580957, "testA", sentence(226, "café table")),
    ref(79, 900, 581857, "val", sentence(230, "crowd")),
]
TRIANGLE, PART = [[468.3 / 10, 2.83, 47.1, 46, 64, 10.6]], [3, 3, 9, 3, 9, 9]
ANNOTATIONS = [
    {
        "id": 1537681,
        "image_id": 580957,
        "bbox": [46.83, 0.91, 17.17, 11.6],
        "segmentation": [*TRIANGLE, PART],
        "area": 99.5,
        "iscrowd": 0,
    },
    {"id": 710706, "image_id": 580957, "bbox": [8, 10, 32, 20], "segmentation": [POLYGON], "area": 640.0, "iscrowd": 0},
    {"id": 900, "image_id": 581857, "bbox": [8, 10, 32, 20], "segmentation": runs(MASK), "area": 640.0, "iscrowd": 1},
]


@pytest.fixture
def refcoco(tmp_path) -> Path:
    """A folder `refcoco` beside the folder `train2014`."""
    folder = tmp_path / "refcoco"
    folder.mkdir()
    for name in ("unc", "google"):
        with (folder / f"refs({name}).p").open("wb") as file:
            Python2(file, 2).dump(REFS)
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "width": WIDTH, "height": HEIGHT}
        for i in (580957, 581857)
    ]
    content = {"images": images, "annotations": [one | {"category_id": 51} for one in ANNOTATIONS]}
    (folder / "instances.json").write_text(json.dumps(content | {"categories": [{"id": 51, "name": "bowl"}]}))
    for image in images:
        picture(tmp_path / "train2014" / image["file_name"])
    return folder


def test_refcoco_is_one_sample_per_expression(refcoco, tmp_path):
    samples = list(read_refcoco(refcoco, tmp_path / "train2014", split="val"))
    assert [(sample.id, sample.query) for sample in samples] == [
        ("77_222", "bowl behind the others"),
        ("77_223", "white dish in the top right corner"),
        ("79_230", "crowd"),
    ]
    assert samples[0].box_xyxy == pytest.approx((46.83, 0.91, 64.0, 12.51))
    assert samples[0].image_file == tmp_path / "train2014" / "COCO_train2014_000000580957.jpg"
    assert (samples[0].split, samples[0].image_size) == ("val", (WIDTH, HEIGHT))
    assert dict(samples[0].extra) == {"ref_id": 77, "ann_id": 1537681, "image_id": 580957, "category": "bowl"}


def test_refcoco_masks_are_those_of_pycocotools(refcoco, tmp_path):
    truths = [read_truth(sample) for sample in read_refcoco(refcoco, tmp_path / "train2014", split="val")]
    parts = coco.merge(coco.frPyObjects([*TRIANGLE, PART], HEIGHT, WIDTH))
    assert_array_equal(truths[0].mask, coco.decode(parts))
    assert truths[0].mask[4, 5]  # of the second part
    assert_array_equal(truths[2].mask, MASK)


def test_refcoco_gives_the_typed_text_and_reads_what_python_2_called_text(refcoco, tmp_path):
    (sample,) = read_refcoco(refcoco, tmp_path / "train2014", split="testA", split_by="google", text="raw")
    assert (sample.id, sample.query) == ("78_226", "café table")


def test_refcoco_files_of_python_3_are_read_too(refcoco, tmp_path):
    (refcoco / "refs(umd).p").write_bytes(pickle.dumps(REFS))
    assert len(list(read_refcoco(refcoco, tmp_path / "train2014", split="val", split_by="umd"))) == 3


class Calls:
    """Pickles into a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_a_refs_file_that_would_run_something_is_refused_by_name(refcoco, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps([{**REFS[0], "sentences": Calls(os.system, "touch executed")}])
    (refcoco / "refs(unc).p").write_bytes(data)
    with pytest.raises(
        UserError, match=r"refs\(unc\)\.p: refused, it asks for \w+\.system; a refs file holds only lists, dicts, texts"
    ) as error:
        list(read_refcoco(refcoco, tmp_path / "train2014", split="val"))
    one_line(error)
    assert not Path("executed").exists()
    pickle.loads(data)
    assert Path("executed").exists()


def changed_refs(**keys: object):
    def change(folder: Path) -> None:
        (folder / "refs(unc).p").write_bytes(
            pickle.dumps([{key: v for key, v in (REFS[0] | keys).items() if v is not None}])
        )

    return change


def changed_instances(change_content):
    def change(folder: Path) -> None:
        content = json.loads((folder / "instances.json").read_text())
        change_content(content)
        (folder / "instances.json").write_text(json.dumps(content))

    return change


def set_annotation(**keys: object):
    return changed_instances(lambda content: content["annotations"][0].update(keys))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "refs(unc).p").unlink(),
            r"no .*refs\(unc\)\.p; .*refcoco has refs\(google\)\.p: choose split_by",
        ),
        (
            lambda folder: (folder / "refs(unc).p").write_bytes(pickle.dumps(REFS)[:-40]),
            r"refs\(unc\)\.p: truncated or not a refs file",
        ),
        (
            lambda folder: (folder / "refs(unc).p").write_bytes(pickle.dumps({"refs": REFS})),
            "not a refs file; expected a list of refs",
        ),
        (changed_refs(split="train"), r"has no split 'val'; choose from train \(1 refs\)"),
        (changed_refs(ann_id=5), "ref 77: 5 is not among its keys or in instances.json"),
        (changed_refs(ann_id=None), "ref 77: 'ann_id' is not among its keys"),
        (changed_refs(sentences=None), "ref 77: 'sentences' is not among its keys"),
        (changed_refs(ref_id="../77"), r"ref \.\./77: id '\.\./77_222' cannot be a file name"),
        (lambda folder: (folder / "instances.json").unlink(), "instances.json cannot be read"),
        (lambda folder: (folder / "instances.json").write_text("[]"), "instances.json: not COCO annotations"),
        (
            set_annotation(bbox=[46.83, 0.91, 30, 11.6]),
            r"ref 77: box from \(46.83, 0.91\) to \(76.83, 12.51\) leaves the image of 64 x 48",
        ),
        (set_annotation(bbox=[46.83, 0.91, -1, 11.6]), "ref 77: box is -1 wide"),
        (set_annotation(bbox=[1, 2, 3]), r"ref 77: bbox \[1, 2, 3\] is malformed; expected \[x, y, width, height\]"),
        (set_annotation(segmentation=rle.encode(MASK.T)), "ref 77: mask is 48 x 64, its image 64 x 48"),
        (
            lambda folder: (folder.parent / "train2014/COCO_train2014_000000581857.jpg").unlink(),
            "lacks 1 of 2 images, .*581857.jpg; COCO's train",
        ),
        (lambda folder: (folder.parent / "train2014").rename(folder.parent / "moved"), "no image folder .*train2014"),
    ],
)
def test_refcoco_that_is_incomplete_or_wrong_is_told_where(refcoco, tmp_path, change, message):
    change(refcoco)
    with pytest.raises(UserError, match=message) as error:
        list(read_refcoco(refcoco, tmp_path / "train2014", split="val"))
    one_line(error)


def refs_of(folder: Path, refs: list[dict], name: str = "refs(unc).p") -> None:
    data = json.dumps(refs).encode() if name.endswith(".json") else pickle.dumps(refs)
    (folder / name).write_bytes(data)


@pytest.mark.parametrize("text", [None, "", "  \n", 3, ["the cat"], "half \ud83d"])
def test_an_expression_that_says_nothing_is_left_out_and_listed(refcoco, tmp_path, text):
    refs_of(
        refcoco, [ref(77, 1537681, 580957, "val", {"sent_id": 1, "sent": text}, {"sent_id": 2, "sent": "the dish"})]
    )
    skipped = Skipped()
    samples = list(read_refcoco(refcoco, tmp_path / "train2014", split="val", skip=skipped))
    assert [(sample.id, sample.query) for sample in samples] == [("77_2", "the dish")]
    assert skipped.counts() == [("no expression", 1)]
    assert "refs(unc).p: ref 77 sentence 1: expression " in skipped.first()
    with pytest.raises(UserError, match="ref 77 sentence 1: expression"):
        list(read_refcoco(refcoco, tmp_path / "train2014", split="val"))


ODD_ANNOTATIONS = {
    "an RLE in a list": ({"segmentation": [rle.encode(MASK)]}, "malformed", "polygon .* is malformed"),
    "no segmentation": ({"segmentation": []}, "malformed", r"segmentation \[\] is malformed"),
    "a polygon of two points": ({"segmentation": [[1, 2, 3, 4]]}, "malformed", "three points or more"),
    "a polygon outside": ({"segmentation": [[90, 90, 95, 90, 95, 95]]}, "malformed", "its mask is empty"),
    "an RLE of another size": ({"segmentation": rle.encode(MASK.T)}, "malformed", "mask is 48 x 64"),
    "a damaged RLE": ({"segmentation": {"size": [48, 64], "counts": [3, 4]}}, "malformed", "RLE counts add up to 7"),
    "a box without area": ({"bbox": [1, 2, 0, 4]}, "malformed", "box is 0 wide"),
    "a box outside": ({"bbox": [60, 2, 30, 4]}, "malformed", "leaves the image of 64 x 48"),
    "no box": ({"bbox": None}, "malformed", "bbox None is malformed"),
}


@pytest.mark.parametrize(("keys", "kind", "why"), ODD_ANNOTATIONS.values(), ids=ODD_ANNOTATIONS)
def test_one_odd_annotation_does_not_end_a_conversion(refcoco, tmp_path, keys, kind, why):
    set_annotation(**keys)(refcoco)
    skipped = Skipped()
    samples = list(read_refcoco(refcoco, tmp_path / "train2014", split="val", skip=skipped))
    assert [sample.id for sample in samples] == ["79_230"]
    (one,) = skipped.rows
    assert one["where"] == f"{refcoco}/refs(unc).p: ref 77"
    assert one["kind"] == kind
    assert re.search(why, one["why"])


@pytest.mark.parametrize("name", ["refs(unc).p", "grefs(unc).json"])
def test_grefcocos_refs_about_nothing_have_no_target_and_those_about_several_are_left_out(refcoco, tmp_path, name):
    (refcoco / "refs(unc).p").unlink()
    said = {"sent_id": 1, "sent": "the dish"}
    targets = {1: [1537681], 2: [1537681, 710706], 3: [-1], 4: [], 5: 1537681}
    refs = [ref(ref_id, ids, 580957, "val", said) | {"no_target": ref_id == 3} for ref_id, ids in targets.items()]
    refs_of(refcoco, refs, name)
    skipped = Skipped()
    samples = list(read_refcoco(refcoco, tmp_path / "train2014", split="val", skip=skipped))
    found = [(sample.id, sample.extra["ann_id"], sample.present) for sample in samples]
    assert found == [("1_1", 1537681, True), ("3_1", None, False), ("4_1", None, False), ("5_1", 1537681, True)]
    assert all(sample.box_xyxy is None and sample.mask_source is None for sample in samples if not sample.present)
    assert skipped.counts() == [("several targets", 1)]
    write_jsonl(tmp_path / "grefs.jsonl", samples)
    assert [sample.present for sample in read_jsonl(tmp_path / "grefs.jsonl")] == [True, False, False, True]


@pytest.mark.parametrize(
    ("row", "why"),
    [({"present": "no"}, "expected true or false"), ({"present": False, "bbox": [1, 1, 2, 2]}, "present is false")],
)
def test_what_is_absent_has_no_truth(tmp_path, row, why):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "the cat", "image_path": "a.png", **row}))
    with pytest.raises(UserError, match=f"line 1: .*{why}"):
        read_jsonl(path)


def test_a_picture_of_another_size_than_the_annotated_one_is_left_out(refcoco, tmp_path):
    picture(tmp_path / "train2014" / "COCO_train2014_000000580957.jpg", (32, 24))
    skipped = Skipped()
    samples = list(read_refcoco(refcoco, tmp_path / "train2014", split="val", skip=skipped))
    assert [sample.id for sample in samples] == ["79_230"]
    assert skipped.counts() == [("no usable picture", 1)]
    assert "580957.jpg: image_size says 64 x 48 pixels, the image has 32 x 24" in skipped.first()


def test_instances_that_are_no_entries_are_nobodys(refcoco, tmp_path):
    changed_instances(lambda content: content["images"].extend([None, 3, {"id": [1]}]))(refcoco)
    refs_of(
        refcoco,
        [*REFS, ref(80, 900, 581857, "val", sentence(1, "x")) | {"image_id": [1]}, {"ref_id": 81, "split": "val"}],
    )
    skipped = Skipped()
    samples = list(read_refcoco(refcoco, tmp_path / "train2014", split="val", skip=skipped))
    assert len(samples) == 3
    assert len(skipped.rows) == 2


# RefCOCO of the hub


def jpeg(size: tuple[int, int] = (WIDTH, HEIGHT), kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (90, 90, 200)).save(stream, kind)
    return stream.getvalue()


JPEG = jpeg()
SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("answer", pa.list_(pa.string())),
        ("segmentation", pa.list_(pa.float32())),
        ("bbox", pa.list_(pa.float32())),
        ("iscrowd", pa.int8()),
        ("file_name", pa.string()),
    ]
)


def hub_row(number: int, **keys: object) -> dict:
    return {
        "question_id": str(number),
        "image": {"bytes": JPEG, "path": None},
        "question": "Please carefully observe the area circled in the image and come up with a caption for the area.",
        "answer": ["Dish in top right corner", "white pot"],
        "segmentation": [46.83, 2.83, 47.12, 46.01, 64, 10.6],
        "bbox": [46.83, 0.91, 17.17, 45.1],
        "iscrowd": 0,
        "file_name": f"COCO_train2014_000000580957_{number}.jpg",
        **keys,
    }


def hub(folder: Path, rows: list[dict], name: str = "data/testA-00000-of-00001.parquet") -> Path:
    path = folder / "RefCOCO" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return folder / "RefCOCO"


def test_the_hubs_rows_become_a_sample_per_expression_and_a_file_per_picture(tmp_path):
    folder = hub(
        tmp_path,
        [hub_row(0), hub_row(1, answer=["carrots"]), hub_row(2, file_name="COCO_train2014_000000000009_2.jpg")],
    )
    samples = list(read_hub(folder, tmp_path / "images", split="testA"))
    assert [(s.id, s.query) for s in samples] == [
        ("0_0", "Dish in top right corner"),
        ("0_1", "white pot"),
        ("1_0", "carrots"),
        ("2_0", "Dish in top right corner"),
        ("2_1", "white pot"),
    ]
    assert samples[0].box_xyxy == (46.83, 0.91, 46.83 + 17.17, 0.91 + 45.1)  # not as float32 has them
    assert samples[0].mask_source == [[46.83, 2.83, 47.12, 46.01, 64, 10.6]]
    assert (samples[0].split, samples[0].image_size, dict(samples[0].extra)) == (
        "testA",
        (WIDTH, HEIGHT),
        {"ann_id": "0"},
    )
    assert {path.name for path in (tmp_path / "images").iterdir()} == {
        "COCO_train2014_000000580957.jpg",
        "COCO_train2014_000000000009.jpg",
    }
    assert samples[0].image_file.read_bytes() == JPEG
    assert read_truth(samples[0]).mask.any()


def test_the_hubs_pictures_keep_their_format_and_a_row_without_polygon_has_no_mask(tmp_path):
    image = {"bytes": jpeg(kind="PNG"), "path": "x.jpg"}
    (sample, _) = read_hub(
        hub(tmp_path, [hub_row(0, image=image, segmentation=[])]), tmp_path / "images", split="testA"
    )
    assert sample.image_file.name == "COCO_train2014_000000580957.png"
    assert sample.mask_source is None


def test_the_hubs_files_are_read_in_order_and_by_either_layout(tmp_path):
    for number in (1, 0):
        folder = hub(tmp_path, [hub_row(number)], f"data/testA-0000{number}-of-00002.parquet")
    hub(tmp_path, [hub_row(9)], "data/testB-00000-of-00001.parquet")
    hub(tmp_path / "other", [hub_row(5)], "default/testA/0000.parquet")
    assert [sample.id for sample in read_hub(folder, tmp_path / "images", split="testA")] == [
        "0_0",
        "0_1",
        "1_0",
        "1_1",
    ]
    assert [sample.id for sample in read_hub(tmp_path / "other", tmp_path / "images", split="testA")] == ["5_0", "5_1"]


def test_a_data_set_on_the_hub_is_read_as_a_stream(tmp_path, monkeypatch):
    folder = hub(tmp_path, [hub_row(0), hub_row(1)])
    opened = []

    class Hub:
        def glob(self, pattern):
            assert pattern == "datasets/lmms-lab/RefCOCO/**/*.parquet"
            return [f"datasets/lmms-lab/{path.relative_to(tmp_path)}" for path in folder.rglob("*.parquet")]

        def open(self, path, mode):
            opened.append((path, mode))
            return (tmp_path / path.removeprefix("datasets/lmms-lab/")).open(mode)

    monkeypatch.setattr("huggingface_hub.HfFileSystem", Hub)
    monkeypatch.chdir(tmp_path / "RefCOCO")  # no folder of that name is here
    samples = list(read_hub(Path("lmms-lab/RefCOCO"), tmp_path / "images", split="testA"))
    assert [sample.id for sample in samples] == ["0_0", "0_1", "1_0", "1_1"]
    assert opened == [("datasets/lmms-lab/RefCOCO/data/testA-00000-of-00001.parquet", "rb")]
    with pytest.raises(UserError, match="has no Parquet files of split 'val'"):
        list(read_hub(Path("lmms-lab/RefCOCO"), tmp_path / "images", split="val"))


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"lmms-lab/Nothing: .* is there a network") as error:
        list(read_hub(Path("lmms-lab/Nothing"), tmp_path / "images", split="val"))
    one_line(error)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """RefCOCO's val of the hub in miniature pictures: 3,811 refs of unc, then 5,000 of google, over four files."""
    folder = tmp_path_factory.mktemp("mixed")
    tiny = {"bytes": jpeg((1, 1)), "path": None}
    rows = [hub_row(n, image=tiny, answer=["x"], segmentation=[], bbox=[0, 0, 1, 1]) for n in range(8811)]
    for part in range(4):
        hub(folder, rows[2203 * part : 2203 * (part + 1)], f"data/val-0000{part}-of-00004.parquet")
    hub(folder, rows[2203 * 4 :], "data/val-00004-of-00004.parquet")
    return folder / "RefCOCO"


@pytest.mark.parametrize(("split_by", "wanted"), [("unc", range(3811)), ("google", range(3811, 8811))])
def test_the_hubs_mixed_val_gives_the_division_that_is_asked_for(mixed, tmp_path, split_by, wanted):
    ids = [sample.id for sample in read_hub(mixed, tmp_path, split="val", split_by=split_by)]
    assert ids == [f"{number}_0" for number in wanted]


def test_the_hubs_mixed_val_must_be_divided(mixed, tmp_path):
    for wrong in (None, "umd"):
        with pytest.raises(
            UserError, match="val holds 3811 refs of unc and 5000 refs of google; set split_by to unc or google"
        ):
            next(read_hub(mixed, tmp_path, split="val", split_by=wrong))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image": {"bytes": b"GIF?", "path": None}}, "row 1 of testA: its image cannot be read"),
        ({"image": {"bytes": None, "path": "x.jpg"}}, "row 1 of testA: its image cannot be read"),
        ({"image": None}, "row 1 of testA: its image cannot be read"),
        ({"file_name": ".hidden.jpg"}, r"row 1 of testA: id '\.hidden' cannot be a file name"),
        ({"question_id": "../../etc"}, r"row 1 of testA: id '\.\./\.\./etc_0' cannot be a file name"),
        ({"bbox": [1, 2, 100, 4]}, "row 1 of testA: box .* leaves the image of 64 x 48 pixels"),
        ({"bbox": [1, 2, 3]}, r"row 1 of testA: bbox \[1.0, 2.0, 3.0\] is malformed"),
        ({"bbox": None}, r"row 1 of testA: bbox \[\] is malformed"),
        ({"segmentation": [1, 2, 3]}, "row 1 of testA: polygon .* is malformed"),
    ],
)
def test_a_wrong_row_of_the_hub_is_told_by_number(tmp_path, keys, message):
    folder = hub(tmp_path, [hub_row(0), hub_row(1, **keys)])
    with pytest.raises(UserError, match=message) as error:
        list(read_hub(folder, tmp_path / "images", split="testA"))
    one_line(error)


def test_one_odd_row_of_the_hub_does_not_end_a_conversion(tmp_path):
    rows = [
        hub_row(0, answer=[None, " ", "the dish"]),
        hub_row(1, bbox=[1, 2, 100, 4]),
        hub_row(2, answer=[]),
        hub_row(3, answer=None),
        hub_row(4, image=None),
        hub_row(5, segmentation=[90, 90, 95, 90, 95, 95]),
        hub_row(6, answer=["white pot"]),
    ]
    skipped = Skipped()
    samples = list(read_hub(hub(tmp_path, rows), tmp_path / "images", split="testA", skip=skipped))
    assert [(sample.id, sample.query) for sample in samples] == [("0_2", "the dish"), ("6_0", "white pot")]
    assert skipped.counts() == [("no expression", 4), ("malformed", 2), ("no usable picture", 1)]
    assert skipped.first().endswith(
        "row 0 of testA answer 0: expression None says nothing; expected a text that is not empty"
    )


def test_the_hubs_pictures_do_not_mix_with_others_and_are_measured_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (HEIGHT, WIDTH)).save(stream, "JPEG", exif=exif)
    folder = hub(tmp_path, [hub_row(0, image={"bytes": stream.getvalue(), "path": None})])
    assert next(read_hub(folder, tmp_path / "images", split="testA")).image_size == (WIDTH, HEIGHT)
    picture(tmp_path / "other" / "COCO_train2014_000000580957.jpg", (32, 24))
    with pytest.raises(UserError, match=r"580957\.jpg is there, of another size than the row's picture: remove it"):
        list(read_hub(folder, tmp_path / "other", split="testA"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be made \(File exists\); choose another folder with --images"):
        list(read_hub(folder, tmp_path / "file", split="testA"))


def denied(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("name", ["refcoco", "hub", "reasonseg"])
def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Path, "iterdir", denied)
    options = ["--images", str(tmp_path)] if name == "refcoco" else []
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be read \(Permission denied\)"):
        main(["convert", name, str(tmp_path), "--split", "val", "--out", str(tmp_path / "out.jsonl"), *options])


def test_a_file_that_is_used_as_a_folder_is_told(refcoco, tmp_path):
    with pytest.raises(UserError, match=r"no image folder .*instances\.json"):
        list(read_refcoco(refcoco, refcoco / "instances.json", split="val"))
    with pytest.raises(UserError, match="holds no ReasonSeg annotations"):
        list(read_reasonseg(refcoco / "instances.json", split="val"))
    with pytest.raises(UserError, match="has no Parquet files"):
        list(read_hub(refcoco / "instances.json", tmp_path, split="val"))


def test_a_name_in_the_hubs_rows_cannot_leave_the_folder(tmp_path):
    folder = hub(tmp_path, [hub_row(0, file_name="../../outside.jpg")])
    (sample, _) = read_hub(folder, tmp_path / "deep" / "images", split="testA")
    assert sample.image_file == tmp_path / "deep" / "images" / "outside.jpg"


def test_the_hubs_files_that_are_missing_damaged_or_others_are_told(tmp_path, monkeypatch):
    folder = hub(tmp_path, [hub_row(0)])
    path = folder / "data" / "testA-00000-of-00001.parquet"

    def read(**options: str) -> None:
        list(read_hub(folder, tmp_path / "images", **{"split": "testA", **options}))

    with pytest.raises(
        UserError, match=r"no Parquet files of split 'val', such as .*; it has testA-00000-of-00001\.parquet"
    ):
        read(split="val")
    with pytest.raises(
        UserError, match="testA has 1 rows, not those of a published file, so unc's cannot be told; leave split_by out"
    ):
        read(split_by="unc")
    pq.write_table(pa.table({"image": ["x"], "bbox": [[1.0]]}), path)
    with pytest.raises(UserError, match="lacks the columns question_id, answer, segmentation, file_name"):
        read()
    path.write_bytes(b"PAR1 half")
    with pytest.raises(UserError, match=r"a Parquet file of testA cannot be read .*; download it again") as error:
        read()
    one_line(error)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="reading Parquet files needs pyarrow: pip install pyarrow"):
        read()


# ReasonSeg


def shape(label: str, x0: int, y0: int, x1: int, y1: int) -> dict:
    return {
        "label": label,
        "labels": [label],
        "shape_type": "polygon",
        "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]],
        "flags": {},
    }


def reasonseg(
    folder: Path, name: str = "1000592_1f0c_o", split: str = "val", encoding: str = "utf-8", **keys: object
) -> Path:
    content = {
        "text": ["the thing to sit on", "where would you rest?"],
        "is_sentence": True,
        "shapes": [
            shape("ignore", 20, 20, 29, 24),
            shape("target", 8, 10, 39, 29),
            shape("flag", 0, 0, 60, 40),
            shape("Target", 50, 2, 52, 4),
        ],
        **keys,
    }
    path = folder / "ReasonSeg" / split / f"{name}.json"
    picture(path.with_suffix(".jpg"))
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return folder / "ReasonSeg"


def test_reasonseg_is_a_sample_per_text_with_target_and_what_to_ignore(tmp_path):
    reasonseg(tmp_path, "other", text=["one"], is_sentence=False)
    samples = list(read_reasonseg(reasonseg(tmp_path), split="val"))
    assert [(sample.id, sample.query) for sample in samples] == [
        ("1000592_1f0c_o_0", "the thing to sit on"),
        ("1000592_1f0c_o_1", "where would you rest?"),
        ("other_0", "one"),
    ]
    assert [dict(sample.extra) for sample in samples] == [
        {"is_sentence": True},
        {"is_sentence": True},
        {"is_sentence": False},
    ]
    truth = read_truth(samples[0])
    ignored = np.zeros((HEIGHT, WIDTH), bool)
    ignored[20:25, 20:30] = True
    target = MASK & ~ignored
    target[2:5, 50:53] = True
    assert_array_equal(truth.ignore, ignored)
    assert_array_equal(truth.mask, target)
    assert truth.box_xyxy == (8, 2, 53, 30)


def test_reasonseg_puts_a_smaller_target_on_a_larger_ignored_shape(tmp_path):
    shapes = [shape("target", 20, 20, 29, 24), shape("ignore", 8, 10, 39, 29)]
    (sample, _) = read_reasonseg(reasonseg(tmp_path, shapes=shapes), split="val")
    truth = read_truth(sample)
    assert truth.box_xyxy == (20, 20, 30, 25)
    assert truth.mask.sum() == 50
    assert_array_equal(truth.ignore, MASK & ~truth.mask)


def test_reasonseg_reads_a_splits_own_folder_and_files_of_windows(tmp_path):
    folder = reasonseg(tmp_path, encoding="cp1252", text=["the “café”"], split="train")
    (sample,) = read_reasonseg(folder / "train", split="train")
    assert (sample.query, sample.split) == ("the “café”", "train")
    assert sample.ignore_source is not None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shapes": [shape("ignore", 1, 1, 5, 5)]}, "1000592_1f0c_o.json: no ground truth"),
        ({"shapes": [shape("target", 100, 100, 110, 110)]}, "1000592_1f0c_o.json: no ground truth"),
        ({"shapes": [{"label": "target"}]}, "1000592_1f0c_o.json shape 1: points None are malformed; expected"),
        (
            {"shapes": [{"label": "target", "points": [[1, 2, 3]]}]},
            r"json shape 1: points \[\[1, 2, 3\]\] are malformed",
        ),
        ({"shapes": None}, "1000592_1f0c_o.json: shapes None is malformed; expected a list of shapes"),
        ({"text": []}, r"1000592_1f0c_o.json: text \[\] has no expression; expected a list of texts"),
        ({"imageWidth": 640, "imageHeight": 480}, r"it was drawn on 640 x 480 pixels, 1000592_1f0c_o\.jpg has 64 x 48"),
        ({"name": "a..b"}, r"id 'a\.\.b_0' cannot be a file name"),
    ],
)
def test_a_wrong_reasonseg_file_is_told_by_name(tmp_path, keys, message):
    with pytest.raises(UserError, match=message) as error:
        list(read_reasonseg(reasonseg(tmp_path, **keys), split="val"))
    one_line(error)


def test_shapes_without_area_or_label_are_left_out_and_listed(tmp_path):
    target = shape("target", 8, 10, 39, 29)
    odd = [{**shape("target", 1, 1, 60, 40), **keys} for keys in (
        {"label": None}, {"label": " "}, {"label": "_background_"}, {"label": "Background"}, {"shape_type": "line"},
        {"shape_type": "point"}, {"shape_type": "linestrip"}, {"shape_type": "mask"}, {"points": [[1, 1], [60, 40]]},
        {"points": [[1, 1], [60, 40], [1e300, 3]]}, {"points": [[float("nan"), 1], [60, 40], [1, 3]]},
        {"shape_type": "circle", "points": [[5, 5], [5, 5]]}, {"shape_type": "rectangle", "points": [[5, 5], [5, 9]]},
    )]  # fmt: skip
    skipped = Skipped()
    folder = reasonseg(tmp_path, shapes=[*odd, None, target], text=["the seat", None, ""])
    (sample,) = read_reasonseg(folder, split="val", skip=skipped)
    assert_array_equal(read_truth(sample).mask, MASK)
    assert skipped.counts() == [("a shape that is none, or no target", 14), ("no expression", 2)]
    assert skipped.first().endswith("1000592_1f0c_o.json shape 1: it has the label None; expected target or ignore")


def test_rectangles_and_circles_are_drawn(tmp_path):
    rectangle = {"label": "target", "shape_type": "rectangle", "points": [[39, 29], [8, 10]]}
    (sample, _) = read_reasonseg(reasonseg(tmp_path, shapes=[rectangle]), split="val")
    assert_array_equal(read_truth(sample).mask, MASK)
    circle = {"label": "target", "shape_type": "circle", "points": [[20, 15], [23, 19]]}
    (sample, _) = read_reasonseg(reasonseg(tmp_path, shapes=[circle]), split="val")
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    assert_array_equal(read_truth(sample).mask, (xs - 20) ** 2 + (ys - 15) ** 2 <= 25)


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-8-sig", "utf-16"])
def test_reasonseg_reads_what_chinese_windows_writes(tmp_path, encoding):
    (sample,) = read_reasonseg(reasonseg(tmp_path, encoding=encoding, text=["图中可以坐的东西"]), split="val")
    assert sample.query == "图中可以坐的东西"


def test_one_odd_reasonseg_file_does_not_end_a_conversion(tmp_path):
    folder = reasonseg(tmp_path)
    reasonseg(tmp_path, "empty", shapes=[shape("ignore", 1, 1, 5, 5)])
    (folder / "val" / "broken.json").write_text("{")
    (folder / "val" / "bytes.json").write_bytes(b'{"text": "\x81\x20\x8d"}')
    (folder / "val" / "deep.json").write_text("[" * 10_000)
    (folder / "val" / "folder.json").mkdir()
    (folder / "val" / "list.json").write_text("[]")
    reasonseg(tmp_path, "gone")
    (folder / "val" / "gone.jpg").unlink()
    skipped = Skipped()
    assert len(list(read_reasonseg(folder, split="val", skip=skipped))) == 2
    assert {Path(row["where"]).stem: row["kind"] for row in skipped.rows} == {
        "broken": "malformed",
        "bytes": "malformed",
        "deep": "malformed",
        "empty": "no target",
        "folder": "malformed",
        "gone": "no usable picture",
        "list": "malformed",
    }


def test_reasonseg_that_is_missing_or_no_json_is_told(tmp_path):
    folder = reasonseg(tmp_path)
    with pytest.raises(
        UserError, match=r"ReasonSeg holds no ReasonSeg annotations; expected .* in a folder named test"
    ):
        list(read_reasonseg(folder, split="test"))
    next(folder.rglob("*.jpg")).unlink()
    with pytest.raises(UserError, match=r"1000592_1f0c_o.json: No such image: .*\.jpg"):
        list(read_reasonseg(folder, split="val"))
    next(folder.rglob("*.json")).write_text("{")
    with pytest.raises(UserError, match=r"1000592_1f0c_o.json: "):
        list(read_reasonseg(folder, split="val"))


# the command


def test_convert_writes_a_file_that_batch_reads(refcoco, tmp_path, capsys, monkeypatch):
    out = tmp_path / "new" / "refcoco_val.jsonl"
    main(
        [
            "convert",
            "refcoco",
            str(refcoco),
            "--images",
            str(tmp_path / "train2014"),
            "--split",
            "val",
            "--out",
            str(out),
            "--final-period",
        ]
    )
    monkeypatch.chdir("/")
    samples = read_samples(out)
    assert [sample.query for sample in samples] == [
        "bowl behind the others.",
        "white dish in the top right corner.",
        "crowd.",
    ]
    assert all(sample.image_file.exists() for sample in samples)
    direct = list(read_refcoco(refcoco, tmp_path / "train2014", split="val"))
    for written, read in zip(samples, direct, strict=True):
        assert_array_equal(read_truth(written).mask, read_truth(read).mask)
        assert read_truth(written).box_xyxy == pytest.approx(read_truth(read).box_xyxy)
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()[2:3]] == [["3", "2", "3", "3", "0"]]
    assert str(out) in printed


def test_convert_reads_the_hub_reasonseg_and_own_files(tmp_path):
    main(
        [
            "convert",
            "hub",
            str(hub(tmp_path, [hub_row(0)])),
            "--split",
            "testA",
            "--out",
            str(tmp_path / "h" / "hub.jsonl"),
        ]
    )
    samples = read_jsonl(tmp_path / "h" / "hub.jsonl")
    assert [sample.image_file for sample in samples] == [
        tmp_path / "h" / "images" / "COCO_train2014_000000580957.jpg"
    ] * 2
    main(
        ["convert", "reasonseg", str(reasonseg(tmp_path)), "--split", "val", "--out", str(tmp_path / "reasonseg.jsonl")]
    )
    (first, _) = read_jsonl(tmp_path / "reasonseg.jsonl")
    assert read_truth(first).ignore.sum() == 50
    own = jsonl(tmp_path, row(bbox=[8, 10, 32, 20], mood="calm"))
    main(["convert", "jsonl", str(own), "--out", str(tmp_path / "own.jsonl"), "--final-period"])
    (sample,) = read_jsonl(tmp_path / "own.jsonl")
    assert (sample.query, sample.box_xyxy, dict(sample.extra)) == ("the cat.", BOX, {"mood": "calm"})


def convert_refcoco(folder: Path, *options: str) -> Path:
    out = folder.parent / "val.jsonl"
    main(
        [
            *("convert", "refcoco", str(folder), "--images", str(folder.parent / "train2014"), "--split", "val"),
            *("--out", str(out), *options),
        ]
    )
    return out


def test_what_a_conversion_leaves_out_is_counted_and_listed_beside_its_file(refcoco, capsys):
    out = convert_refcoco(refcoco)
    listed = out.with_name("val.skipped.jsonl")
    assert not listed.exists()
    assert "left out" not in capsys.readouterr().out
    set_annotation(segmentation=[])(refcoco)
    convert_refcoco(refcoco)
    assert [sample.id for sample in read_jsonl(out)] == ["79_230"]
    assert [json.loads(line) for line in listed.read_text().splitlines()] == [
        {
            "where": f"{refcoco}/refs(unc).p: ref 77",
            "kind": "malformed",
            "why": "segmentation [] is malformed; expected polygons [[x0, y0, ...], ...] or {size, counts}",
        }
    ]
    printed = capsys.readouterr().out
    assert re.search(r"^left out +count\n-+\nmalformed +1$", printed, re.MULTILINE)
    assert "the first: " in printed
    assert "(val.skipped.jsonl lists what was left out, and why)" in printed
    set_annotation(segmentation=[POLYGON], bbox=[8, 10, 32, 20])(refcoco)
    convert_refcoco(refcoco)
    assert not listed.exists()


def test_a_strict_conversion_stops_at_the_first_and_writes_nothing(refcoco):
    set_annotation(segmentation=[])(refcoco)
    with pytest.raises(UserError, match=r"ref 77: segmentation \[\] is malformed") as error:
        convert_refcoco(refcoco, "--strict")
    assert one_line(error).count("ref 77") == 1
    assert not (refcoco.parent / "val.jsonl").exists()


def test_a_folder_is_no_file_to_write(refcoco):
    with pytest.raises(UserError, match=r"--out \. is a folder; expected the name of a JSONL file"):
        convert_refcoco(refcoco, "--out", ".")


def test_a_conversion_that_leaves_nothing_is_refused(refcoco, tmp_path):
    unfit = [ref(77, 1537681, 580957, "val", {"sent_id": 1, "sent": None}), ref(78, [1537681, 710706], 580957, "val")]
    refs_of(refcoco, unfit)
    with pytest.raises(
        UserError,
        match=r"refcoco: nothing to write \(no expression: 1, several targets: 1\); the first: .*ref 77 sentence 1",
    ) as error:
        convert_refcoco(refcoco)
    one_line(error)
    assert {path.name for path in tmp_path.iterdir()} == {"refcoco", "train2014"}
    empty = hub(tmp_path, [])
    with pytest.raises(UserError, match=r"RefCOCO: nothing to write \(it has no samples\)"):
        main(["convert", "hub", str(empty), "--split", "testA", "--out", str(tmp_path / "hub.jsonl")])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(bbox=[1, 2, 3, 4], mask_path="cat.png"), row("b", segmentation=rle.encode(MASK & False))],
            r"data\.jsonl line 2: its mask is empty",
        ),
        (
            [row(bbox=[1, 2, 3, 4]), row("b", bbox=[8, 10, 90, 4])],
            r"data\.jsonl line 2: box .* leaves the image of 64 x 48 pixels",
        ),
        ([row(bbox=[1, 2, 3, 4], segmentation=rle.encode(MASK.T))], r"data\.jsonl line 1: mask is 48 x 64"),
        ([row(bbox=[1, 2, 3, 4], image_path="gone.png")], r"data\.jsonl line 1: No such image"),
        (
            [row(bbox=[1, 2, 3, 4], image_size=[65, 48])],
            r"line 1: image_size says 65 x 48 pixels, the image has 64 x 48; correct one",
        ),
        ([row()], "no ground-truth box for 1 of 1 samples"),
    ],
)
def test_convert_checks_truth_against_the_pictures_and_writes_nothing_if_it_is_wrong(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        main(["convert", "jsonl", str(jsonl(tmp_path, *rows)), "--out", str(tmp_path / "out.jsonl")])
    assert not (tmp_path / "out.jsonl").exists()


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lab.datasets", *arguments], capture_output=True, text=True, cwd=PROJECT, check=False
    )


def test_the_command_explains_itself_and_ends_wrong_input_in_one_line():
    shown = command("convert", "--help")
    assert shown.returncode == 0
    assert all(f"lab.datasets convert {name}" in shown.stdout for name in ("refcoco", "hub", "reasonseg", "jsonl"))
    wrong = command("convert", "refcoco", "nowhere", "--split", "val", "--images", "nowhere", "--out", "x.jsonl")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert (
        wrong.stderr == "error: no nowhere/refs(unc).p; nowhere has no refs file at all: "
        "choose split_by from what stands in the brackets\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: convert"),
        (["convert", "refcocoo"], "choose from 'refcoco', 'hub', 'reasonseg', 'ref_l4', 'd_cube', 'jsonl'"),
        (["convert", "refcoco", "x", "--out", "y"], "required: --images, --split .* refcoco --help lists"),
        (
            ["convert", "hub", "x", "--out", "y", "--split", "val", "--text", "raw"],
            "unrecognized arguments: --text raw",
        ),
    ],
)
def test_a_wrong_option_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        main(arguments)
    one_line(error)
