"""Where image tokens lie in a picture."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from lab.base.errors import UserError, in_words
from lab.base.numbers import whole

KINDS = ("whole", "tile")
MOST_PIXELS_AWAY = 2**28  # of a grid's edge from the picture's corner: a bound on what a file may claim
LEAST_CELL = 1e-4  # pixels of the picture


@dataclass(frozen=True)
class Grid:
    """Image tokens laid out as rows x cols over a rectangle of the original image.

    Token (r, c) is the image token start + r * stride + c.

    `start` is the index of the grid's first token among the V image tokens of the record. `extent_xyxy` is in pixels of
    the original image, edges exclusive; it reaches beyond the image where the model saw padding and stops inside it
    after a crop. `stride` counts the tokens from one row to the next and is larger than `cols` where other tokens stand
    between the rows; 0 means `cols`. `kind` is whole for a grid over the whole picture, and tile for one over tiles of
    it, which the model sees enlarged.
    """

    start: int
    rows: int
    cols: int
    extent_xyxy: tuple[float, float, float, float]
    stride: int = 0
    kind: str = "whole"

    def __post_init__(self) -> None:
        if self.stride == 0:
            object.__setattr__(self, "stride", self.cols)

    @classmethod
    def stretched(cls, rows: int, cols: int, image_size: tuple[int, int], start: int = 0) -> "Grid":
        """The whole image, (width, height) pixels, resized to the grid without regard to its shape."""
        width, height = image_size
        return cls(start, rows, cols, (0.0, 0.0, float(width), float(height)))

    def cut(self, cuts: int) -> "Grid":
        """The same place in cells of a `cuts`-th of the size; their tokens are not those of a model."""
        return Grid(self.start, self.rows * cuts, self.cols * cuts, self.extent_xyxy, kind=self.kind)

    @classmethod
    def padded_square(cls, side: int, image_size: tuple[int, int], start: int = 0) -> "Grid":
        """The image centred in a square as large as its longer edge.

        An odd margin puts the spare pixel at the right or bottom.
        """
        width, height = image_size
        square = max(width, height)
        left, top = (square - width) // 2, (square - height) // 2
        return cls(start, side, side, (float(-left), float(-top), float(square - left), float(square - top)))

    @classmethod
    def centre_crop(
        cls, side: int, image_size: tuple[int, int], resize_to: int, crop_to: int | None = None, start: int = 0
    ) -> "Grid":
        """The shorter edge resized to `resize_to` pixels, then a centred square cut out.

        The square has `crop_to` pixels a side, by default `resize_to`.
        """
        width, height = image_size
        crop_to = crop_to or resize_to
        shorter = min(width, height)
        resized = [resize_to * edge // shorter for edge in (width, height)]
        left, top = ((edge - crop_to) // 2 for edge in resized)
        x_scale, y_scale = width / resized[0], height / resized[1]  # original pixels per resized pixel
        return cls(
            start, side, side, (left * x_scale, top * y_scale, (left + crop_to) * x_scale, (top + crop_to) * y_scale)
        )

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Grid":
        """The inverse of `to_dict`. Raises UserError if a key is missing or a value is impossible."""
        try:
            start, rows, cols = (whole(plain[key]) for key in ("start", "rows", "cols"))
            stride, kind = whole(plain.get("stride", cols)), plain.get("kind", "whole")
            x0, y0, x1, y1 = (float(edge) for edge in plain["extent_xyxy"])
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            expected = (
                "{start, rows, cols, extent_xyxy: [x0, y0, x1, y1]}, and stride and kind if they are not the usual"
            )
            raise UserError(f"grid {plain!r} is malformed ({in_words(error)}); expected {expected}") from error
        inside = all(math.isfinite(edge) and abs(edge) <= MOST_PIXELS_AWAY for edge in (x0, y0, x1, y1))
        if start < 0 or rows < 1 or cols < 1 or not inside or x1 <= x0 or y1 <= y0:
            raise UserError(
                f"grid {plain!r} is impossible; expected start >= 0, rows and cols >= 1, x0 < x1 and y0 < y1"
            )
        if x1 - x0 < LEAST_CELL * cols or y1 - y0 < LEAST_CELL * rows:
            raise UserError(f"grid {plain!r} is impossible; its cells are smaller than any pixel")
        if stride < cols or kind not in KINDS:
            expected = f"expected a stride of {cols} or more, its cols, and a kind of {' or '.join(KINDS)}"
            raise UserError(f"grid {plain!r} is impossible; {expected}")
        return cls(start, rows, cols, (x0, y0, x1, y1), stride, kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for meta["grids"]; stride and kind only if they are not the usual."""
        plain = {**asdict(self), "extent_xyxy": list(self.extent_xyxy)}
        usual = {"stride": self.cols, "kind": "whole"}
        return {key: value for key, value in plain.items() if key not in usual or value != usual[key]}

    @property
    def tokens(self) -> slice:
        """From the grid's first token to behind its last, among the record's V.

        With a longer stride, others lie between them.
        """
        return slice(self.start, self.start + (self.rows - 1) * self.stride + self.cols)

    @property
    def index(self) -> Int[np.ndarray, "rows cols"]:
        """Each cell's token among the record's V."""
        return self.start + np.arange(self.rows)[:, None] * self.stride + np.arange(self.cols)
