"""The same samples left to right."""

import json

import numpy as np
import pytest
from PIL import Image

from lab.base.images import open_image
from lab.datasets import read_jsonl, read_truth
from lab.datasets.__main__ import main
from lab.datasets.mirror import swapped


@pytest.mark.parametrize(
    ("said", "turned"),
    [
        ("the bird on the left", "the bird on the right"),
        ("Right one, LEFT of it", "Left one, RIGHT of it"),
        ("leftmost cup, right-hand side, rightward", "rightmost cup, left-hand side, leftward"),
        ("a bright leftover, upright", "a bright leftover, upright"),
    ],
)
def test_left_and_right_change_places_in_whole_words(said, turned):
    assert swapped(said) == turned
    assert swapped(turned) == said


@pytest.fixture
def data(tmp_path):
    """Two pictures of one name; two samples of the first, one with a box and one with a mask."""
    rng, lines = np.random.default_rng(0), []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / folder / "x.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[2:7, 1:5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    others = [{"bbox": [1, 2, 3, 4], "answer": "left"}]
    lines.append({"id": "1", "prompt": "left", "image_path": "a/x.png", "bbox": [4, 5, 10, 6], "thing": 3})
    lines.append({"id": "2", "prompt": "cup", "image_path": "a/x.png", "mask_path": "mask.png", "answer": "red left"})
    lines.append({"id": "3", "prompt": "no", "image_path": "b/x.png", "present": False, "others": others})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_pictures_truth_and_words_are_turned_and_ids_stay(data, tmp_path, capsys):
    main(["convert", "jsonl", str(data), "--mirrored", "--out", str(tmp_path / "out" / "turned.jsonl")])
    first, second, third = read_jsonl(tmp_path / "out" / "turned.jsonl")
    assert [first.id, second.id, third.id] == ["1", "2", "3"]
    assert [first.query, second.query, second.extra["answer"]] == ["right", "cup", "red right"]
    assert first.box_xyxy == (16, 5, 26, 11)  # 30 - 14, 30 - 4
    np.testing.assert_array_equal(np.argwhere(read_truth(second).mask).min(0), [2, 25])
    assert not third.present
    assert "others" not in third.extra
    assert first.image_file == second.image_file != third.image_file
    for turned, before in ((first, "a"), (third, "b")):
        pixels = np.asarray(open_image(tmp_path / before / "x.png"))
        np.testing.assert_array_equal(np.asarray(open_image(turned.image_file)), pixels[:, ::-1])


def test_turned_twice_everything_is_as_it_was(data, tmp_path):
    for source, out in ((data, "once/t.jsonl"), (tmp_path / "once/t.jsonl", "twice/t.jsonl")):
        main(["convert", "jsonl", str(source), "--mirrored", "--out", str(tmp_path / out)])
    for before, after in zip(read_jsonl(data), read_jsonl(tmp_path / "twice/t.jsonl"), strict=True):
        assert (before.id, before.query, before.box_xyxy) == (after.id, after.query, after.box_xyxy)


def test_a_sample_tells_which_thing_it_means_within_its_picture(data):
    first, second, _ = read_jsonl(data)
    assert first.thing == (str(first.image_file), "thing", "3")
    assert second.thing is None
