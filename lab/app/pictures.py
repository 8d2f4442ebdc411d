"""Pictures, maps and outlines in the form that a browser takes: small, and in the right place over the picture.

Maps become one PNG, a sheet, of which a part is shown by CSS: of all heads or of all words there is a single file. The
colours and the opacity are those of the figures.
"""

import base64
import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.colors import Colormap, to_hex
from PIL import Image

from lab.figures.heads import FEW_PLACES, NO_ENTROPY
from lab.figures.style import HEAT
from lab.report.pictures import levels, outline
from llava.grid import Grid

PREVIEW = 1200  # longest side of the picture that is sent, in pixels
QUALITY = 82  # of WebP
SHEET, LEAST_CELLS = (
    1536,
    24,
)  # pixels to a side of a sheet, one for each cell; cells to a side that a map keeps of many


@dataclass(frozen=True)
class Place:
    """Where something lies over the picture: shares of its width and height in percent."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def of(cls, grid: Grid, size: tuple[int, int]) -> "Place":
        """Of a grid over a picture of (width, height) pixels."""
        (x0, y0, x1, y1), (width, height) = grid.extent_xyxy, size
        return cls(100 * x0 / width, 100 * y0 / height, 100 * (x1 - x0) / width, 100 * (y1 - y0) / height)

    @property
    def style(self) -> str:
        return f"left:{self.left:.3f}%;top:{self.top:.3f}%;width:{self.width:.3f}%;height:{self.height:.3f}%"


@dataclass(frozen=True)
class Outline:
    """A mask as an SVG path over a picture of this size."""

    path: str
    scale: float

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "height width"]) -> "Outline":
        scale, path = outline(mask)
        return cls(path, scale)


def preview(image: Image.Image, most: int = PREVIEW) -> str:
    """The picture as a data URL, its longer side no longer than `most` pixels."""
    small = image.copy()
    small.thumbnail((most, most))
    buffer = io.BytesIO()
    small.save(buffer, format="webp", quality=QUALITY, method=2)
    return _url(buffer, "webp")


def sheet(maps: Float[np.ndarray, "down across rows cols"], *, together: bool = False) -> str:
    """Maps beside and below each other as the data URL of a PNG with see-through cells.

    The colours of each run to its own highest value or, with `together`, to what nine in ten do not exceed.
    """
    maps = reduced(maps, max(LEAST_CELLS, SHEET // max(maps.shape[:2])))
    highest = maps.max(axis=(2, 3), keepdims=True, initial=0)
    highest = np.quantile(highest, 0.9) if together else highest
    shares = levels(maps / np.where(highest > 0, highest, 1), 1.0)
    down, across, rows, cols = maps.shape
    cells = shares.transpose(0, 2, 1, 3).reshape(down * rows, across * cols)
    image = Image.frombytes("P", cells.shape[::-1], cells.tobytes())
    image.putpalette(_colours().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="png", transparency=_opacity().tobytes())
    return _url(buffer, "png")


def part_of_sheet(row: int, col: int, shape: tuple[int, int]) -> str:
    """The CSS that shows one map of a sheet of (down, across) maps in an element's background."""
    down, across = shape
    x, y = 100 * col / max(1, across - 1), 100 * row / max(1, down - 1)
    return f"background-position:{x:.4f}% {y:.4f}%;background-size:{100 * across}% {100 * down}%"


def reduced(maps: Float[np.ndarray, "down across rows cols"], most: int) -> Float[np.ndarray, "down across r c"]:
    """Maps of at most `most` cells to a side: larger ones are averaged over the area of each new cell."""
    down, across = (_averages(size, most) for size in maps.shape[2:])
    return np.einsum("ri,daij,cj->darc", down, maps, across, optimize=True)


def _averages(size: int, most: int) -> Float[np.ndarray, "new size"]:
    """What each cell of a row counts for each of the new ones that share its length."""
    edges = np.linspace(0, size, min(size, most) + 1)[:, None]
    cells = np.arange(size)
    overlap = np.minimum(edges[1:], cells + 1) - np.maximum(edges[:-1], cells)
    return np.maximum(overlap, 0) / np.diff(edges, axis=0)


def sum_colour(value: float, highest: float) -> str:
    """Of an attention sum: the darker, the larger."""
    return to_hex(HEAT(value / (highest or 1.0)))


def entropy_colour(value: float, highest: float) -> str:
    """Of a spatial entropy: the darker, the fewer places; grey where nothing stands out."""
    return to_hex(FEW_PLACES(value / (highest or 1.0))) if np.isfinite(value) else NO_ENTROPY


def ramp(colours: Colormap = HEAT) -> str:
    """The colours from the lowest value to the highest, as a CSS gradient."""
    return f"linear-gradient(to right,{','.join(to_hex(colours(step)) for step in np.linspace(0, 1, 12))})"


@cache
def _colours() -> UInt8[np.ndarray, "256 3"]:
    return np.rint(HEAT(np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


@cache
def _opacity() -> UInt8[np.ndarray, " 256"]:
    """As in the figures: faint cells leave the picture to be seen."""
    return np.rint(255 * 0.9 * np.linspace(0, 1, 256) ** 0.75).astype(np.uint8)


def _url(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
