"""From the maps of the chosen heads to a heat map, a mask and a box.

    found = localize(record, [(14, 24), (14, 13), (14, 26)], logic)
    found.heat, found.mask, found.box_xyxy

All functions are pure and take arrays. Masks and boxes are placed on the original image through the grid's extent, so
padding is undone and what a crop cut off stays outside. Pixel boxes hold whole numbers, both edges inclusive.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage

from analyze import Head, HeadScore
from conf.schema import (
    BoxConfig,
    Contrast,
    LogicConfig,
    MaskConfig,
    MaskMethod,
    Region,
    Resolution,
    SmoothingConfig,
)
from lab.base.checkpoints import same_model
from lab.base.chunks import MOST, in_chunks
from lab.base.errors import UserError
from lab.heads.choice import HeadChoice, refuse_foreign_heads
from lab.heads.weights import head_weights
from lab.presence.files import KEY, Calibration
from lab.presence.numbers import presence_numbers
from lab.records.pixels import Pixels
from lab.records.record import Record
from llava.grid import Grid

if TYPE_CHECKING:
    from scipy.spatial import ConvexHull

Box = tuple[int, int, int, int]

EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True, eq=False)
class Localization:
    """Where the chosen heads look. The boxes are None if nothing inside the image stands out."""

    heads: tuple[Head, ...]
    heat: Float[np.ndarray, "rows cols"]  # what the heads together give each cell: see `in_attention`, float32
    mask_grid: Bool[np.ndarray, "rows*cuts cols*cuts"]  # above the threshold, and of that the region that was kept
    mask: Bool[np.ndarray, "height width"]  # on the original image
    box_xyxy: Box | None  # pixels, both edges inclusive
    box_xywh: Box | None  # left, top, width, height in pixels
    presence: float | None = None  # probability that the thing is there, 0 to 1; None: not calibrated for these heads
    absent: bool = False  # presence is below `logic.presence.threshold`: no mask and no box, whatever stands out

    @property
    def why_no_box(self) -> str:
        """In words; only where there is none."""
        if self.absent:
            return f"presence is {self.presence:.4g}, below logic.presence.threshold"
        return "the mask is empty, nothing stands out"


def localize(record: Record, heads: Sequence[Head], logic: LogicConfig) -> Localization:
    """Heat map, mask and box of the given heads, on the record's canvas.

    Without heads the heat map is zero and the mask empty; the mask is empty, too, and there is no box, where presence
    is below `logic.presence.threshold`. Raises UserError if the record does not know the image's size
    (see Record.with_image_size) or a setting is unknown.
    """
    if record.image_size is None:
        unknown = "the record does not know the image's size: meta has no image_size [W, H]"
        raise UserError(f"{unknown}; give the image as data.image_file")
    grid, size, there = record.grid, record.image_size, presence(record, heads, logic)
    heat = heat_map(head_maps(record, heads, logic.contrast), heads, logic)
    mask_grid, shown = _cells(heat, logic), in_attention(heat, len(heads), logic)
    if absent(there, logic):
        nothing = np.zeros(size[::-1], bool)
        return Localization(tuple(heads), shown, np.zeros_like(mask_grid), nothing, None, None, there, absent=True)
    if logic.mask.resolution == Resolution.image:
        mask = _cells_on_image(heat, grid, size, logic)
        box = box_on_image(mask, Grid.stretched(size[1], size[0], size), size)
    else:
        fine = grid.cut(logic.mask.cuts)
        mask, box = mask_on_image(mask_grid, fine, size), box_on_image(mask_grid, fine, size)
    return Localization(tuple(heads), shown, mask_grid, mask, box, xywh(box), there)


def localize_record(record: Record, ranking: list[HeadScore], logic: LogicConfig, choice: HeadChoice) -> Localization:
    """The chosen heads' mask and box. Raises UserError if the heads are known to be of another model."""
    shape = record.num_layers, record.num_heads
    refuse_foreign_heads(choice, record.made_by, shape)
    return localize(record, choice.of(shape, ranking), logic)


# Presence


def presence(record: Record, heads: Sequence[Head], logic: LogicConfig) -> float | None:
    """The probability that the described thing is there, 0 to 1; None without a calibration of these heads.

    Raises UserError where `logic.presence.threshold` needs one, but the record is of other tokens.
    """
    if not isinstance(logic.presence.file, Mapping):
        return None
    found = Calibration.from_dict(logic.presence.file, KEY)
    if set(found.heads) != set(heads):
        return None
    made_by = record.made_by
    if found.model is not None and made_by is not None and not same_model(made_by, found.model):
        if logic.presence.threshold is None:
            return None
        other = f"the record is of {made_by}, the calibration of {found.model}"
        raise UserError(f"{other}: leave out logic.presence.threshold")
    if record.read != found.tokens:
        if logic.presence.threshold is None:
            return None
        other = f"the record is of model.read={record.read}, the calibration of {found.tokens}"
        raise UserError(f"{other}: leave out logic.presence.threshold")
    return found.rule.probability(numbers_of(record, found.heads, found.smoothing))


def numbers_of(record: Record, heads: Sequence[Head], smoothing: SmoothingConfig) -> dict[str, float]:
    """What the heads of a record tell of presence, see `lab.presence.numbers`."""
    maps = record.maps_of(heads)
    return presence_numbers(maps, smooth(maps, smoothing), record.dtype)


def absent(there: float | None, logic: LogicConfig) -> bool:
    """Whether presence is below the threshold, so that there is no box."""
    return there is not None and logic.presence.threshold is not None and there < logic.presence.threshold


def heat_box(
    heat: Float[np.ndarray, "rows cols"], grid: Grid, image_size: tuple[int, int], logic: LogicConfig
) -> Box | None:
    """The box that `localize` gives for a heat map.

    It leaves out the mask on the image, which takes most of the time.
    """
    if logic.mask.resolution == Resolution.image:
        mask = _cells_on_image(heat, grid, image_size, logic)
        return box_on_image(mask, Grid.stretched(image_size[1], image_size[0], image_size), image_size)
    return box_on_image(_cells(heat, logic), grid.cut(logic.mask.cuts), image_size)


def _cells(heat: Float[np.ndarray, "rows cols"], logic: LogicConfig) -> Bool[np.ndarray, "rows*cuts cols*cuts"]:
    fine = sharpen(cut_cells(heat[None], logic.mask.cuts), logic.mask)[0]
    return region(binarise(fine, logic.mask), logic.box, fine)


def _cells_on_image(
    heat: Float[np.ndarray, "rows cols"], grid: Grid, image_size: tuple[int, int], logic: LogicConfig
) -> Bool[np.ndarray, "height width"]:
    mask = binarise_on_image(heat, grid, image_size, logic.mask)
    heaviest = logic.box.region == Region.heaviest  # else the values, as many as the picture has pixels, are not needed
    return region(mask, logic.box, sharpen(_on_image(heat, grid, image_size), logic.mask) if heaviest else None)


# Maps to heat map


def head_maps(
    record: Record, heads: Sequence[Head], contrast: Contrast = Contrast.none
) -> Float[np.ndarray, "heads rows cols"]:
    """The heads' attention on the record's canvas, set against that of the generic prompt unless `contrast` is
    none.

    Raises UserError if a contrast is asked for and the record holds no attention of the generic prompt.
    """
    if contrast == Contrast.none:
        return record.maps_of(heads)
    return contrasted(record.maps_of(heads), record.generic_maps_of(heads), contrast)


def contrasted(
    maps: Float[np.ndarray, "maps rows cols"], generic: Float[np.ndarray, "maps rows cols"], method: Contrast
) -> Float[np.ndarray, "maps rows cols"]:
    """What the expression adds to where a head looks anyway (arXiv 2502.17422).

    `difference`: the map minus the generic prompt's, negatives cut. `ratio`: the map divided by the generic prompt's
    plus its mean, and scaled back to the map's own sum, so that heads keep their weight in the heat map. Cells at which
    the generic prompt hardly looks are therefore left as they are instead of being blown up, and only those at which it
    looks more than on average lose.
    """
    if method == Contrast.difference:
        return np.maximum(maps - generic, 0)
    if method != Contrast.ratio:
        raise UserError(f"logic.contrast is {method!r}; expected none, ratio or difference")
    divisor = generic + generic.mean((1, 2), keepdims=True)
    # The map of a head that ignores the picture otherwise stays as it is.
    ratio = np.divide(maps, divisor, out=maps.copy(), where=divisor > 0)
    sums, before = ratio.sum((1, 2), keepdims=True), maps.sum((1, 2), keepdims=True)
    return ratio * np.divide(before, sums, out=np.zeros_like(sums), where=sums > 0)


def smooth(maps: Float[np.ndarray, "maps rows cols"], config: SmoothingConfig) -> Float[np.ndarray, "maps rows cols"]:
    """Each map, its values to the power `power`, under a Gaussian, its edges mirrored.

    `per_cells` scales sigma and kernel with the longer side of the grid. A power below 1 evens out a map: what a head
    looks at is rarely looked at alike all over, and a threshold leaves out the paler parts. Values are 0 or more.
    """
    if config.power != 1:
        maps = maps**config.power
    scale = max(maps.shape[1:]) / config.per_cells if config.per_cells else 1.0
    sigma = config.sigma * scale
    if sigma < 0.001 or len(maps) == 0:  # narrower than a cell by far
        return maps.copy()
    radius = None if config.kernel is None else (0, *2 * [round(config.kernel // 2 * scale)])
    return ndimage.gaussian_filter(maps, (0, sigma, sigma), radius=radius)  # 0: not from one map into the next


def heat_map(
    maps: Float[np.ndarray, "heads rows cols"], heads: Sequence[Head], logic: LogicConfig
) -> Float[np.ndarray, "rows cols"]:
    """What is cut: the sum of the smoothed maps of the chosen heads, weighted as `logic.weights` says, float32."""
    heat, smoothed = np.zeros(maps.shape[1:], np.float32), smooth(maps, logic.smoothing)
    weights = head_weights(smoothed[None], [heads], logic) if len(heads) else None
    if weights is not None:
        smoothed = smoothed * weights[0][:, None, None]
    for one in smoothed:  # in order: float32 sums depend on it
        heat += one
    return heat


def in_attention(
    heat: Float[np.ndarray, "rows cols"], number: int, logic: LogicConfig
) -> Float[np.ndarray, "rows cols"]:
    """The heat map of `number` heads as attention: so many times their power mean, which is their sum if nothing was
    evened out (`logic.smoothing.power`). What is higher stays higher.
    """
    if number == 0 or logic.smoothing.power == 1:
        return heat
    return (number * (heat / number) ** (1 / logic.smoothing.power)).astype(np.float32)


# Heat map to mask


def binarise(heat: Float[np.ndarray, "*shape"], config: MaskConfig) -> Bool[np.ndarray, "*shape"]:
    """What lies above the threshold of `config.method`.

    Any shape, as long as it is not empty. A flat map has nothing above, but for a mean that is rounded down.
    """
    return binarise_each(heat[None], config)[0]


def binarise_each(heats: Float[np.ndarray, "maps *shape"], config: MaskConfig) -> Bool[np.ndarray, "maps *shape"]:
    """The same for each of many maps, which have their own thresholds."""
    values = heats.reshape(len(heats), -1)
    threshold = np.asarray(THRESHOLDS[config.method](heats, config), values.dtype)
    return (values > threshold[:, None]).reshape(heats.shape)


def cut_cells(
    heats: Float32[np.ndarray, "maps rows cols"], cuts: int
) -> Float32[np.ndarray, "maps rows*cuts cols*cuts"]:
    """Each cell in `cuts` by `cuts`, between which the map is interpolated by cubic splines; flat maps stay flat."""
    if cuts == 1:
        return heats
    down, across = (_spline(number, cuts) for number in heats.shape[1:])
    cut = (down @ heats.astype(np.float64) @ across.T).astype(np.float32)
    flat = heats.min((1, 2)) == heats.max((1, 2))
    cut[flat] = heats[flat, :1, :1]
    return cut


@lru_cache(maxsize=64)
def _spline(number: int, cuts: int) -> Float[np.ndarray, "number*cuts number"]:
    """How much each of `number` cells in a row counts in each of the finer ones: the spline is linear in the values."""
    return ndimage.zoom(np.eye(number), (cuts, 1), order=3, mode="nearest", grid_mode=True)


def sharpen(heats: Float[np.ndarray, "*shape"], config: MaskConfig) -> Float[np.ndarray, "*shape"]:
    """Each value to the power `config.power`: above 1, Otsu's threshold keeps less of what is pale.

    With another power than 1, negative values, which splines bring in, count as none.
    """
    return heats if config.power == 1 else _power(np.maximum(heats, 0), config.power)


def _power(values: Float[np.ndarray, "*shape"], exponent: float) -> Float[np.ndarray, "*shape"]:
    """The values, 0 or more, to a power above 0.

    Quarters are made of square roots, which all processors round alike and are quick at.
    """
    quarters = 4 * exponent
    if quarters != int(quarters):
        return values**exponent
    whole, rest = divmod(int(quarters), 4)
    root = np.sqrt(values) if rest else values
    factors = [values] * whole + [root] * (rest > 1) + ([np.sqrt(root)] if rest % 2 else [])
    return reduce(np.multiply, factors)


def _mean(heats: np.ndarray, _config: MaskConfig) -> np.ndarray:
    """torch's mean: a cell that equals the mean must fall on the same side everywhere, and numpy's last bit differs."""
    import torch

    rows = torch.from_numpy(np.ascontiguousarray(heats.reshape(len(heats), -1)))
    return torch.cat([piece.mean(1) for piece in in_chunks(rows)]).numpy()


def _otsu(heats: np.ndarray, _config: MaskConfig) -> np.ndarray:
    """The value that splits the others with the largest variance between the two sides; the lower side keeps it.

    N. Otsu, "A threshold selection method from gray-level histograms", 1979, without a histogram.
    """
    values = heats.reshape(len(heats), -1)
    return np.concatenate([_otsu_of(piece) for piece in np.array_split(values, 1 + values.size // MOST)])


def _otsu_of(values: np.ndarray) -> np.ndarray:
    number = values.shape[1]
    ascending = np.sort(values, axis=1)
    below = np.arange(1.0, number)  # so many values lie on the lower side, whose last one must be less than the next
    sums = np.cumsum(ascending.astype(np.float64), axis=1)  # a third of the time of cumsum(dtype=float64)
    lower, total = sums[:, :-1], sums[:, -1:]
    spread = total * (below / number)  # in place from here: the sums may be those of a million cells
    spread -= lower
    spread /= np.sqrt(below * (number - below))  # the deviation between the two sides, by a factor
    np.copyto(spread, -1.0, where=ascending[:, :-1] == ascending[:, 1:])
    return ascending[np.arange(len(values)), spread.argmax(1)] if number > 1 else ascending[:, 0]


def _quantile(heats: np.ndarray, config: MaskConfig) -> np.ndarray:
    return np.quantile(heats.reshape(len(heats), -1), config.quantile, axis=1)


def _peak(heats: np.ndarray, config: MaskConfig) -> np.ndarray:
    """A share of the highest value, half of it for a full width at half maximum."""
    values = heats.reshape(len(heats), -1)
    high = values.max(1)
    return np.where(high > values.min(1), high * config.peak, high)


def _mass(heats: np.ndarray, config: MaskConfig) -> np.ndarray:
    """What leaves the fewest cells that hold a share of the sum; negative values count as none."""
    descending = -np.sort(-heats.reshape(len(heats), -1), axis=1)
    held = np.cumsum(np.maximum(descending, 0), axis=1, dtype=np.float64)
    last = (held < config.mass * held[:, -1:]).sum(1)  # the cell with which the share is reached
    below = np.minimum(last + 1, descending.shape[1] - 1)
    return descending[np.arange(len(heats)), below]


def _stable(heats: np.ndarray, _config: MaskConfig) -> np.ndarray:
    """The level at which the region around the peak changes least in area, relative to it, as the level moves.

    J. Matas et al., "Robust wide baseline stereo from maximally stable extremal regions", 2002, of one nested family.
    """
    return np.array([_stable_of(heat) for heat in heats])


def _stable_of(heat: np.ndarray) -> float:
    low, high = float(heat.min()), float(heat.max())
    levels = low + (high - low) * np.linspace(0.1, 0.9, LEVELS)
    above = np.zeros((LEVELS, heat.shape[0] + 1, heat.shape[1]), bool)  # below each other, an empty row between two
    above[:, :-1] = heat > levels[:, None, None]
    labels = ndimage.label(above.reshape(-1, heat.shape[1]), structure=EIGHT_NEIGHBOURS)[0].reshape(above.shape)
    at_peak = labels[:, :-1].reshape(LEVELS, -1)[:, heat.argmax()]
    area = np.array([np.count_nonzero(one == label) for one, label in zip(labels, at_peak, strict=True)], float)
    change = (area[: -2 * STEP] - area[2 * STEP :]) / np.maximum(area[STEP:-STEP], 1)  # of a flat map all are empty
    return levels[STEP + int(change.argmin())] if low < high else high


LEVELS, STEP = 33, 2  # of _stable: levels between a tenth and nine tenths of the range, and by how many they move


# The threshold of each of [maps, rows, cols], or of maps of another shape; `stable` needs rows and columns.
THRESHOLDS: dict[MaskMethod, Callable[[np.ndarray, MaskConfig], np.ndarray]] = {
    MaskMethod.mean_relu: _mean,
    MaskMethod.otsu: _otsu,
    MaskMethod.quantile: _quantile,
    MaskMethod.peak: _peak,
    MaskMethod.mass: _mass,
    MaskMethod.stable: _stable,
}


def region(
    mask: Bool[np.ndarray, "rows cols"], config: BoxConfig, heat: Float[np.ndarray, "rows cols"] | None = None
) -> Bool[np.ndarray, "rows cols"]:
    """The part of the mask that counts, as `config.region` says; regions are 8-connected.

    `heat` is what the mask was cut from; without, all of its cells are alike.
    """
    return filled(regions(mask[None], config, None if heat is None else heat[None]), config)[0]


def regions(
    masks: Bool[np.ndarray, "maps rows cols"],
    config: BoxConfig,
    heats: Float[np.ndarray, "maps rows cols"] | None = None,
) -> Bool[np.ndarray, "maps rows cols"]:
    """The cells of each of many masks that count.

    Of the largest hull, those that it is drawn around: its box is theirs, and `filled` adds what else lies inside.
    """
    number, rows, cols = masks.shape
    apart = np.zeros((number, rows + 1, cols), bool)  # below each other, an empty row between each and the next
    apart[:, :rows] = masks
    labels, count = ndimage.label(apart.reshape(-1, cols), structure=EIGHT_NEIGHBOURS)  # numbered mask by mask
    if count == 0 or config.region == Region.all:
        return masks.copy()
    labels = labels.reshape(apart.shape)[:, :rows]
    weights = np.ones(masks.shape, np.float32) if heats is None else heats
    return labels == REGIONS[config.region](labels, count, weights)[:, None, None]


def _largest(
    labels: Int[np.ndarray, "maps rows cols"], count: int, _heats: Float[np.ndarray, "maps rows cols"]
) -> Int[np.ndarray, " maps"]:
    """The region of each map with the most cells, the first of equal ones; -1 where there is none."""
    area = np.bincount(labels[labels > 0], minlength=count + 1)[1:]
    return _first_of_most(area, _map_of(labels, count), len(labels))


def _heaviest(
    labels: Int[np.ndarray, "maps rows cols"], count: int, heats: Float[np.ndarray, "maps rows cols"]
) -> Int[np.ndarray, " maps"]:
    """The region of each map with the largest sum of the map, the first of equal ones; -1 where there is none."""
    inside = np.flatnonzero(labels > 0)  # a small part of all, as a rule
    mass = np.bincount(labels.ravel()[inside], weights=heats.ravel()[inside], minlength=count + 1)[1:]
    return _first_of_most(mass, _map_of(labels, count), len(labels))


def _map_of(labels: Int[np.ndarray, "maps rows cols"], count: int) -> Int[np.ndarray, " regions"]:
    """The map that each region is in: they are numbered map by map."""
    last = np.maximum.accumulate(labels.reshape(len(labels), -1).max(1))
    return np.searchsorted(last, np.arange(1, count + 1))


def _first_of_most(
    size: Float[np.ndarray, " regions"], map_of: Int[np.ndarray, " regions"], maps: int
) -> Int[np.ndarray, " maps"]:
    order = np.lexsort((-size, map_of))  # what is alike keeps its order
    with_any, first = np.unique(map_of[order], return_index=True)
    best = np.full(maps, -1)
    best[with_any] = order[first] + 1
    return best


def _measured(
    labels: Int[np.ndarray, "maps rows cols"], count: int
) -> tuple[Int[np.ndarray, " regions"], Int[np.ndarray, " regions"], Int[np.ndarray, " regions"]]:
    """Of each region the number of cells, the map that it is in, and the cells of the box around it."""
    map_of, row, col = np.nonzero(labels)
    label = labels[map_of, row, col] - 1
    area = np.bincount(label, minlength=count)
    low, high = np.full((2, count), max(labels.shape)), np.full((2, count), -1)
    for axis, place in enumerate((row, col)):
        np.minimum.at(low[axis], label, place)
        np.maximum.at(high[axis], label, place)
    return area, _map_of(labels, count), (high - low + 1).prod(0)


def _largest_hull(
    labels: Int[np.ndarray, "maps rows cols"], count: int, _heats: Float[np.ndarray, "maps rows cols"]
) -> Int[np.ndarray, " maps"]:
    """The region of each map with the largest convex hull, the first of equal ones; -1 where there is none.

    A hull is no smaller than its region and no larger than the box around it: those that cannot win are not drawn.
    """
    area, map_of, extent = _measured(labels, count)
    most = np.zeros(len(labels))  # what the largest hull of each map has at least
    np.maximum.at(most, map_of, area)
    rivals = extent >= most[map_of]
    size = np.where(rivals, extent, 0.0)
    contested = np.bincount(map_of[rivals], minlength=len(labels)) > 1
    for i in np.argsort(-extent, kind="stable").tolist():
        here = map_of[i]
        if rivals[i] and contested[here]:
            size[i] = 0.0 if extent[i] < most[here] - 1e-9 else _hull(labels[here] == i + 1).volume
            most[here] = max(most[here], size[i])
    return _first_of_most(size, map_of, len(labels))


# The number of the region of each map that counts.
REGIONS: dict[Region, Callable[[np.ndarray, int, np.ndarray], np.ndarray]] = {
    Region.largest: _largest,
    Region.largest_hull: _largest_hull,
    Region.heaviest: _heaviest,
}


def filled(masks: Bool[np.ndarray, "maps rows cols"], config: BoxConfig) -> Bool[np.ndarray, "maps rows cols"]:
    """What `regions` left of each mask, with all that lies inside its hull if `config.region` is the largest hull."""
    if config.region != Region.largest_hull:
        return masks
    hulls: dict[bytes, np.ndarray] = {}  # many sets of heads find the same
    for mask in masks:
        if (key := mask.tobytes()) not in hulls:
            hulls[key] = _inside(_hull(mask), mask.shape) if mask.any() else mask
    return np.stack([hulls[mask.tobytes()] for mask in masks])


def _hull(cells: Bool[np.ndarray, "rows cols"]) -> "ConvexHull":
    """Around the corners of the cells, so that even one cell has an area.

    A row's first and last cell decide for the row.
    """
    from scipy.spatial import ConvexHull  # a twentieth of the start-up of the stages that need no hull

    rows = np.flatnonzero(cells.any(1))
    first, last = cells[rows].argmax(1), cells.shape[1] - cells[rows, ::-1].argmax(1)
    return ConvexHull(
        [
            (y + dy, x)
            for y, ends in zip(rows, zip(first, last, strict=True), strict=True)
            for dy in (0, 1)
            for x in ends
        ]
    )


def _inside(hull: "ConvexHull", shape: tuple[int, ...]) -> Bool[np.ndarray, "rows cols"]:
    """The cells whose centre lies in the hull."""
    y, x = np.indices(shape) + 0.5
    return np.all([a * y + b * x + c <= 1e-9 for a, b, c in hull.equations], axis=0)


# To the image


def mask_on_image(
    mask: Bool[np.ndarray, "rows cols"], grid: Grid, image_size: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """The mask of a grid on an image of (width, height) pixels: bilinear, above one half;

    False where the grid does not reach.
    """
    return Pixels.of(grid, image_size).mask(mask)


def binarise_on_image(
    heat: Float[np.ndarray, "rows cols"], grid: Grid, image_size: tuple[int, int], config: MaskConfig
) -> Bool[np.ndarray, "height width"]:
    """The heat map, enlarged to the image, above a threshold over those pixels that the grid covers."""
    enlarged = _on_image(heat, grid, image_size)
    covered = np.isfinite(enlarged)
    mask = np.zeros(covered.shape, bool)
    if covered.any() and heat.min() < heat.max():  # interpolation leaves rounding noise on a flat map
        part = np.ix_(covered.any(1), covered.any(0))  # a rectangle
        mask[part] = binarise(sharpen(enlarged[part], config), config)
    return mask


def _on_image(
    values: Float[np.ndarray, "rows cols"], grid: Grid, image_size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """Bilinear (align_corners=False), -inf where the grid does not reach.

    The extent counts to the nearest whole pixel.
    """
    import torch

    width, height = image_size
    x0, y0, x1, y1 = (round(edge) for edge in grid.extent_xyxy)
    image = np.full((height, width), -np.inf, np.float32)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left < right and top < bottom:
        size = y1 - y0, x1 - x0
        enlarged = torch.nn.functional.interpolate(
            torch.from_numpy(values)[None, None], size=size, mode="bilinear", align_corners=False
        )
        image[top:bottom, left:right] = enlarged[0, 0, top - y0 : bottom - y0, left - x0 : right - x0].numpy()
    return image


def box_on_image(mask: Bool[np.ndarray, "rows cols"], grid: Grid, image_size: tuple[int, int]) -> Box | None:
    """The tight box around the mask's cells, (x0, y0, x1, y1) in pixels of the image, whole numbers, both edges
    inclusive.

    A cell's exclusive edges become pixels by int(first) and int(last - 1), clipped to the image. None if the mask is
    empty or lies outside the image.
    """
    box, found = boxes_on_image(mask[None], grid, image_size)
    return tuple(box[0].tolist()) if found[0] else None


def boxes_on_image(
    masks: Bool[np.ndarray, "masks rows cols"], grid: Grid, image_size: tuple[int, int]
) -> tuple[Int[np.ndarray, "masks 4"], Bool[np.ndarray, " masks"]]:
    """The box of each of many masks, and whether there is one."""
    x0, y0, x1, y1 = grid.extent_xyxy
    across, down = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    left, right, in_width = _pixels(across, x0, x1, image_size[0])
    top, bottom, in_height = _pixels(down, y0, y1, image_size[1])
    return np.stack([left, top, right, bottom], axis=1), in_width & in_height


def _pixels(
    cells: Bool[np.ndarray, "masks cells"], low: float, high: float, limit: int
) -> tuple[Int[np.ndarray, " masks"], Int[np.ndarray, " masks"], Bool[np.ndarray, " masks"]]:
    """First and last pixel, of `limit`, that the cells reach, and whether they reach any.

    All cells together span the pixels from `low` to `high`.
    """
    count = cells.shape[1]
    start = low + cells.argmax(1) * (high - low) / count
    stop = low + (count - cells[:, ::-1].argmax(1)) * (high - low) / count
    first = np.maximum(0, np.floor(start)).astype(int)
    last = np.maximum(first, np.floor(np.minimum(limit - 1, stop - 1)).astype(int))  # a cell may be less than a pixel
    return first, last, cells.any(1) & (stop > 0) & (start < limit)


def xywh(box_xyxy: Box | None) -> Box | None:
    """An inclusive (x0, y0, x1, y1) as (left, top, width, height)."""
    if box_xyxy is None:
        return None
    x0, y0, x1, y1 = box_xyxy
    return x0, y0, x1 - x0 + 1, y1 - y0 + 1
