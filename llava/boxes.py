"""Boxes that a model writes in its answer, in pixels of the picture.

    rule = BoxRule(POINTS, 1000)                        # (12,34),(560,780): thousandths of the picture
    written(rule, "<|box_start|>(12,34),(560,780)<|box_end|>")      # [Written(0.012, 0.034, 0.56, 0.78, ...)]

Families write them in their own ways, and each says what its numbers count: thousandths, shares, pixels of the picture
as its processor resized it, or location tokens.
"""

import re
from dataclasses import dataclass

Box = tuple[float, float, float, float]  # x0, y0, x1, y1

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
BRACKETS = rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]"  # [12, 34, 560, 780]
POINTS = rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)"  # (12,34),(560,780)
LOCATIONS = r"<loc(\d{4})>" * 4


@dataclass(frozen=True)
class BoxRule:
    """How a family writes a box."""

    pattern: str  # of a box in the answer, its four numbers as groups
    scale: float | None  # the number of the far edge; None: the picture's own size after the processor resized it
    rows_first: bool = False  # y before x


@dataclass(frozen=True)
class Written:
    """A box as it stands in an answer."""

    numbers_xyxy: Box
    spans: tuple[tuple[int, int], ...]  # where the answer's letters hold its numbers: first, and behind the last


def written(rule: BoxRule, answer: str) -> list[Written]:
    """The boxes of an answer, in their order; those that enclose nothing are left out."""
    found = []
    for match in re.finditer(rule.pattern, answer):
        a, b, c, d = (float(number) for number in match.groups())
        box = (b, a, d, c) if rule.rows_first else (a, b, c, d)
        if box[0] < box[2] and box[1] < box[3]:
            found.append(Written(box, tuple(match.span(group) for group in range(1, 5))))
    return found


def on_picture(box: Box, scale_xy: tuple[float, float], extent_xyxy: Box, image_size: tuple[int, int]) -> Box | None:
    """A written box in pixels of the picture, edges exclusive, cut at its edges; None if nothing of it is left.

    `scale_xy` are the numbers of the far edges, `extent_xyxy` is what the numbers lie over, in pixels of the picture:
    it reaches beyond the picture where the model saw padding.
    """
    left, top, right, bottom = extent_xyxy
    across, down = (right - left) / scale_xy[0], (bottom - top) / scale_xy[1]
    x0, x1 = (min(max(left + x * across, 0.0), float(image_size[0])) for x in (box[0], box[2]))
    y0, y1 = (min(max(top + y * down, 0.0), float(image_size[1])) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
