"""What else is in a sample's picture: other things, what is said about them, and where they lie among its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lab.ablate.answers import read_answer
from lab.base.errors import UserError, quoted
from lab.datasets import Sample
from lab.datasets.boxes import Box, read_box
from lab.datasets.masks import MaskSource, check_source
from lab.measure.metrics import box_iou
from llava.grid import Grid

SAME = 0.5  # IoU from which two boxes are of one thing
EXPECTED = 'expected others: [{"bbox": [x, y, width, height], "segmentation": {...}, "answer": "..."}, ...]'


@dataclass(frozen=True)
class Thing:
    """Something in a picture, and what the answer to a sample's expression would be if it were meant."""

    box_xyxy: Box
    answer: str | None = None
    mask_source: MaskSource | None = None  # in the forms of a sample's


def answer_of(sample: Sample) -> str | None:
    """The `answer` of its line. Raises UserError naming the sample."""
    try:
        return read_answer(sample.extra.get("answer"))
    except UserError as error:
        raise UserError(f"sample {sample.id}: {error}") from None


def meant(sample: Sample) -> Thing | None:
    """What its expression means, if its line has a box."""
    return None if sample.box_xyxy is None else Thing(sample.box_xyxy, mask_source=sample.mask_source)


def things_beside(sample: Sample, row: Sequence[Sample]) -> list[Thing]:
    """The other things: the line's `others` or, without them, what other lines about the picture have a box of.

    Raises UserError naming the sample if `others` is malformed.
    """
    if "others" in sample.extra:
        return _named(sample)
    beside = [one for one in row if one.box_xyxy is not None and one.id != sample.id]
    own = np.array(sample.box_xyxy or (np.nan,) * 4)
    return [
        Thing(one.box_xyxy, answer_of(one), one.mask_source)
        for one in beside
        if one.box_xyxy is not None and box_iou(np.array(one.box_xyxy), own) < SAME
    ]


def of_another(one: Sample, sample: Sample) -> bool:
    """Whether a sample of the same picture asks for something else, as far as the data tell.

    Other words may be about the same thing: where the data name it (`thing`) or both have a box, that decides.
    """
    if one.query == sample.query:
        return False
    if one.thing is not None and sample.thing is not None:
        return one.thing != sample.thing
    if one.box_xyxy is None or sample.box_xyxy is None:
        return True
    return bool(box_iou(np.array(one.box_xyxy), np.array(sample.box_xyxy)) < SAME)


def _named(sample: Sample) -> list[Thing]:
    given: Any = sample.extra["others"]
    if not isinstance(given, list) or not all(isinstance(one, dict) and "bbox" in one for one in given):
        raise UserError(f"sample {sample.id}: others {quoted(given)} is malformed; {EXPECTED}")
    try:
        return [_thing(one) for one in given]
    except UserError as error:
        raise UserError(f"sample {sample.id}: others: {error}") from None


def _thing(given: dict[str, Any]) -> Thing:
    mask = check_source(given["segmentation"]) if "segmentation" in given else None
    return Thing(read_box(given["bbox"], given.get("bbox_format", "xywh")), read_answer(given.get("answer")), mask)


def first_word(answer: str | None) -> str | None:
    """The first word of an answer."""
    return None if answer is None else answer.split()[0]


# among the image tokens


def share_of_cells(grids: Sequence[Grid], tokens: int, boxes: Sequence[Box]) -> Float[np.ndarray, " tokens"]:
    """What share of each token's cell lies in any of the boxes, 0 to 1; of boxes that overlap, the largest share.

    Tokens in no grid have 0.
    """
    shares = np.zeros(tokens)
    for grid in grids:
        for box in boxes:
            covered = np.outer(_covered(grid, box, 1), _covered(grid, box, 0))  # rows x cols
            shares[grid.index] = np.maximum(shares[grid.index], covered)
    return shares


def mask_in_cells(
    grids: Sequence[Grid], tokens: int, mask: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, " tokens"]:
    """What share of each token's cell the mask covers, 0 to 1, to the nearest pixel. Tokens in no grid have 0."""
    shares, sums = np.zeros(tokens), np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    for grid in grids:
        x0, y0, x1, y1 = grid.extent_xyxy
        across, down = (
            np.clip(np.linspace(low, high, number + 1).round().astype(int), 0, size)
            for low, high, number, size in ((x0, x1, grid.cols, mask.shape[1]), (y0, y1, grid.rows, mask.shape[0]))
        )
        covered = np.diff(np.diff(sums[np.ix_(down, across)], axis=0), axis=1)
        cell = (x1 - x0) * (y1 - y0) / (grid.rows * grid.cols)
        shares[grid.index] = np.minimum(covered / cell, 1)
    return shares


def _covered(grid: Grid, box_xyxy: Box, axis: int) -> Float[np.ndarray, " cells"]:
    """What share of each row (axis 1) or column (axis 0) the box covers."""
    low, high = grid.extent_xyxy[axis], grid.extent_xyxy[axis + 2]
    edges = np.linspace(low, high, (grid.cols, grid.rows)[axis] + 1)
    reach = np.minimum(edges[1:], box_xyxy[axis + 2]) - np.maximum(edges[:-1], box_xyxy[axis])
    return np.clip(reach, 0, None) / (edges[1:] - edges[:-1])


def distribution(weights: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " tokens"] | None:
    """The weights so that they sum to 1; None if there are none."""
    return weights / weights.sum() if weights.sum() > 0 else None
