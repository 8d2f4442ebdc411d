"""Heat maps, masks and boxes: against the literal rules, and on pictures where the thing's place is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

import bbox
from bbox import (
    binarise,
    binarise_on_image,
    box_on_image,
    contrasted,
    cut_cells,
    heat_map,
    localize,
    mask_on_image,
    region,
    sharpen,
    smooth,
    xywh,
)
from conf.schema import BoxConfig, LogicConfig, MaskConfig, SmoothingConfig
from lab.base.errors import UserError
from lab.bench import reference_rules
from lab.measure.sets import Sight
from lab.records.record import Record
from llava.grid import Grid

PAPER = LogicConfig(smoothing=SmoothingConfig(kernel=7), box=BoxConfig(region="largest_hull"))
SHARP = SmoothingConfig(sigma=0)
WIDE, TALL = (640, 240), (240, 640)
GEOMETRIES = {
    "stretched": lambda size: Grid.stretched(24, 24, size),
    "uneven": lambda size: Grid.stretched(10, 30, size),
    "padded": lambda size: Grid.padded_square(24, size),
}


def random_record(seed: int, side: int, dtype: torch.dtype = torch.float32, **meta: object) -> Record:
    rng = np.random.default_rng(seed)
    weights = rng.random((3, 4, 1, side * side)) ** rng.integers(1, 20)
    return Record.from_tensor(torch.from_numpy(weights / weights.sum(-1, keepdims=True)).to(dtype), meta)


def looking_at(place_xyxy: tuple[int, int, int, int], grid: Grid, size: tuple[int, int]) -> Record:
    """A record whose only head looks evenly at the cells that the place touches."""
    x0, y0, x1, y1 = grid.extent_xyxy
    x = x0 + (np.arange(grid.cols + 1)) * (x1 - x0) / grid.cols
    y = y0 + (np.arange(grid.rows + 1)) * (y1 - y0) / grid.rows
    inside_x = (x[1:] > place_xyxy[0]) & (x[:-1] < place_xyxy[2])
    inside_y = (y[1:] > place_xyxy[1]) & (y[:-1] < place_xyxy[3])
    weights = np.outer(inside_y, inside_x).astype(np.float32)
    return Record((weights / weights.sum()).reshape(1, 1, 1, -1), {"image_size": list(size), "grids": [grid.to_dict()]})


# equality with the literal rules


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("side", [4, 7, 16, 24])
def test_masks_and_boxes_of_old_records_equal_the_literal_rules(side, dtype):
    for seed, (width, height) in enumerate([WIDE, TALL, (336, 336), (97, 61), (48, 100), (25, 24)]):
        record = random_record(seed, side, dtype, image_size=[width, height])
        heads = [(2, 1), (0, 3), (1, 1)][: 1 + seed % 3]
        found = localize(record, heads, LogicConfig())
        cells = reference_rules.grid_mask(record.tensor(), heads)
        assert_array_equal(found.mask_grid, cells)
        assert_array_equal(found.mask, reference_rules.image_mask(cells, width, height))
        assert found.box_xyxy == tuple(reference_rules.box(cells, width, height))


def test_cells_that_equal_the_mean_fall_on_the_side_of_the_literal_rules():
    sides = set()
    for seed in range(40):
        value = np.random.default_rng(seed).random() / 576
        record = Record(np.full((1, 1, 1, 576), value, np.float32), {"image_size": [24, 24]})
        found = localize(record, [(0, 0)], LogicConfig())
        assert_array_equal(found.mask_grid, reference_rules.grid_mask(record.tensor(), [(0, 0)]))
        sides.add(bool(found.mask_grid.all()))
    assert sides == {True, False}  # rounding decides


def test_boxes_of_all_cells_equal_the_literal_rules():
    for side, width, height in ((5, 17, 33), (24, 640, 427), (16, 101, 99), (3, 7, 1000)):
        for row, col in np.ndindex(side, side):
            cells = np.zeros((side, side), bool)
            cells[row, col] = cells[side // 2, side // 3] = True
            expected = tuple(reference_rules.box(cells, width, height))
            assert box_on_image(cells, Grid.stretched(side, side, (width, height)), (width, height)) == expected


def test_localization_leaves_the_record_as_it_was():
    record = random_record(0, 8, image_size=[40, 30])
    before = record.attn.copy()
    for logic in (LogicConfig(), PAPER, LogicConfig(smoothing=SHARP, mask=MaskConfig(resolution="image"))):
        found = localize(record, [(0, 0)], logic)
        found.heat[:] = 7
        assert_array_equal(record.attn, before)


# things in the corners


@pytest.mark.parametrize("resolution", ["grid", "image"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("corner", ["left top", "right top", "left bottom", "right bottom"])
@pytest.mark.parametrize("size", [WIDE, TALL], ids=str)
def test_a_thing_in_a_corner_is_found_there(size, corner, geometry, resolution):
    width, height = size
    x0 = 0 if "left" in corner else width - 80
    y0 = 0 if "top" in corner else height - 80
    grid = GEOMETRIES[geometry](size)
    logic = LogicConfig(smoothing=SHARP, mask=MaskConfig(resolution=resolution))
    found = localize(looking_at((x0, y0, x0 + 80, y0 + 80), grid, size), [(0, 0)], logic)
    spread = 2 if resolution == "image" else 1  # the mean lies low on the slope that interpolation adds
    cell_w = spread * (grid.extent_xyxy[2] - grid.extent_xyxy[0]) / grid.cols
    cell_h = spread * (grid.extent_xyxy[3] - grid.extent_xyxy[1]) / grid.rows
    assert_allclose(found.box_xyxy[::2], (x0, x0 + 79), atol=cell_w)
    assert_allclose(found.box_xyxy[1::2], (y0, y0 + 79), atol=cell_h)
    rows, cols = np.nonzero(found.mask)
    assert found.mask.shape == (height, width)
    assert_allclose((cols.min(), cols.max()), (x0, x0 + 79), atol=cell_w)
    assert_allclose((rows.min(), rows.max()), (y0, y0 + 79), atol=cell_h)
    assert found.box_xyxy[0] == 0 if "left" in corner else found.box_xyxy[2] == width - 1
    assert found.box_xyxy[1] == 0 if "top" in corner else found.box_xyxy[3] == height - 1


def test_what_a_crop_cut_off_stays_outside_the_mask():
    grid = Grid.centre_crop(24, WIDE, resize_to=336)
    assert_allclose(grid.extent_xyxy, (200, 0, 440, 240), atol=0.5)
    mask = mask_on_image(np.ones((24, 24), bool), grid, WIDE)
    assert mask[:, 201:439].all()
    assert not mask[:, :199].any()
    assert not mask[:, 441:].any()
    box = box_on_image(np.ones((24, 24), bool), grid, WIDE)
    assert_allclose(box, (200, 0, 439, 239), atol=1)


def test_padding_has_no_place_in_mask_or_box():
    grid = Grid.padded_square(4, (80, 40))  # the image fills the two middle rows
    cells = np.zeros((4, 4), bool)
    cells[0] = True
    assert not mask_on_image(cells, grid, (80, 40)).any()
    assert box_on_image(cells, grid, (80, 40)) is None
    cells[1, 1] = True
    assert box_on_image(cells, grid, (80, 40)) == (0, 0, 79, 19)


def test_a_cell_smaller_than_a_pixel_still_has_a_box_of_one_pixel():
    for col in range(24):
        cells = np.zeros((24, 24), bool)
        cells[col, col] = True
        x0, y0, x1, y1 = box_on_image(cells, Grid.stretched(24, 24, (10, 10)), (10, 10))
        assert (x0, y0) == (x1, y1) == (col * 10 // 24, col * 10 // 24)


def test_xywh_counts_both_edges():
    assert xywh((3, 4, 3, 9)) == (3, 4, 1, 6)
    assert xywh(None) is None


# nothing to see


@pytest.mark.parametrize("resolution", ["grid", "image"])
@pytest.mark.parametrize("box_region", ["all", "largest", "largest_hull"])
@pytest.mark.parametrize("method", ["mean_relu", "otsu", "quantile"])
def test_a_flat_heat_map_has_an_empty_mask_and_no_box(method, box_region, resolution):
    record = Record(np.full((1, 1, 1, 16), 0.0625, np.float32), {"image_size": [30, 20]})
    logic = LogicConfig(
        smoothing=SHARP, mask=MaskConfig(method=method, resolution=resolution), box=BoxConfig(region=box_region)
    )
    for heads in ([(0, 0)], []):
        found = localize(record, heads, logic)
        assert found.mask.shape == (20, 30)
        assert not found.mask.any()
        assert found.box_xyxy is None
        assert found.box_xywh is None


def test_a_record_that_does_not_know_its_image_is_refused_until_told():
    record = random_record(0, 8)
    with pytest.raises(UserError, match=r"no image_size \[W, H\]; give the image as data.image_file"):
        localize(record, [(0, 0)], LogicConfig())
    assert localize(record.with_image_size((50, 40)), [(0, 0)], LogicConfig()).mask.shape == (40, 50)


# smoothing


def test_smoothing_treats_each_map_alone():
    maps = np.random.default_rng(0).random((3, 9, 7), np.float32)
    smoothed = smooth(maps, SmoothingConfig(sigma=1.3))
    assert_array_equal(smoothed, [gaussian_filter(one, 1.3) for one in maps])
    assert_array_equal(
        heat_map(maps, [(0, 0), (0, 1), (0, 2)], LogicConfig(smoothing=SmoothingConfig(sigma=1.3))),
        smoothed[0] + smoothed[1] + smoothed[2],
    )


def test_a_kernel_of_seven_reaches_three_cells():
    point = np.zeros((1, 21, 21), np.float32)
    point[0, 10, 10] = 1
    reach = np.flatnonzero(smooth(point, SmoothingConfig(sigma=4, kernel=7))[0].any(0))
    assert (reach.min(), reach.max()) == (7, 13)


def test_sigma_and_kernel_scale_with_the_grid_they_are_meant_for():
    maps = np.random.default_rng(0).random((1, 12, 48), np.float32)
    scaled = smooth(maps, SmoothingConfig(sigma=1, kernel=7, per_cells=24))
    assert_array_equal(scaled, smooth(maps, SmoothingConfig(sigma=2, kernel=13)))
    assert_array_equal(smooth(maps, SmoothingConfig(sigma=2, per_cells=48)), smooth(maps, SmoothingConfig(sigma=2)))


def test_a_power_evens_out_what_is_smoothed():
    maps = np.random.default_rng(0).random((2, 9, 7), np.float32)
    rooted = smooth(maps, SmoothingConfig(sigma=1.3, power=0.5))
    assert_array_equal(rooted, [gaussian_filter(np.sqrt(one), 1.3) for one in maps])
    assert rooted.dtype == np.float32
    assert_array_equal(smooth(maps, SmoothingConfig(sigma=0, power=0.5)), np.sqrt(maps))


def test_evened_out_the_paler_half_of_a_thing_belongs_to_its_mask():
    thing = np.zeros((12, 12), np.float32)
    thing[3:6, 2:10], thing[6:9, 2:10] = 1, 0.2
    evened = SmoothingConfig(sigma=0, power=0.4)
    assert binarise(smooth(thing[None], SHARP)[0], MaskConfig(method="otsu")).sum() == 24
    assert binarise(smooth(thing[None], evened)[0], MaskConfig(method="otsu")).sum() == 48


def test_the_heat_map_of_evened_maps_is_told_as_attention():
    maps = np.random.default_rng(0).random((3, 6, 6), np.float32) / 36
    record = Record(maps.reshape(1, 3, 1, 36)).with_image_size((60, 60))
    heads = [(0, 0), (0, 1), (0, 2)]
    plain = LogicConfig(smoothing=SHARP)
    assert_allclose(localize(record, heads, plain).heat, maps.sum(0), rtol=1e-6)
    evened = replace(plain, smoothing=SmoothingConfig(sigma=0, power=0.5))
    cut = heat_map(maps, heads, evened)
    assert_allclose(cut, np.sqrt(maps).sum(0), rtol=1e-6)
    told = localize(record, heads, evened).heat
    assert_allclose(told, 3 * np.sqrt(maps).mean(0) ** 2, rtol=1e-5)
    assert told.dtype == np.float32
    assert np.all(told <= maps.sum(0) * (1 + 1e-6)), "a power mean is no more than the mean"
    assert_array_equal(told.ravel().argsort(), cut.ravel().argsort())
    assert_allclose(
        localize(record, heads[:1], evened).heat, maps[0], rtol=1e-5
    )  # of one head, unsmoothed: its own map
    assert not localize(record, [], evened).heat.any()


def test_sharpened_a_pale_bridge_is_left_out_and_of_two_regions_the_one_that_is_looked_at_more_counts():
    heat = np.zeros((12, 12), np.float32)
    heat[3:6, 1:4], heat[3:6, 8:11], heat[4, 4:8] = 1, 0.8, 0.45  # two things and what lies between them
    plain, sharper = MaskConfig(method="otsu"), MaskConfig(method="otsu", power=2)
    assert sharpen(heat, plain) is heat
    assert binarise(heat, plain).sum() == 22
    assert binarise(sharpen(heat, sharper), sharper).sum() == 18
    found = {}
    for power in (1, 2):
        logic = LogicConfig(smoothing=SHARP, mask=MaskConfig(method="otsu", power=power), box=BoxConfig("heaviest"))
        record = Record(heat.reshape(1, 1, 1, 144)).with_image_size((12, 12))
        found[power] = localize(record, [(0, 0)], logic).box_xyxy
        assert Sight(record).head_ious((1, 3, 4, 6), logic)[0, 0] == pytest.approx((0.3, 1)[power - 1])
        on_image = replace(logic, mask=replace(logic.mask, resolution="image"))
        assert localize(record, [(0, 0)], on_image).box_xyxy == found[power]
    assert found == {1: (1, 3, 10, 5), 2: (1, 3, 3, 5)}


@pytest.mark.parametrize("power", [0.25, 0.5, 0.75, 1.25, 1.75, 2, 3.5, 4, 4.25, 1.6])
def test_sharpened_values_are_powers_whatever_they_are_made_of(power):
    values = np.random.default_rng(0).random(1000, np.float32)
    found = sharpen(values, MaskConfig(power=power))
    assert found.dtype == np.float32
    assert_allclose(found, values.astype(float) ** power, rtol=1e-6)


def test_sharpened_what_a_spline_takes_below_zero_counts_as_none():
    assert_array_equal(sharpen(np.array([-0.1, 0, 2], np.float32), MaskConfig(power=2)), [0, 0, 4])


@pytest.mark.parametrize("power", [0, -1, 11])
def test_a_power_out_of_range_is_refused(power):
    with pytest.raises(UserError, match=r"mask.power=.*: must be (0.1 or more|at most 10)"):
        MaskConfig(power=power)


@pytest.mark.parametrize("power", [0, -1, 1.5])
def test_a_power_that_evens_nothing_out_is_refused(power):
    with pytest.raises(UserError, match=r"smoothing.power=.*: must be (0.1 or more|at most 1)"):
        SmoothingConfig(power=power)


@pytest.mark.parametrize("kernel", [0, 4, -3])
def test_an_impossible_kernel_is_refused(kernel):
    with pytest.raises(UserError, match=f"smoothing.kernel={kernel}: must be (odd|1 or more)"):
        smooth(np.ones((1, 4, 4), np.float32), SmoothingConfig(kernel=kernel))


@pytest.mark.parametrize("settings", [{"sigma": -1.0}, {"per_cells": -24}], ids=str)
def test_smoothing_below_zero_is_refused(settings):
    with pytest.raises(UserError, match=r"smoothing.\w+=-.*: must be [01] or more"):
        smooth(np.ones((1, 4, 4), np.float32), SmoothingConfig(**settings))


# thresholds


def otsu_by_trial(values: np.ndarray) -> np.ndarray:
    """The split of least variance within its two sides, by trying every value."""
    splits = np.unique(values)[:-1]
    within = [
        values[values <= s].size * values[values <= s].var() + values[values > s].size * values[values > s].var()
        for s in splits
    ]
    return values > splits[int(np.argmin(within))]


def test_otsu_splits_where_trying_every_value_does():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.concatenate(
            [rng.normal(0, 1, rng.integers(2, 60)), rng.normal(rng.uniform(2, 6), 1, rng.integers(2, 60))]
        )
        assert_array_equal(binarise(values, MaskConfig(method="otsu")), otsu_by_trial(values))


def test_mean_and_quantile_keep_what_lies_above():
    heat = np.arange(10, dtype=np.float32).reshape(2, 5)
    assert_array_equal(binarise(heat, MaskConfig()), heat > 4.5)
    assert_array_equal(binarise(heat, MaskConfig(method="quantile", quantile=0.8)), heat > 7.2)


def test_half_of_the_peak_and_a_share_of_the_mass():
    heat = np.array([[4, 0, 1], [3, 2, -5]], np.float32)
    assert_array_equal(binarise(heat, MaskConfig(method="peak")), heat > 2)
    assert_array_equal(binarise(heat, MaskConfig(method="peak", peak=0.2)), heat > 0.8)
    assert_array_equal(binarise(heat, MaskConfig(method="mass", mass=0.4)), heat > 3)  # 4 of 10; what is negative: none
    assert_array_equal(binarise(heat, MaskConfig(method="mass", mass=0.41)), heat > 2)
    assert_array_equal(binarise(heat, MaskConfig(method="mass", mass=0.99)), heat > 0)


def test_the_stable_level_leaves_what_changes_least_around_the_peak():
    y, x = np.mgrid[:15, :15]
    heat = np.maximum(0, 6.5 - np.hypot(y - 6, x - 7)).astype(np.float32)  # a soft edge
    heat[5:8, 6:9] = 8.5
    heat[6, 7] = 10
    heat[14, 14] = 9  # elsewhere
    assert_array_equal(
        region(binarise(heat, MaskConfig(method="stable")), BoxConfig(region="largest")), (heat >= 8) & (y < 14)
    )


@pytest.mark.parametrize("method", ["otsu", "quantile", "peak", "mass", "stable"])
def test_nothing_stands_out_of_a_flat_map(method):
    for value in (0.0, 0.3):
        assert not binarise(np.full((4, 4), value, np.float32), MaskConfig(method=method)).any()
        assert not binarise(cut_cells(np.full((1, 4, 4), value, np.float32), 3)[0], MaskConfig(method=method)).any()


def test_cells_are_cut_by_interpolation_and_keep_their_centres():
    heats = np.random.default_rng(0).random((2, 5, 4), np.float32)
    assert cut_cells(heats, 1) is heats
    fine = cut_cells(heats, 3)
    assert fine.shape == (2, 15, 12)
    assert_allclose(fine[:, 1::3, 1::3], heats, atol=1e-6)
    assert cut_cells(heats[:0], 3).shape == (0, 15, 12)


def test_a_box_may_be_finer_than_cells():
    heat = np.zeros((1, 1, 1, 64), np.float32)
    heat.reshape(8, 8)[3:5, 3:5] = 1
    record = Record(heat, {"image_size": [80, 80], "grids": [Grid.stretched(8, 8, (80, 80)).to_dict()]})
    coarse = localize(record, [(0, 0)], LogicConfig(smoothing=SmoothingConfig(sigma=0)))
    assert coarse.box_xyxy == (30, 30, 49, 49)
    half = MaskConfig(method="peak", cuts=10)
    fine = localize(record, [(0, 0)], LogicConfig(smoothing=SmoothingConfig(sigma=1), mask=half))
    assert fine.mask_grid.shape == (80, 80)
    x0, y0, x1, y1 = fine.box_xyxy
    assert (x0, y0) == (79 - x1, 79 - y1)  # symmetric about the middle, as the map is
    assert x0 % 10 != 0
    assert fine.mask[y0, 39]
    assert not fine.mask[max(0, y0 - 1), 39]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "yen"}, "mask.method=yen: choose from mean_relu, otsu, quantile, peak, mass, stable"),
        ({"mass": 0.0}, "mask.mass=0.0: must lie between 0 and 1"),
        ({"cuts": 33}, "mask.cuts=33"),
        ({"method": "quantile", "quantile": 1.5}, "mask.quantile=1.5: must lie between 0 and 1"),
    ],
)
def test_unknown_thresholds_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        binarise(np.eye(3, dtype=np.float32), MaskConfig(**config))


def test_thresholding_on_the_image_follows_the_interpolated_heat():
    heat = np.array([[0, 1]], np.float32)
    mask = binarise_on_image(heat, Grid.stretched(1, 2, (8, 2)), (8, 2), MaskConfig())
    assert_array_equal(mask, [[False] * 4 + [True] * 4] * 2)


def test_thresholding_on_the_image_ignores_the_padding():
    heat = np.array([[9, 9], [0, 0], [0, 0], [0, 1]], np.float32)
    grid = Grid(0, 4, 2, (0, -4, 8, 4))  # the upper two rows lie above the image
    alone = binarise_on_image(heat[2:], Grid(0, 2, 2, (0, 0, 8, 4)), (8, 4), MaskConfig())
    assert alone.any()
    assert_array_equal(binarise_on_image(heat, grid, (8, 4), MaskConfig()), alone)
    outside = Grid(0, 4, 2, (0, -8, 8, 0))
    assert not binarise_on_image(heat, outside, (8, 4), MaskConfig()).any()


def test_the_heaviest_region_need_not_be_the_largest():
    heat = np.array([[1, 1, 1, 0, 4], [0, 0, 0, 0, 0]], np.float32)
    assert_array_equal(region(heat > 0, BoxConfig(region="largest"), heat), heat == 1)
    assert_array_equal(region(heat > 0, BoxConfig(region="heaviest"), heat), heat == 4)
    assert_array_equal(region(heat > 0, BoxConfig(region="heaviest")), heat == 1)  # all cells alike


def test_an_unknown_resolution_or_region_is_refused():
    record = random_record(0, 8, image_size=[40, 30])
    with pytest.raises(UserError, match=r"mask.resolution=pixel: choose from grid, image"):
        localize(record, [(0, 0)], LogicConfig(mask=MaskConfig(resolution="pixel")))
    with pytest.raises(UserError, match=r"box.region=hull: choose from all, largest, largest_hull"):
        localize(record, [(0, 0)], LogicConfig(box=BoxConfig(region="hull")))


# regions


def cells(*rows: str) -> np.ndarray:
    return np.array([[sign != "." for sign in row] for row in rows])


def test_all_cells_stay_by_default_in_an_array_of_their_own():
    mask = cells("x..", "..x")
    kept = region(mask, BoxConfig())
    assert_array_equal(kept, mask)
    assert kept is not mask


def test_the_largest_region_counts_corners_as_connections_and_prefers_the_first():
    assert_array_equal(
        region(cells("x..x", ".x.x", "...."), BoxConfig(region="largest")), cells("x...", ".x..", "....")
    )
    assert_array_equal(
        region(cells("x..x", "x..x", "...x"), BoxConfig(region="largest")), cells("...x", "...x", "...x")
    )


def test_the_largest_hull_may_belong_to_a_region_of_fewer_cells():
    mask = cells("x......", "x......", "x......", "xxxx...", ".......", "....xxx", "....xxx", "....xxx")
    assert_array_equal(region(mask, BoxConfig(region="largest")), mask & (np.arange(8) > 4)[:, None])
    hull = region(mask, BoxConfig(region="largest_hull"))
    assert_array_equal(
        hull, cells("xx.....", "xxx....", "xxxx...", "xxxx...", ".......", ".......", ".......", ".......")
    )


def test_the_largest_hull_is_the_one_of_the_largest_area():
    mask = cells("xxxxxxxx", "........", "xxxx....", "x..x....", "xxxx....")
    assert_array_equal(region(mask, BoxConfig(region="largest_hull")), cells(*2 * ["........"], *3 * ["xxxx...."]))


LINES = {
    "cell": cells("...", ".x.", "..."),
    "row": cells("...", "xxx"),
    "column": cells("x..", "x..", "x.."),
    "1x1": cells("x"),
}


@pytest.mark.parametrize("mask", LINES.values(), ids=LINES)
def test_the_hull_of_cells_in_a_line_is_the_line(mask):
    assert_array_equal(region(mask, BoxConfig(region="largest_hull")), mask)


def test_the_hull_fills_holes_and_holds_its_region():
    assert_array_equal(region(cells("xxx", "x.x", "xxx"), BoxConfig(region="largest_hull")), np.ones((3, 3), bool))
    rng = np.random.default_rng(0)
    for _ in range(30):
        mask = rng.random((12, 9)) > 0.7
        hull = region(mask, BoxConfig(region="largest_hull"))
        assert any((hull >= part).all() for part in _regions(mask))
        assert len(_regions(hull)) == 1


def test_of_all_hulls_the_largest_is_kept_and_of_equal_ones_the_first():
    rng = np.random.default_rng(1)
    for density in (0.6, 0.8, 0.93):
        for _ in range(40):
            mask = rng.random((14, 11)) > density
            hulls = [region(part, BoxConfig(region="largest_hull")) for part in _regions(mask)]
            areas = [bbox._hull(part).volume for part in _regions(mask)]
            firsts = [i for i, area in enumerate(areas) if area > max(areas) - 1e-6]
            kept = region(mask, BoxConfig(region="largest_hull"))
            assert any(np.array_equal(kept, hulls[i]) for i in firsts)
    assert_array_equal(region(cells("xx..xx", "xx..xx"), BoxConfig(region="largest_hull")), cells("xx....", "xx...."))


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    parts = []
    for component in reference_rules.components(mask):
        parts.append(np.zeros(mask.shape, bool))
        parts[-1][tuple(zip(*component, strict=True))] = True
    return parts


def test_the_papers_rules_keep_one_of_two_things():
    weights = np.zeros((24, 24), np.float32)
    weights[2:8, 2:8], weights[18:20, 18:20] = 1, 1
    record = Record((weights / weights.sum()).reshape(1, 1, 1, -1), {"image_size": [240, 240]})
    x0, y0, x1, y1 = localize(record, [(0, 0)], PAPER).box_xyxy
    assert x1 < 120
    assert y1 < 120
    assert x0 == y0 < 20
    assert localize(record, [(0, 0)], LogicConfig()).box_xyxy[2] > 180


# against the generic prompt


def with_generic(attn: np.ndarray, generic: np.ndarray | None) -> Record:
    """One layer; maps [heads, rows, cols]."""
    flat = [None if maps is None else maps.astype(np.float32).reshape(1, len(maps), 1, -1) for maps in (attn, generic)]
    return Record(flat[0], {"image_size": [80, 80]}, generic=flat[1])


@pytest.mark.parametrize("method", ["ratio", "difference"])
def test_what_the_generic_prompt_looks_at_too_is_taken_out_and_the_thing_remains(method):
    thing, distraction = np.zeros((1, 8, 8)), np.zeros((1, 8, 8))
    thing[0, 1:3, 1:3], distraction[0, 5:7, 5:7] = 0.1, 0.12
    record = with_generic(thing + distraction, distraction * 1.5 + 0.001)
    plain, against = (
        localize(record, [(0, 0)], LogicConfig(contrast=c, smoothing=SHARP, mask=MaskConfig("otsu")))
        for c in ("none", method)
    )
    assert plain.box_xyxy == (10, 10, 69, 69)
    assert against.box_xyxy == (10, 10, 29, 29)


def test_a_ratio_keeps_each_heads_weight_and_survives_zeros():
    rng = np.random.default_rng(0)
    maps, generic = rng.random((3, 8, 8)), rng.random((3, 8, 8))
    generic[0] = 0
    generic[1, :4], maps[2] = 0, 0
    ratio = contrasted(maps, generic, "ratio")
    assert_allclose(ratio.sum((1, 2)), maps.sum((1, 2)))
    assert_allclose(ratio[0], maps[0])  # a head that ignores the picture without the expression
    assert np.isfinite(ratio).all()
    rest = ratio[1, :4] / maps[1, :4]
    assert_allclose(rest, rest[0, 0])  # where the generic prompt does not look, nothing is blown up
    assert_allclose(contrasted(maps, np.ones_like(maps), "ratio"), maps)


def test_a_difference_is_never_negative_and_nothing_is_left_of_the_same_map():
    maps = np.random.default_rng(0).random((2, 8, 8))
    assert_array_equal(contrasted(maps, maps, "difference"), np.zeros_like(maps))
    assert contrasted(maps, maps[::-1], "difference").min() == 0
    assert localize(with_generic(maps, maps), [(0, 0), (0, 1)], LogicConfig(contrast="difference")).box_xyxy is None


def test_a_contrast_needs_the_generic_prompts_attention():
    record = with_generic(np.random.default_rng(0).random((1, 8, 8)), None)
    for contrast in ("ratio", "difference"):
        with pytest.raises(UserError, match=r"collect it again with data.save_generic=true"):
            localize(record, [(0, 0)], LogicConfig(contrast=contrast))
    with pytest.raises(UserError, match="none, ratio or difference"):
        contrasted(record.maps[0], record.maps[0], "quotient")
