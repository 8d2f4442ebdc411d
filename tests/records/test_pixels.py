"""Masks on the pixels of a picture are those of bilinear interpolation, and their overlaps are counted without them."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from lab.measure.metrics import mask_overlap
from lab.records import pixels as pixels_of
from lab.records.pixels import Pixels
from llava.grid import Grid

SIZE = (97, 61)  # pixels
ROOM = 16e6  # bytes for tiles, however large the picture
GRIDS = {
    "stretched": Grid.stretched(7, 5, SIZE),
    "padded": Grid.padded_square(9, SIZE),
    "cropped": Grid.centre_crop(6, SIZE, 30, 24),
    "one cell": Grid.stretched(1, 1, SIZE),
    "finer than the pixels": Grid.stretched(80, 120, SIZE),
    "outside": Grid(0, 4, 4, (100.0, 0.0, 140.0, 61.0)),
}


def interpolated(cells: np.ndarray, grid: Grid) -> np.ndarray:
    """By torch, on the whole extent of the grid, of which the picture is cut out."""
    x0, y0, x1, y1 = (round(edge) for edge in grid.extent_xyxy)
    values = torch.from_numpy(cells.astype(np.float32))[None, None]
    whole = torch.nn.functional.interpolate(values, size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False)
    picture = np.zeros(SIZE[::-1], bool)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, SIZE[0]), min(y1, SIZE[1])
    if left < right:
        picture[top:bottom, left:right] = whole[0, 0, top - y0 : bottom - y0, left - x0 : right - x0].numpy() > 0.5
    return picture


@pytest.fixture(params=[256, 3], ids=["whole tiles", "tiles that are cut"])
def _longest(request, monkeypatch):
    monkeypatch.setattr(pixels_of, "LONGEST", request.param)
    pixels_of._pixels.cache_clear()
    yield
    pixels_of._pixels.cache_clear()


@pytest.mark.usefixtures("_longest")
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_masks_are_those_of_bilinear_interpolation_and_overlaps_are_counted_without_them(grid):
    rng = np.random.default_rng(0)
    shape = grid.rows, grid.cols
    many = np.stack([np.zeros(shape, bool), np.ones(shape, bool), *(rng.random((6, *shape)) < 0.5)])
    true, ignore = rng.random((2, *SIZE[::-1])) < 0.4
    pixels = Pixels.of(grid, SIZE)
    masks = [pixels.mask(cells) for cells in many]
    for mask, cells in zip(masks, many, strict=True):
        assert_array_equal(mask, interpolated(cells, grid))
    for left_out in (None, ignore):
        expected = [mask_overlap(mask, true, left_out) for mask in masks]
        assert_array_equal(np.transpose(pixels.overlaps(many, true, left_out)), expected)


def test_a_large_picture_takes_hardly_more_memory_than_its_mask():
    size = (5000, 4000)
    pixels, cells = Pixels.of(Grid.stretched(24, 24, size), size), np.zeros((24, 24), bool)
    cells[3:9, 4:20] = True
    true = pixels.mask(cells)
    tracemalloc.start()
    pixels.mask(cells)
    assert tracemalloc.get_traced_memory()[1] < true.size + ROOM
    tracemalloc.reset_peak()
    assert pixels.overlaps(cells[None], true) == (true.sum(), true.sum())
    assert tracemalloc.get_traced_memory()[1] < ROOM
    tracemalloc.stop()
