"""True boxes: the forms in which files have them, and one line about an impossible box.

    box_xyxy = read_box([8, 10, 32, 20])                       # (8, 10, 40, 30)
    box_xyxy = read_box([8, 10, 39, 29], "xyxy_inclusive")     # the same
    check_inside(box_xyxy, (640, 480))

Boxes are (x0, y0, x1, y1) in pixels, edges exclusive: a box of one pixel is 1 wide.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any

from lab.base.errors import UserError, quoted

Box = tuple[float, float, float, float]

FORMS: dict[str, Callable[[float, float, float, float], Box]] = {  # `bbox_format`
    "xywh": lambda x, y, width, height: (x, y, x + width, y + height),
    "xyxy": lambda x0, y0, x1, y1: (x0, y0, x1, y1),
    "xyxy_inclusive": lambda x0, y0, x1, y1: (x0, y0, x1 + 1, y1 + 1),
}
CHOICES = f"{', '.join(FORMS)} (of the last, x1 and y1 are the last pixels inside)"
SLACK = 1.0  # pixels by which a true box may leave its image: annotations are rounded
FARTHEST = 1e9  # pixels: no picture is so large
TINY = 8  # pixels: in a smaller picture, a box of less than a pixel may be meant


def read_box(bbox: Any, form: Any = "xywh") -> Box:
    """The box of four numbers in one of `FORMS`. Raises UserError unless they enclose an area."""
    if not isinstance(form, str) or form not in FORMS:
        raise UserError(f"bbox_format {quoted(form)}: choose from {CHOICES}")
    if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise UserError(
            f"bbox {quoted(bbox)} is malformed; expected [x, y, width, height], "
            "or [x0, y0, x1, y1] with bbox_format: xyxy or xyxy_inclusive"
        )
    return check_box(FORMS[form](*bbox), form)


def _is_number(value: Any) -> bool:
    """Whether it is a number, and no integer that has no place among floats."""
    return isinstance(value, Real) and not isinstance(value, bool) and not (isinstance(value, int) and _far(value))


def _far(value: float) -> bool:
    return not -FARTHEST < value < FARTHEST  # also NaN


def check_box(box_xyxy: Sequence[Any], form: str = "xyxy") -> Box:
    """The box as floats. Raises UserError unless it is four finite numbers that enclose an area."""
    if len(box_xyxy) != 4 or not all(_is_number(v) and not _far(v) for v in box_xyxy):
        raise UserError(f"box {quoted(list(box_xyxy))} is malformed; expected four numbers")
    x0, y0, x1, y1 = map(float, box_xyxy)
    if x1 <= x0 or y1 <= y0:
        raise UserError(f"box is {x1 - x0:g} wide and {y1 - y0:g} high; expected more than 0 ({_turn(form)})")
    return x0, y0, x1, y1


def _turn(form: str) -> str:
    """What may be meant by a box without area."""
    if form == "xywh":
        return "xywh, or bbox_format: xyxy"
    return "if its corners are swapped, put the smaller x and y first; if it is [x, y, width, height], say xywh"


def check_inside(box_xyxy: Box, image_size: tuple[int, int] | None, form: str = "xywh") -> None:
    """Raises UserError, with what the box looks like, unless it lies in an image of (width, height).

    Without a size, what can be seen without it. `form` is how the file had the box.
    """
    x0, y0, x1, y1 = box_xyxy
    width, height = image_size or (math.inf, math.inf)
    box = f"box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
    if min(x0, y0) >= 0 and _farthest(box_xyxy, form) <= 1 and min(width, height) > TINY:
        raise UserError(f"{box} looks normalised to 0..1; {_multiply(image_size, 1)}")
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        leaves = f"{box} leaves the image" + (f" of {width} x {height} pixels" if image_size else "")
        guesses = ", or ".join(_guesses(box_xyxy, image_size, form)) if image_size else ""
        raise UserError(f"{leaves}; it looks {guesses}" if guesses else leaves)


def _guesses(box_xyxy: Box, image_size: tuple[int, int], form: str) -> Iterator[str]:
    """What a box that leaves its image may be."""
    x0, y0, x1, y1 = box_xyxy
    if min(x0, y0) < 0:
        return
    right, bottom = x1 - x0, y1 - y0  # if width and height were corners
    inside = right <= image_size[0] + SLACK and bottom <= image_size[1] + SLACK
    if form == "xywh" and right > x0 and bottom > y0 and inside:
        yield 'like [x0, y0, x1, y1]: give it "bbox_format": "xyxy"'
    if _farthest(box_xyxy, form) <= 1000:
        yield f"normalised to 0..1000: {_multiply(image_size, 1000)}"


def _farthest(box_xyxy: Box, form: str) -> float:
    """The highest number of the box as the file had it."""
    return max(box_xyxy[2:]) - (form == "xyxy_inclusive")


def _multiply(image_size: tuple[int, int] | None, unit: int) -> str:
    """How to come from a box in `unit`s of the picture to pixels."""
    if image_size is None:
        return "multiply x by the picture's width and y by its height, and give pixels"
    width, height = (edge / unit for edge in image_size)
    return f"multiply x by {width:g} and y by {height:g}"
