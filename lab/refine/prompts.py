"""What SAM is asked: the heads' heat map as a box, as points, as both, or as a coarse mask.

    prompt = make_prompt(found, grid, (width, height), config)

Everything is in pixels of the picture, so that any other SAM can be asked the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from bbox import Box, Localization
from conf.schema import RefineConfig, RefinePrompt
from lab.base.errors import UserError
from llava.grid import Grid

Point = tuple[int, int]
PEAK = 0.5  # of the highest cell: lower maxima are no peaks
LOGIT = 10.0  # of the heat map's highest cell in a coarse mask; SAM's own low-resolution masks lie in this range
NO_BOX = "the heat map is empty: nothing stands out that SAM could be asked for"
NO_PROMPT = "no box that SAM could be asked with: {}"
NO_AREA = "the box {} encloses no area"


@dataclass(frozen=True)
class Coarse:
    """A coarse mask: logits of cells over a rectangle of the picture, edges exclusive."""

    logits: Float[np.ndarray, "rows cols"]
    grid: Grid


@dataclass(frozen=True)
class Prompt:
    """One question to SAM. It has a box or points, or both; a coarse mask comes with a box."""

    box_xyxy: Box | None = None  # pixels, both edges inclusive, as SAM was trained
    points_xy: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()  # of the points: 1 on the thing, 0 off it
    coarse: Coarse | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain lists and numbers; what the prompt does not have is left out."""
        parts: dict[str, Any] = {}
        if self.box_xyxy is not None:
            parts["box_xyxy"] = list(self.box_xyxy)
        if self.points_xy:
            parts |= {"points_xy": [list(point) for point in self.points_xy], "labels": list(self.labels)}
        if self.coarse is not None:
            logits = self.coarse.logits.round(2).tolist()
            parts["mask"] = {"logits": logits, "extent_xyxy": list(self.coarse.grid.extent_xyxy)}
        return parts


def make_prompt(found: Localization, grid: Grid, image_size: tuple[int, int], config: RefineConfig) -> Prompt:
    """The prompt that `config.prompt` asks for.

    Raises UserError if there is nothing to ask for: the mask is empty, by itself or because the thing is not there, or
    the box has no area.
    """
    if found.box_xyxy is None:
        raise UserError(NO_PROMPT.format(found.why_no_box))
    return PROMPTS[config.prompt](found, grid, image_size, config)


def box_prompt(box_xyxy: Box) -> Prompt:
    """A box alone, both edges inclusive. Raises UserError if it encloses no area."""
    x0, y0, x1, y1 = box_xyxy
    if x1 <= x0 or y1 <= y0:
        raise UserError(NO_AREA.format(list(box_xyxy)))
    return Prompt((x0, y0, x1, y1))


def _box(found: Localization, grid: Grid, image_size: tuple[int, int], config: RefineConfig) -> Prompt:
    assert found.box_xyxy is not None  # make_prompt has looked
    return box_prompt(found.box_xyxy)


def _points(found: Localization, grid: Grid, image_size: tuple[int, int], config: RefineConfig) -> Prompt:
    on = peaks(found.heat, region_cells(found), grid, image_size, config.positives)
    off = lows(found, grid, image_size, config.negatives)
    return Prompt(None, (*on, *off), (1,) * len(on) + (0,) * len(off))


def _box_and_points(found: Localization, grid: Grid, image_size: tuple[int, int], config: RefineConfig) -> Prompt:
    box, points = _box(found, grid, image_size, config), _points(found, grid, image_size, config)
    return Prompt(box.box_xyxy, points.points_xy, points.labels)


def _mask(found: Localization, grid: Grid, image_size: tuple[int, int], config: RefineConfig) -> Prompt:
    """The heat map as a coarse mask, with the box: SAM has never seen a mask alone."""
    box = _box(found, grid, image_size, config)
    return Prompt(box.box_xyxy, coarse=Coarse(heat_logits(found.heat, region_cells(found)), grid))


PROMPTS: dict[RefinePrompt, Callable[[Localization, Grid, tuple[int, int], RefineConfig], Prompt]] = {
    RefinePrompt("box"): _box,
    RefinePrompt("points"): _points,
    RefinePrompt("box+points"): _box_and_points,
    RefinePrompt("mask"): _mask,
}


def region_cells(found: Localization) -> Bool[np.ndarray, "rows cols"]:
    """The region on the heat map's own cells.

    Where it was cut on finer ones (`logic.mask.cuts`), the cells of which it takes half or more or, if there is none,
    any part.
    """
    rows, cols = found.heat.shape
    if found.mask_grid.shape == (rows, cols):
        return found.mask_grid
    parts = found.mask_grid.reshape(rows, found.mask_grid.shape[0] // rows, cols, -1).mean((1, 3))
    return parts >= 0.5 if (parts >= 0.5).any() else parts > 0


# Heat map to points


def peaks(
    heat: Float[np.ndarray, "rows cols"],
    region: Bool[np.ndarray, "rows cols"],
    grid: Grid,
    image_size: tuple[int, int],
    most: int,
) -> list[Point]:
    """The highest places of the region, highest first, at most so many, each in the picture.

    A place is a cell that none of its eight neighbours exceeds, and that reaches `PEAK` of the highest. The point is
    the mean of the cell and its neighbours in the region, weighted by their heat.
    """
    inside = region & _centre_in_picture(grid, image_size)
    if not inside.any():
        inside = region
    level = np.where(inside, heat, -np.inf)
    highest = inside & (heat == ndimage.maximum_filter(level, 3, mode="constant", cval=-np.inf))
    highest &= heat >= PEAK * level.max()
    rows, cols = np.nonzero(highest)
    order = np.argsort(-heat[rows, cols], kind="stable")[:most]
    found = [_around(heat, inside, int(rows[i]), int(cols[i])) for i in order]
    return list(dict.fromkeys(_in_picture(place, grid, image_size) for place in found))


def _around(
    heat: Float[np.ndarray, "rows cols"], region: Bool[np.ndarray, "rows cols"], row: int, col: int
) -> tuple[float, float]:
    """The weighted mean place of a cell and its neighbours, (row, col), cell centres at one half."""
    window = np.s_[max(0, row - 1) : row + 2, max(0, col - 1) : col + 2]
    weight = np.where(region[window], heat[window], 0).astype(float)
    if not weight.sum() > 0:
        return row + 0.5, col + 0.5
    down, across = (weight * np.indices(weight.shape)).sum((1, 2)) / weight.sum()
    return float(down) + window[0].start + 0.5, float(across) + window[1].start + 0.5


def lows(found: Localization, grid: Grid, image_size: tuple[int, int], most: int) -> list[Point]:
    """At most so many of the lowest cells inside the box but not in the region, and as many outside the box.

    Each is the centre of a cell that lies in the picture; of equal cells the first.
    """
    assert found.box_xyxy is not None
    x, y = _centres(grid)
    x0, y0, x1, y1 = found.box_xyxy
    boxed = ((x >= x0) & (x <= x1 + 1))[None] & ((y >= y0) & (y <= y1 + 1))[:, None]
    free = _centre_in_picture(grid, image_size) & ~region_cells(found)
    places = []
    for where in (free & boxed, free & ~boxed):
        rows, cols = np.nonzero(where)
        order = np.argsort(found.heat[rows, cols], kind="stable")[:most]
        places += [(rows[i] + 0.5, cols[i] + 0.5) for i in order]
    return [_in_picture((float(row), float(col)), grid, image_size) for row, col in places]


def _centres(grid: Grid) -> tuple[Float[np.ndarray, " cols"], Float[np.ndarray, " rows"]]:
    x0, y0, x1, y1 = grid.extent_xyxy
    across, down = (np.arange(grid.cols) + 0.5) / grid.cols, (np.arange(grid.rows) + 0.5) / grid.rows
    return x0 + across * (x1 - x0), y0 + down * (y1 - y0)


def _centre_in_picture(grid: Grid, image_size: tuple[int, int]) -> Bool[np.ndarray, "rows cols"]:
    x, y = _centres(grid)
    width, height = image_size
    return ((x >= 0) & (x < width))[None] & ((y >= 0) & (y < height))[:, None]


def _in_picture(place: tuple[float, float], grid: Grid, image_size: tuple[int, int]) -> Point:
    """The pixel of a place (row, col) on the grid, clipped to the picture."""
    x0, y0, x1, y1 = grid.extent_xyxy
    x, y = x0 + place[1] * (x1 - x0) / grid.cols, y0 + place[0] * (y1 - y0) / grid.rows
    width, height = image_size
    return int(np.clip(np.floor(x), 0, width - 1)), int(np.clip(np.floor(y), 0, height - 1))


# Heat map to coarse mask


def heat_logits(
    heat: Float[np.ndarray, "rows cols"], region: Bool[np.ndarray, "rows cols"]
) -> Float[np.ndarray, "rows cols"]:
    """Logits within ±`LOGIT`, float32: the highest cell of the region at the top, its lowest cell at 0.

    What is outside the region is below 0, however much the heads look at it.
    """
    if not region.any():
        raise UserError(NO_BOX)
    heat = np.asarray(heat, float)
    cut, top = float(heat[region].min()), float(heat[region].max())
    scaled = LOGIT * (heat - cut) / (top - cut) if top > cut else np.where(heat >= cut, LOGIT, -LOGIT)
    outside = np.minimum(scaled, -LOGIT * (1 - np.clip(heat / top if top else heat, 0, 1)))
    return np.clip(np.where(region, scaled, outside), -LOGIT, LOGIT).astype(np.float32)
