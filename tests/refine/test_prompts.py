"""From heat map and region to what SAM is asked: in the picture, on the heat, and nothing where nothing stands out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bbox import Localization, box_on_image, mask_on_image, xywh
from conf.schema import RefineConfig, RefinePrompt
from lab.base.errors import UserError
from lab.refine.prompts import LOGIT, box_prompt, heat_logits, lows, make_prompt, peaks, region_cells
from llava.grid import Grid

SIZE = (120, 60)
GRID = Grid.padded_square(12, SIZE)  # cells of 10 pixels; three rows above and three below the picture


def found(heat, cells, grid=GRID, size=SIZE):
    mask = np.zeros(heat.shape, bool)
    mask[cells] = True
    box = box_on_image(mask, grid, size)
    return Localization(((0, 0),), heat.astype(np.float32), mask, mask_on_image(mask, grid, size), box, xywh(box))


@pytest.fixture
def two_peaks():
    heat = np.full((12, 12), 0.1)
    heat[5, 3:6] = 0.5, 1.0, 0.5
    heat[6, 8] = 0.9
    heat[4, 6] = 0.01  # inside the box
    heat[8, 0] = 0.0  # outside it
    return found(heat, (slice(4, 8), slice(2, 10)))


def config(prompt="box", **rest):
    return RefineConfig(prompt=RefinePrompt(prompt), **rest)


def test_the_box_is_that_of_the_localization(two_peaks):
    prompt = make_prompt(two_peaks, GRID, SIZE, config())
    assert prompt.box_xyxy == two_peaks.box_xyxy == (20, 10, 99, 49)
    assert not prompt.points_xy
    assert prompt.coarse is None


def test_points_are_the_peaks_of_the_region_highest_first(two_peaks):
    points = peaks(two_peaks.heat, two_peaks.mask_grid, GRID, SIZE, 5)
    assert points == [(45, 25), (85, 35)]
    assert peaks(two_peaks.heat, two_peaks.mask_grid, GRID, SIZE, 1) == points[:1]


def test_a_peak_between_two_cells_lies_between_them():
    heat = np.zeros((12, 12))
    heat[5, 5:7] = 1.0
    one = found(heat, (slice(5, 6), slice(5, 7)))
    assert peaks(one.heat, one.mask_grid, GRID, SIZE, 3) == [(60, 25)]


def test_points_off_the_thing_are_the_lowest_cells_in_the_box_and_outside_it():
    heat = np.arange(144.0).reshape(12, 12)
    one = found(heat, ([4, 6], [2, 6]))  # two corners of the box; the rest of it is free
    assert one.box_xyxy == (20, 10, 69, 39)
    assert lows(one, GRID, SIZE, 2) == [(35, 15), (45, 15), (5, 5), (15, 5)]


def test_points_stay_in_the_picture_when_the_heat_lies_on_the_padding():
    heat = np.zeros((12, 12))
    heat[0, 0] = 1.0
    heat[4, 4] = 0.2
    one = found(heat, ([0, 4], [0, 4]))
    for prompt in ("points", "box+points"):
        for x, y in make_prompt(one, GRID, SIZE, config(prompt)).points_xy:
            assert 0 <= x < SIZE[0]
            assert 0 <= y < SIZE[1]
    assert make_prompt(one, GRID, SIZE, config("points", negatives=0)).points_xy == ((45, 15),)


def test_both_have_box_and_points_and_the_labels_tell_which_is_which(two_peaks):
    prompt = make_prompt(two_peaks, GRID, SIZE, config("box+points", positives=2, negatives=2))
    assert prompt.box_xyxy == two_peaks.box_xyxy
    assert len(prompt.points_xy) == len(prompt.labels)
    assert prompt.labels[:2] == (1, 1)
    assert set(prompt.labels[2:]) == {0}


def test_the_coarse_mask_is_above_zero_in_the_region_alone(two_peaks):
    logits = heat_logits(two_peaks.heat, two_peaks.mask_grid)
    assert logits.max() == LOGIT
    assert logits[5, 4] == LOGIT
    assert (logits[two_peaks.mask_grid] >= 0).all()
    assert (logits[~two_peaks.mask_grid] <= 0).all()
    assert np.abs(logits).max() <= LOGIT


@pytest.mark.parametrize("prompt", ["box", "points", "box+points", "mask"])
def test_a_prompt_survives_as_plain_text_and_changes_nothing(two_peaks, prompt):
    before = two_peaks.heat.copy(), two_peaks.mask_grid.copy()
    told = make_prompt(two_peaks, GRID, SIZE, config(prompt)).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert {"box": "box_xyxy", "points": "points_xy", "box+points": "labels", "mask": "mask"}[prompt] in told
    assert np.array_equal(before[0], two_peaks.heat)
    assert np.array_equal(before[1], two_peaks.mask_grid)


def test_a_region_that_was_cut_on_finer_cells_is_asked_for_on_the_heat_maps(two_peaks):
    fine = np.repeat(np.repeat(two_peaks.mask_grid, 3, axis=0), 3, axis=1)
    cut = replace(two_peaks, mask_grid=fine)
    for prompt in ("box", "points", "box+points", "mask"):
        asked, plain = (make_prompt(one, GRID, SIZE, config(prompt)).to_dict() for one in (cut, two_peaks))
        assert asked == plain
    speck = np.zeros_like(fine)
    speck[12, 12] = True
    assert region_cells(replace(cut, mask_grid=speck)).nonzero() == (np.array([4]), np.array([4]))


@pytest.mark.parametrize("prompt", ["box", "points", "box+points", "mask"])
def test_an_empty_heat_map_has_no_prompt(prompt):
    empty = found(np.zeros((12, 12)), np.zeros((12, 12), bool))
    with pytest.raises(UserError, match="no box that SAM could be asked with: the mask is empty"):
        make_prompt(empty, GRID, SIZE, config(prompt))


def test_what_is_not_there_has_no_prompt_and_is_told_so(two_peaks):
    absent = replace(two_peaks, box_xyxy=None, box_xywh=None, presence=0.125, absent=True)
    with pytest.raises(UserError, match=r"presence is 0\.125, below logic\.presence\.threshold"):
        make_prompt(absent, GRID, SIZE, config())


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 5), (5, 5, 5, 5)])
def test_a_box_of_no_area_is_no_prompt(box):
    with pytest.raises(UserError, match="encloses no area"):
        box_prompt(box)


def test_one_cell_and_a_flat_region_have_a_prompt_of_every_kind():
    for heat, cells in ((np.eye(12), (slice(4, 5), slice(4, 5))), (np.ones((12, 12)), np.ones((12, 12), bool))):
        one = found(heat, cells)
        for prompt in ("box", "points", "box+points", "mask"):
            assert make_prompt(one, GRID, SIZE, config(prompt)).to_dict()
