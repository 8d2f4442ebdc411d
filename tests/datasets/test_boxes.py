"""True boxes in every form, and what is said about those that cannot be."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.base.errors import UserError
from lab.datasets import read_jsonl, read_truth
from lab.datasets.boxes import FORMS, check_box, check_inside, read_box

SIZE = (640, 480)


@pytest.mark.parametrize(
    ("bbox", "form"),
    [([8, 10, 32, 20], "xywh"), ([8, 10, 40, 30], "xyxy"), ([8, 10, 39, 29], "xyxy_inclusive")],
)
def test_every_form_of_a_box_is_the_same_box(bbox, form):
    assert read_box(bbox, form) == (8, 10, 40, 30)


def test_a_box_of_one_pixel_has_an_area_if_its_corners_are_inclusive():
    assert read_box([5, 5, 5, 5], "xyxy_inclusive") == (5, 5, 6, 6)
    with pytest.raises(UserError, match="box is 0 wide and 0 high"):
        read_box([5, 5, 5, 5], "xyxy")


def test_numbers_of_numpy_are_numbers():
    assert check_box([np.int64(1), np.float32(2), np.float64(3), 4]) == (1, 2, 3, 4)


@pytest.mark.parametrize("form", ["cxcywh", None, 3, ["xywh"], {}])
def test_an_unknown_form_is_told_with_those_that_there_are(form):
    with pytest.raises(UserError, match=r"^bbox_format .*: choose from xywh, xyxy, xyxy_inclusive") as error:
        read_box([1, 2, 3, 4], form)
    assert list(FORMS) == ["xywh", "xyxy", "xyxy_inclusive"]
    assert "x1 and y1 are the last pixels inside" in str(error.value)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), 1e300, True, None, "1"])
def test_what_is_no_place_in_a_picture_is_refused_in_a_short_line(value):
    with pytest.raises(UserError, match="is malformed; expected") as error:
        read_box([8, 10, value, 4])
    assert len(str(error.value)) < 220


def refused(bbox: list[float], form: str = "xywh", size: tuple[int, int] | None = SIZE) -> str:
    with pytest.raises(UserError) as error:
        check_inside(read_box(bbox, form), size, form)
    return str(error.value)


def test_a_box_of_0_to_1_is_told_how_to_become_pixels():
    assert refused([0.25, 0.5, 0.5, 0.25]) == (
        "box from (0.25, 0.5) to (0.75, 0.75) looks normalised to 0..1; multiply x by 640 and y by 480"
    )
    assert "looks normalised to 0..1" in refused([0.25, 0.5, 0.5, 0.75], "xyxy", None)
    assert "looks normalised to 0..1;" in refused([0.25, 0.5, 1.0, 0.75], "xyxy_inclusive")
    check_inside(read_box([0, 0, 1, 1]), (1, 1))  # the whole of a tiny picture


def test_a_box_of_0_to_1000_is_told_how_to_become_pixels():
    assert refused([100, 500, 850, 900], "xyxy") == (
        "box from (100, 500) to (850, 900) leaves the image of 640 x 480 pixels; "
        "it looks normalised to 0..1000: multiply x by 0.64 and y by 0.48"
    )
    assert "normalised to 0..1000" in refused([100, 500, 1000, 900], "xyxy_inclusive")


def test_corners_that_were_taken_for_width_and_height_are_told():
    found = refused([300, 200, 500, 400])
    assert "box from (300, 200) to (800, 600) leaves the image of 640 x 480 pixels" in found
    assert 'it looks like [x0, y0, x1, y1]: give it "bbox_format": "xyxy", or normalised to 0..1000' in found
    assert "bbox_format" not in refused([300, 200, 800, 600], "xyxy")  # that is what it says already


@pytest.mark.parametrize("bbox", [[-40, 10, 100, 100], [600, 10, 1000, 100], [10, 10, 100, 2000]])
def test_a_box_that_looks_like_nothing_known_is_only_told_to_leave_the_image(bbox):
    assert refused(bbox).endswith("leaves the image of 640 x 480 pixels")


@pytest.mark.parametrize("form", ["xyxy", "xyxy_inclusive"])
def test_swapped_corners_are_told(form):
    with pytest.raises(UserError, match=r"box is -?\d+ wide and -?\d+ high; expected more than 0 \(if its corners are"):
        read_box([40, 30, 8, 10], form)


@pytest.mark.parametrize("bbox", [[-1, -0.5, 642, 481.5], [0, 0, 640, 480], [0, 0, 641, 481]])
def test_a_rounding_beyond_the_border_is_accepted(bbox):
    check_inside(read_box(bbox), SIZE)


def test_the_form_is_kept_for_what_is_said_later(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "cat.png")
    row = {"id": "a", "prompt": "the cat", "image_path": "cat.png"}
    path = tmp_path / "data.jsonl"

    def write(**keys: object) -> Path:
        path.write_text(json.dumps({**row, **keys}))
        return path

    (sample,) = read_jsonl(write(bbox=[8, 10, 39, 29], bbox_format="xyxy_inclusive"))
    assert read_truth(sample).box_xyxy == (8, 10, 40, 30)
    (sample,) = read_jsonl(write(bbox=[300, 200, 500, 400]))
    with pytest.raises(UserError, match=re.escape("sample a: box from (300, 200) to (800, 600) leaves the image of")):
        read_truth(sample)
    (sample,) = read_jsonl(write(bbox=[100, 500, 850, 900], bbox_format="xyxy"))
    with pytest.raises(UserError, match=r"normalised to 0\.\.1000"):
        read_truth(sample)
    with pytest.raises(
        UserError, match=r"line 1: box .* looks normalised to 0\.\.1; multiply x by the picture's width"
    ):
        read_jsonl(write(bbox=[0.1, 0.2, 0.3, 0.4]))
