"""How good boxes, masks and points are.

Pure functions over arrays, one score per sample, and figures with their uncertainty.

    scores = [score(read_truth(sample), predictions.get(sample.id)) for sample in samples]
    for row in summarize(scores):
        print(row.group, row.metric, row.value, row.low, row.high, row.n)
    misses(scores)                          # [(id, what is wrong with its prediction), ...]

Boxes are xyxy in pixels, continuous, edges exclusive: an image of width 10 reaches from 0 to 10. Masks are bool
[height, width].
A prediction that is missing or degenerate is a miss: it counts in every figure, with an IoU of 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lab.base.errors import UserError
from lab.datasets.sample import Box, Truth

SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's bounds, an object below them is small, medium; else large


MEASURES = ("box", "mask", "point")


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
    picture: str = ""  # the same for samples that share one; "": its own


# Overlap


def box_iou(
    a: Float[np.ndarray, "*batch 4"], b: Float[np.ndarray, "*batch 4"], *, inclusive: bool = False
) -> Float[np.ndarray, "*batch"]:
    """Intersection over union of xyxy boxes, broadcast against each other; 0 for an empty, inverted or NaN box.

    `inclusive`: the older convention, in which x1 and y1 are the last pixels inside, so that a box is x1 - x0 + 1 wide.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    overlap = _area(low, high, inclusive)
    union = _area(a[..., :2], a[..., 2:], inclusive) + _area(b[..., :2], b[..., 2:], inclusive) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def _area(
    low: Float[np.ndarray, "*batch 2"], high: Float[np.ndarray, "*batch 2"], inclusive: bool
) -> Float[np.ndarray, "*batch"]:
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
            f"mask is {found.shape[1]} x {found.shape[0]}, the true one {true.shape[1]} x {true.shape[0]}; "
            "expected the same size"
        )
    both, either = found & true, found | true
    if ignore is not None:
        both, either = both & ~ignore, either & ~ignore
    return int(np.count_nonzero(both)), int(np.count_nonzero(either))


def mask_iou(found: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> float:
    """Intersection over union of two masks; 0 if both are empty."""
    intersection, union = mask_overlap(found, true)
    return intersection / max(union, 1)


def point_in_box(
    point_xy: Float[np.ndarray, "*batch 2"], box_xyxy: Float[np.ndarray, "*batch 4"]
) -> Bool[np.ndarray, "*batch"]:
    """Whether points lie in boxes, edges exclusive."""
    point, box = np.asarray(point_xy, float), np.asarray(box_xyxy, float)
    return np.all((box[..., :2] <= point) & (point < box[..., 2:]), axis=-1)


def point_in_mask(point_xy: tuple[float, float], mask: Bool[np.ndarray, "h w"]) -> bool:
    """Whether the pixel under a point belongs to the mask; a point outside the image does not."""
    x, y = np.floor(point_xy)
    return bool(0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and mask[int(y), int(x)])


def on_object(points_xy: Float[np.ndarray, "points 2"], truth: Truth) -> Bool[np.ndarray, " points"]:
    """Whether points lie on the object: in its mask or, without one, in its box."""
    if truth.mask is None:
        return point_in_box(points_xy, np.asarray(truth.box_xyxy))
    return np.array([point_in_mask((x, y), truth.mask) for x, y in points_xy.tolist()], bool)


def size_name(area: float) -> str:
    """COCO's size of an object of so many pixels."""
    return "small" if area < SMALL else "medium" if area < MEDIUM else "large"


# One sample


def score(
    truth: Truth, found: Prediction | None, *, measures: Sequence[str] = MEASURES, inclusive: bool = False
) -> Score:
    """Measures what was found for a sample; `measures` names what a prediction should have: box, mask, point.

    A mask counts only if the truth has one; a point is on the object if it is in its mask or, without one, in its box.
    `inclusive` as for `box_iou`, for both boxes. Raises UserError if the masks' sizes differ.
    """
    given = found or Prediction(truth.id)
    iou, box_fault = _score_box(truth, given.box_xyxy, inclusive) if "box" in measures else (None, None)
    overlap, mask_fault = _score_mask(truth, given.mask) if "mask" in measures else ((None, None), None)
    pointed, point_fault = _score_point(truth, given.point_xy) if "point" in measures else (None, None)
    faults = tuple(fault for fault in (box_fault, mask_fault, point_fault) if fault) if found else ("no prediction",)
    return Score(truth.id, truth.split, size_name(truth.area), iou, *overlap, pointed, faults, truth.picture)


def _score_box(truth: Truth, box: Box | None, inclusive: bool) -> tuple[float, str | None]:
    if box is None:
        return 0.0, "no box"
    if not encloses(box, inclusive):
        return 0.0, f"degenerate box {list(map(float, box))}"
    return float(box_iou(np.asarray(box), np.asarray(truth.box_xyxy), inclusive=inclusive)), None


def encloses(box: Box, inclusive: bool = False) -> bool:
    """Whether a box has finite edges and an area."""
    edges = np.asarray(box, float)
    return bool(np.isfinite(edges).all() and _area(edges[:2], edges[2:], inclusive) > 0)


def _score_mask(truth: Truth, mask: Bool[np.ndarray, "h w"] | None) -> tuple[tuple[int | None, int | None], str | None]:
    if truth.mask is None:
        return (None, None), None
    found = np.zeros_like(truth.mask) if mask is None else mask
    return mask_overlap(
        found, truth.mask, truth.ignore
    ), None if found.any() else "no mask" if mask is None else "empty mask"


def _score_point(truth: Truth, point: tuple[float, float] | None) -> tuple[bool, str | None]:
    if point is None or not np.isfinite(point).all():
        return False, "no point"
    return bool(on_object(np.array([point]), truth)[0]), None


def misses(scores: Sequence[Score]) -> list[tuple[str, str]]:
    """(id, what is wrong with its prediction) of every sample whose prediction is missing or degenerate."""
    return [(one.id, "; ".join(one.faults)) for one in scores if one.faults]
