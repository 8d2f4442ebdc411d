"""COCO's mask formats, to the last pixel as pycocotools has them and without its compiled code.

    rle = encode(mask)             # {"size": [height, width], "counts": "PQk2N..."}
    decode(rle)                    # bool [height, width]; counts may be text or a list of run lengths
    from_polygons(polygons, hw)    # polygons [[x0, y0, x1, y1, ...], ...], their union

Masks are bool [height, width]. Runs go down the columns, left to right, and the first counts zeros.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lab.base.errors import UserError

UPSAMPLING = 5  # outlines are followed on a grid this much finer than the pixels
FARTHEST = 1e6  # pixels: no image is larger
BITS = 5  # of a run length in each character of compressed counts


def encode(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """The mask as {"size": [height, width], "counts": compressed text}."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))  # a mask that starts with ones has an edge at 0
    counts = np.diff(edges, prepend=0, append=flat.size)
    return {"size": list(np.shape(mask)), "counts": counts_to_text(counts)}


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of {"size", "counts"}. Raises UserError if the run lengths are damaged or do not fill the size."""
    height, width = rle_size(rle)
    counts = text_to_counts(rle["counts"]) if isinstance(rle["counts"], str | bytes) else _whole_numbers(rle["counts"])
    if (counts < 0).any() or counts.sum() != height * width:
        raise UserError(
            f"RLE counts add up to {counts.sum()}; expected run lengths of {height} x {width} = {height * width} pixels"
        )
    return _fill(counts).reshape(width, height).T  # [W, H] -> [H, W]


def _fill(counts: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " pixels"]:
    return np.repeat(np.arange(counts.size) % 2 == 1, counts)


def rle_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width). Raises UserError unless `rle` has the keys of an RLE."""
    size = _whole_numbers(rle.get("size"))
    if size.shape != (2,) or (size < 1).any() or not isinstance(rle.get("counts"), str | bytes | list | tuple):
        raise UserError(
            f'RLE with keys {sorted(map(str, rle))}; expected {{"size": [height, width], "counts": text or run lengths}}'
        )
    return int(size[0]), int(size[1])


def _whole_numbers(values: Any) -> Int[np.ndarray, " n"]:
    """A list of whole numbers as an array; anything else as [-1]."""
    array = _numbers(values)
    return array.astype(np.int64) if array.size and array.dtype.kind in "iu" else np.array([-1])


def _numbers(values: Any) -> np.ndarray:
    """A flat list of numbers as an array; anything else as an empty one."""
    with suppress(ValueError, OverflowError):  # of lists of unequal length
        array = np.asarray(values)
        if isinstance(values, list | tuple | np.ndarray) and array.ndim == 1 and array.dtype.kind in "iuf":
            return array
    return np.zeros(0)


# Compressed counts: the difference to the last but one run length, five bits a character, the lowest first. A character
# is 48 + bits, + 32 if more follow; the highest bit of the last is the sign.


def counts_to_text(counts: Int[np.ndarray, " n"]) -> str:
    """Run lengths in COCO's compressed spelling."""
    delta = np.asarray(counts, np.int64).copy()
    delta[3:] -= counts[1:-2]
    limits = 1 << np.arange(BITS - 1, 60, BITS)
    length = 1 + ((delta[:, None] >= limits) | (delta[:, None] < -limits)).sum(axis=1)  # characters that each needs
    place = np.arange(np.max(length, initial=1))
    digits = 48 + ((delta[:, None] >> BITS * place) & 31) + 32 * (place < length[:, None] - 1)  # [n, longest]
    return digits[place < length[:, None]].astype(np.uint8).tobytes().decode("ascii")


def text_to_counts(text: str | bytes) -> Int[np.ndarray, " n"]:
    """The inverse of `counts_to_text`. Raises UserError on characters that no compressed counts have."""
    digits = (
        np.frombuffer(text.encode("ascii", "replace") if isinstance(text, str) else text, np.uint8).astype(np.int64)
        - 48
    )
    if not digits.size or (digits < 0).any() or (digits > 63).any() or digits[-1] >= 32:
        raise UserError(f"RLE counts {str(text[:20])!r}... are damaged; expected COCO's compressed text, whole")
    starts = np.flatnonzero(np.concatenate([[True], digits[:-1] < 32]))
    length = np.diff(starts, append=digits.size)
    place = np.minimum(np.arange(digits.size) - np.repeat(starts, length), 11)
    delta = np.add.reduceat((digits & 31) << BITS * place, starts)
    delta -= np.where(digits[starts + length - 1] & 16, 1 << BITS * np.minimum(length, 12), 0)
    counts = delta
    counts[1::2] = np.cumsum(delta[1::2])
    counts[2::2] = np.cumsum(delta[2::2])
    return counts


# Polygons


def from_polygons(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The union of polygons [x0, y0, x1, y1, ...] in pixels, edges exclusive; parts outside the image are cut off.

    Raises UserError unless each has three points or more.
    """
    height, width = size_hw
    mask = np.zeros(height * width, bool)
    for polygon in polygons:
        mask |= _toggled(np.asarray(check_polygon(polygon), float).reshape(-1, 2), height, width)
    return mask.reshape(width, height).T  # [W, H] -> [H, W]


def check_polygon(polygon: Any) -> Sequence[float]:
    """The polygon, if it is at least three points of sensible numbers. Raises UserError otherwise."""
    array = _numbers(polygon)
    if array.size < 6 or array.size % 2 or not (np.abs(array) < FARTHEST).all():  # also refuses NaN
        raise UserError(
            f"polygon {str(polygon)[:60]} is malformed; expected [x0, y0, x1, y1, x2, y2, ...], three points or more"
        )
    return polygon


def _toggled(points: Float[np.ndarray, "n 2"], height: int, width: int) -> Bool[np.ndarray, " pixels"]:
    """The inside of one outline, column by column: wherever the outline crosses a column's centre, the mask flips."""
    u, v = _outline(np.trunc(UPSAMPLING * points + 0.5).astype(np.int64))
    crossing = np.flatnonzero(np.diff(u))
    x = (np.minimum(u[crossing], u[crossing + 1]) + 0.5) / UPSAMPLING - 0.5
    y = (np.minimum(v[crossing], v[crossing + 1]) + 0.5) / UPSAMPLING - 0.5
    kept = (x == np.floor(x)) & (x >= 0) & (x < width)
    flips = x[kept].astype(np.int64) * height + np.ceil(np.clip(y[kept], 0, height)).astype(np.int64)
    return _fill(np.diff(np.sort(flips), prepend=0, append=height * width))


def _outline(corners: Int[np.ndarray, "n 2"]) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """x and y of every point of the closed outline: each edge in unit steps along its longer direction, both ends
    included.
    """
    start, end = corners, np.roll(corners, -1, axis=0)
    steps = np.abs(end - start)  # [n, 2]
    flat = steps[:, 0] >= steps[:, 1]
    major = np.where(flat, 0, 1)
    edge = np.arange(len(corners))
    flip = (start > end)[
        edge, major
    ]  # such an edge is followed from its end, so that rounding does not depend on the direction
    low, high = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    count = steps.max(axis=1) + 1
    slope = (high - low)[edge, 1 - major] / np.maximum(steps[edge, major], 1)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    step = np.where(np.repeat(flip, count), np.repeat(count, count) - 1 - step, step)
    along = np.repeat(low[edge, major], count) + step
    across = np.trunc(np.repeat(low[edge, 1 - major], count) + np.repeat(slope, count) * step + 0.5).astype(np.int64)
    wide = np.repeat(flat, count)
    return np.where(wide, along, across), np.where(wide, across, along)
