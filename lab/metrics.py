"""How good boxes, masks and points are: pure functions over arrays, one score per sample, and figures with their uncertainty.

    scores = [score(read_truth(sample), predictions.get(sample.id)) for sample in samples]
    for row in summarize(scores):
        print(row.group, row.metric, row.value, row.low, row.high, row.n)
    misses(scores)                          # [(id, what is wrong with its prediction), ...]

Boxes are xyxy in pixels, continuous, edges exclusive: an image of width 10 reaches from 0 to 10. Masks are bool [height, width].
A prediction that is missing or degenerate is a miss: it counts in every figure, with an IoU of 0.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lab import rle
from lab.datasets.sample import Box, Truth, mask_box
from lab.errors import UserError
from lab.records import write_atomic

THRESHOLDS = (0.25, 0.5, 0.75)  # of Acc@; a hit at an IoU of so much or more
SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's bounds, an object below them is small, medium; else large
MEASURES = ("box", "mask", "point")
CHUNK = 2**21  # drawn indices that the bootstrap holds at once


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found for one sample; what was not found is None. `score` is the confidence, for COCO's tools."""

    id: str
    box_xyxy: Box | None = None
    mask: Bool[np.ndarray, "height width"] | None = None
    point_xy: tuple[float, float] | None = None
    score: float = 1.0


@dataclass(frozen=True)
class Score:
    """One sample's share in the figures; None where there is no truth or nothing was to be measured."""

    id: str
    split: str | None
    size: str  # small | medium | large
    box_iou: float | None = None
    intersection: int | None = None  # of the masks, pixels
    union: int | None = None
    pointed: bool | None = None  # whether the point lies on the object
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One figure of two runs over the same samples; `low` and `high` bound second - first, the samples drawn in pairs."""

    group: str  # as in Estimate
    metric: str
    first: float
    second: float
    value: float  # second - first
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Estimate:
    """One figure over one group of samples, with its bootstrap interval; all are shares from 0 to 1, higher is better."""

    group: str  # all | split <name> | small | medium | large
    metric: str
    value: float
    low: float
    high: float
    n: int


# Overlap


def box_iou(a: Float[np.ndarray, "*batch 4"], b: Float[np.ndarray, "*batch 4"], *, inclusive: bool = False) -> Float[np.ndarray, "*batch"]:
    """Intersection over union of xyxy boxes, broadcast against each other; 0 for an empty, inverted or NaN box.

    `inclusive`: the older convention, in which x1 and y1 are the last pixels inside, so that a box is x1 - x0 + 1 wide.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    overlap = _area(low, high, inclusive)
    union = _area(a[..., :2], a[..., 2:], inclusive) + _area(b[..., :2], b[..., 2:], inclusive) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def _area(low: Float[np.ndarray, "*batch 2"], high: Float[np.ndarray, "*batch 2"], inclusive: bool) -> Float[np.ndarray, "*batch"]:
    return np.prod(np.maximum(high - low + inclusive, 0.0), axis=-1)


def exclusive(box_xyxy: Sequence[float]) -> Box:
    """A box of pixels, x1 and y1 the last ones inside, with its edges exclusive."""
    x0, y0, x1, y1 = box_xyxy
    return float(x0), float(y0), float(x1 + 1), float(y1 + 1)


def mask_overlap(
    found: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"], ignore: Bool[np.ndarray, "h w"] | None = None
) -> tuple[int, int]:
    """Pixels in the intersection and in the union, those of `ignore` left out. Raises UserError if the sizes differ."""
    if found.shape != true.shape:
        raise UserError(
            f"mask is {found.shape[1]} x {found.shape[0]}, the true one {true.shape[1]} x {true.shape[0]}; expected the same size"
        )
    both, either = found & true, found | true
    if ignore is not None:
        both, either = both & ~ignore, either & ~ignore
    return int(np.count_nonzero(both)), int(np.count_nonzero(either))


def mask_iou(found: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> float:
    """Intersection over union of two masks; 0 if both are empty."""
    intersection, union = mask_overlap(found, true)
    return intersection / max(union, 1)


def point_in_box(point_xy: Float[np.ndarray, "*batch 2"], box_xyxy: Float[np.ndarray, "*batch 4"]) -> Bool[np.ndarray, "*batch"]:
    """Whether points lie in boxes, edges exclusive."""
    point, box = np.asarray(point_xy, float), np.asarray(box_xyxy, float)
    return np.all((box[..., :2] <= point) & (point < box[..., 2:]), axis=-1)


def point_in_mask(point_xy: tuple[float, float], mask: Bool[np.ndarray, "h w"]) -> bool:
    """Whether the pixel under a point belongs to the mask; a point outside the image does not."""
    x, y = np.floor(point_xy)
    return bool(0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and mask[int(y), int(x)])


def size_name(area: float) -> str:
    """COCO's size of an object of so many pixels."""
    return "small" if area < SMALL else "medium" if area < MEDIUM else "large"


# One sample


def score(truth: Truth, found: Prediction | None, *, measures: Sequence[str] = MEASURES, inclusive: bool = False) -> Score:
    """Measures what was found for a sample; `measures` names what a prediction should have: box, mask, point.

    A mask counts only if the truth has one; a point is on the object if it is in its mask or, without one, in its box.
    `inclusive` as for `box_iou`, for both boxes. Raises UserError if the masks' sizes differ.
    """
    given = found or Prediction(truth.id)
    iou, box_fault = _score_box(truth, given.box_xyxy, inclusive) if "box" in measures else (None, None)
    overlap, mask_fault = _score_mask(truth, given.mask) if "mask" in measures else ((None, None), None)
    pointed, point_fault = _score_point(truth, given.point_xy) if "point" in measures else (None, None)
    faults = tuple(fault for fault in (box_fault, mask_fault, point_fault) if fault) if found else ("no prediction",)
    return Score(truth.id, truth.split, size_name(truth.area), iou, *overlap, pointed, faults)


def _score_box(truth: Truth, box: Box | None, inclusive: bool) -> tuple[float, str | None]:
    if box is None:
        return 0.0, "no box"
    if not _encloses(box, inclusive):
        return 0.0, f"degenerate box {list(map(float, box))}"
    return float(box_iou(np.asarray(box), np.asarray(truth.box_xyxy), inclusive=inclusive)), None


def _encloses(box: Box, inclusive: bool = False) -> bool:
    edges = np.asarray(box, float)
    return bool(np.isfinite(edges).all() and _area(edges[:2], edges[2:], inclusive) > 0)


def _score_mask(truth: Truth, mask: Bool[np.ndarray, "h w"] | None) -> tuple[tuple[int | None, int | None], str | None]:
    if truth.mask is None:
        return (None, None), None
    found = np.zeros_like(truth.mask) if mask is None else mask
    return mask_overlap(found, truth.mask, truth.ignore), None if found.any() else "no mask" if mask is None else "empty mask"


def _score_point(truth: Truth, point: tuple[float, float] | None) -> tuple[bool, str | None]:
    if point is None or not np.isfinite(point).all():
        return False, "no point"
    on_box = bool(point_in_box(np.asarray(point), np.asarray(truth.box_xyxy)))
    return on_box if truth.mask is None else point_in_mask(point, truth.mask), None


def misses(scores: Sequence[Score]) -> list[tuple[str, str]]:
    """(id, what is wrong with its prediction) of every sample whose prediction is missing or degenerate."""
    return [(one.id, "; ".join(one.faults)) for one in scores if one.faults]


# Many samples: every figure is a ratio of two sums over the samples, so one bootstrap serves them all


def summarize(
    scores: Sequence[Score],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Estimate]:
    """Every figure over all samples, each split and each size of object, with the interval of `level` from `resamples` resamples.

    `Acc@t` and `box IoU` (mean) of boxes, `cIoU` (sum of intersections over sum of unions) and `mIoU` (mean) of masks, `pointing`.
    A figure appears where at least one sample of the group counts. Raises UserError if there is no sample.
    """
    if not scores:
        raise UserError("no sample was scored; expected one or more")
    figures = ratios(*columns(scores), thresholds=thresholds)
    names, sums = np.array(list(figures)), np.array(list(figures.values()))  # [figures, numerator and denominator, samples]
    rows = []
    for group, inside in _groups(scores).items():
        counted = (sums[:, 1, inside] > 0).sum(axis=1)
        some = counted > 0
        values, low, high = bootstrap(*sums[some][:, :, inside].swapaxes(0, 1), resamples=resamples, seed=seed, level=level)
        numbers = (names[some], values, low, high, counted[some])
        rows += [Estimate(group, *row) for row in zip(*(column.tolist() for column in numbers), strict=True)]
    return rows


def compare(
    first: Sequence[Score],
    second: Sequence[Score],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Difference]:
    """Every figure of two runs over the same samples in the same order, grouped as in `summarize`, with the interval of its difference.

    Raises UserError if there is no sample or the ids differ.
    """
    if not first or [one.id for one in first] != [one.id for one in second]:
        raise UserError(f"{len(first)} and {len(second)} samples cannot be compared in pairs; expected the same ids in the same order")
    figures = [ratios(*columns(scores), thresholds=thresholds) for scores in (first, second)]
    names = np.array(list(figures[0]))
    one, other = (np.array(list(run.values())) for run in figures)  # [figures, numerator and denominator, samples]
    rows = []
    for group, inside in _groups(first).items():
        counted = (one[:, 1, inside] > 0).sum(axis=1)
        some = (counted > 0) & (other[:, 1, inside] > 0).any(axis=1)
        values, low, high = paired_bootstrap(one[some][..., inside], other[some][..., inside], resamples=resamples, seed=seed, level=level)
        numbers = (names[some], *values, values[1] - values[0], low, high, counted[some])
        rows += [Difference(group, *row) for row in zip(*(column.tolist() for column in numbers), strict=True)]
    return rows


def columns(scores: Sequence[Score]) -> Float[np.ndarray, "4 samples"]:
    """IoU of the boxes, intersection and union of the masks, and whether the point is right; NaN where nothing was measured."""
    parts = [(one.box_iou, one.intersection, one.union, one.pointed) for one in scores]
    return np.array([[np.nan if part is None else part for part in row] for row in parts], float).reshape(-1, 4).T


def ratios(
    iou: Float[np.ndarray, "*rows samples"],
    intersection: Float[np.ndarray, "*rows samples"],
    union: Float[np.ndarray, "*rows samples"],
    pointed: Float[np.ndarray, "*rows samples"],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of each figure -> each sample's part in its numerator and in its denominator; 0 and 0 where it does not count."""

    def mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.nan_to_num(values), (~np.isnan(values)).astype(float)

    hits = {f"Acc@{t:g}": mean(np.where(np.isnan(iou), np.nan, iou >= t)) for t in thresholds}
    return {
        **hits,
        "box IoU": mean(iou),
        "cIoU": (np.nan_to_num(intersection), np.nan_to_num(union)),
        "mIoU": mean(intersection / np.maximum(union, 1)),
        "pointing": mean(pointed),
    }


def _groups(scores: Sequence[Score]) -> dict[str, Bool[np.ndarray, " samples"]]:
    splits, sizes = np.array([one.split or "" for one in scores]), np.array([one.size for one in scores])
    by_split = {f"split {name}": splits == name for name in dict.fromkeys(splits.tolist()) if name}
    by_size = {name: sizes == name for name in ("small", "medium", "large") if name in sizes}
    return {"all": np.ones(len(scores), bool), **by_split, **by_size}


def bootstrap(
    numerators: Float[np.ndarray, "figures samples"],
    denominators: Float[np.ndarray, "figures samples"],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " figures"], Float[np.ndarray, " figures"], Float[np.ndarray, " figures"]]:
    """sum(numerators) / sum(denominators), and the lower and upper end of its percentile interval.

    Samples, one or more, are drawn anew with replacement, the same for every figure, which makes it one matrix product; the same interval
    as scipy.stats.bootstrap's, which would draw for each figure. Samples that share an image are drawn as if they did not.
    """
    ratios = _resampled(numerators, denominators, resamples, seed)
    low, high = np.nanquantile(ratios[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ratios[0], low, high


def paired_bootstrap(
    first: Float[np.ndarray, "figures 2 samples"],
    second: Float[np.ndarray, "figures 2 samples"],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, "2 figures"], Float[np.ndarray, " figures"], Float[np.ndarray, " figures"]]:
    """The figures of two runs over the same samples, and the lower and upper end of the interval of second - first.

    Axis 1 holds numerators and denominators. A draw takes a sample in both runs or in neither, so what makes it easy or hard for both
    cancels: the interval is narrower than two intervals side by side suggest.
    """
    numerators, denominators = np.concatenate([first, second]).swapaxes(0, 1)
    one, other = np.split(_resampled(numerators, denominators, resamples, seed), 2, axis=1)  # [1 + resamples, figures] each
    low, high = np.nanquantile((other - one)[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.stack([one[0], other[0]]), low, high


def _resampled(
    numerators: Float[np.ndarray, "figures samples"], denominators: Float[np.ndarray, "figures samples"], resamples: int, seed: int
) -> Float[np.ndarray, "draws figures"]:
    """The ratio of sums over all samples, then over each resample; NaN where nothing was counted."""
    samples = numerators.shape[1]
    parts = np.concatenate([numerators, denominators]).T  # [samples, 2 * figures]
    rng = np.random.default_rng(seed)
    sums = [parts.sum(axis=0, keepdims=True)]
    step = max(1, CHUNK // samples)
    for count in [min(step, resamples - done) for done in range(0, resamples, step)]:
        draws = rng.integers(samples, size=(count, samples)) + samples * np.arange(count)[:, None]
        times = np.bincount(draws.ravel(), minlength=count * samples).reshape(count, samples)  # how often each sample was drawn
        sums.append(times @ parts)
    above, below = np.split(np.concatenate(sums), 2, axis=1)  # [1 + resamples, figures] each
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


# COCO's file format


def coco_predictions(found: Iterable[Prediction], image_ids: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Predictions as COCO's results: {id, image_id, category_id, bbox [x, y, width, height], segmentation (RLE), score}.

    `image_ids` maps a sample's id to its image's; without, every sample counts as an image of its own. A prediction without a box gets the
    one around its mask; if nothing encloses an area, it is left out.
    """
    rows: list[dict[str, Any]] = []
    for one in found:
        box = one.box_xyxy if one.box_xyxy or one.mask is None or not one.mask.any() else mask_box(one.mask)
        if box is None or not _encloses(box):
            continue
        x0, y0, x1, y1 = map(float, box)
        image_id = one.id if image_ids is None else image_ids[one.id]
        row = {"id": one.id, "image_id": image_id, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": float(one.score)}
        rows.append(row if one.mask is None else {**row, "segmentation": rle.encode(one.mask)})
    return rows


def write_coco_predictions(path: Path, found: Iterable[Prediction], image_ids: Mapping[str, Any] | None = None) -> None:
    """Writes them as a JSON list, whole or not at all."""
    write_atomic(path, json.dumps(coco_predictions(found, image_ids)))
