"""COCO's mask formats, by pycocotools, which is handed nothing unchecked: its C code trusts its input.

    rle = encode(mask)             # {"size": [height, width], "counts": "PQk2N..."}
    decode(rle)                    # bool [height, width]; counts may be text or a list of run lengths
    from_polygons(polygons, hw)    # polygons [[x0, y0, x1, y1, ...], ...], their union

Masks are bool [height, width]. Runs go down the columns, left to right, and the first counts zeros.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as coco

from lab.base.errors import UserError

MAX_PIXELS = 2**26  # of a mask: pycocotools sets 6 characters aside for each run, too few for the runs of larger masks
FARTHEST = 1e6  # pixels: no corner of a polygon is farther from the image's corner
LONGEST = 1e7  # pixels: no outline is longer; pycocotools keeps five points for each
BITS = 5  # of a run length in each character of compressed counts


def encode(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """The mask as {"size": [height, width], "counts": compressed text}. Raises UserError if it is too large."""
    mask = np.asarray(mask, bool)
    _check_pixels(mask.shape[0], mask.shape[1])
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of {"size", "counts"}. Raises UserError if the run lengths are damaged or do not fill the size."""
    height, width = rle_size(rle)
    pixels = height * width
    counts = text_to_counts(rle["counts"]) if isinstance(rle["counts"], str | bytes) else _whole_numbers(rle["counts"])
    if (counts < 0).any() or (counts > pixels).any() or counts.sum() != pixels:
        raise UserError(
            f"RLE counts add up to {counts.sum()}; expected run lengths of {height} x {width} = {pixels} pixels"
        )
    # The numbers that were checked are handed over, never the text, which pycocotools may read otherwise.
    return coco.decode(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)).astype(bool)


def rle_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width). Raises UserError unless `rle` has the keys of an RLE and a possible size."""
    size = _whole_numbers(rle.get("size"))
    if size.shape != (2,) or (size < 1).any() or not isinstance(rle.get("counts"), str | bytes | list | tuple):
        raise UserError(
            f"RLE with keys {sorted(map(str, rle))}; expected "
            f'{{"size": [height, width], "counts": text or run lengths}}'
        )
    height, width = size.tolist()
    _check_pixels(height, width)
    return height, width


def _check_pixels(height: int, width: int) -> None:
    if height * width >= MAX_PIXELS:
        raise UserError(f"the mask is {width} x {height}; expected fewer than {MAX_PIXELS:,} pixels: scale it down")


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


def text_to_counts(text: str | bytes) -> Int[np.ndarray, " n"]:
    """The run lengths in COCO's compressed text. Raises UserError on characters that no compressed counts have.

    Each number is the difference to the last but one run length, five bits a character, the lowest first. A character
    is 48 + bits, + 32 if more follow; the highest bit of the last is the sign.
    """
    characters = np.frombuffer(text.encode("ascii", "replace") if isinstance(text, str) else text, np.uint8)
    digits = characters.astype(np.int64) - 48
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


def from_polygons(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The union of polygons [x0, y0, x1, y1, ...] in pixels, edges exclusive; parts outside the image are cut off.

    Raises UserError unless each has three points or more, at sensible places, and the image is not too large.
    """
    height, width = size_hw
    _check_pixels(height, width)
    outlines = [np.asarray(check_polygon(polygon), float) for polygon in polygons]
    if not outlines:
        return np.zeros((height, width), bool)
    return coco.decode(coco.merge(coco.frPyObjects(outlines, height, width))).astype(bool)


def check_polygon(polygon: Any) -> Sequence[float]:
    """The polygon, if it is at least three points of sensible numbers. Raises UserError otherwise."""
    array = _numbers(polygon)
    if array.size < 6 or array.size % 2 or not (np.abs(array) < FARTHEST).all():  # also refuses NaN
        raise UserError(
            f"polygon {str(polygon)[:60]} is malformed; expected [x0, y0, x1, y1, x2, y2, ...], three points or more"
        )
    corners = array.reshape(-1, 2).astype(float)
    length = np.abs(corners - np.roll(corners, -1, axis=0)).max(axis=1).sum()
    if length > LONGEST:
        raise UserError(f"polygon {str(polygon)[:60]} is {length:.0f} pixels around; expected at most {LONGEST:.0f}")
    return polygon
