"""Pictures, outlines and attention maps in the few bytes that a page can afford."""

import base64
import io

import numpy as np
from contourpy import LineType, contour_generator
from jaxtyping import Bool, Float
from PIL import Image

Outline = tuple[float, str]  # pixels of the mask in one unit of the path, and the path

OUTLINE_SIDE = 96  # longest side of the mask that is followed, in cells
METHOD = 2  # of WebP, from 0 (fast) to 6 (small): 4, the usual one, takes half as long again for 4 % fewer bytes
QUALITIES = (70, 55, 40, 25)  # of WebP, tried in turn
LARGEST = (
    11_500  # bytes of a picture: 1,000 of them, with the maps of 10 heads of 24 x 24 cells, stay under 25 MB in base64
)


def thumbnail(image: Image.Image, max_side: int) -> bytes:
    """The picture as WebP, its longest side at most `max_side` pixels, in at most LARGEST bytes where any quality
    achieves it.
    """
    small = image.copy()
    small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    data = b""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        small.save(buffer, format="webp", quality=quality, method=METHOD)
        data = buffer.getvalue()
        if len(data) <= LARGEST:
            break
    return data


def outline(mask: Bool[np.ndarray, "height width"]) -> Outline:
    """The mask's outlines as an SVG path, and the pixels of the mask in one unit of the path.

    An empty mask has the path "".

    The mask is first reduced to OUTLINE_SIDE cells on its longer side; its corners come out slanted by half a cell.
    """
    step = max(1, -(-max(mask.shape) // OUTLINE_SIDE))
    across = np.add.reduceat(mask, np.arange(0, mask.shape[1], step), axis=1, dtype=np.int32)  # [mask's height, width]
    cells = np.add.reduceat(across, np.arange(0, mask.shape[0], step), axis=0) > step * step / 2
    closed = np.pad(cells.astype(np.float32), 1)  # so that the outline of a mask at the edge closes
    lines = contour_generator(z=closed, line_type=LineType.Separate).lines(0.5)
    # Centre of cell i is at i - 1 + 0.5 after the padding; in half cells every corner is a whole number.
    return step / 2, "".join(_path(np.rint(2 * np.asarray(line) - 1).astype(int)) for line in lines)


def _path(points: np.ndarray) -> str:
    """A closed line [n, 2] of whole numbers as an SVG path of relative steps, without the corners that bend nothing."""
    steps = np.diff(points, axis=0)
    turns = np.any(steps[1:] != steps[:-1], axis=1)
    corners = points[np.concatenate([[True], turns, [True]])]
    moves = np.diff(corners, axis=0)[:-1]  # z draws the last
    return f"M{corners[0, 0]} {corners[0, 1]}l{' '.join(map(str, moves.ravel().tolist()))}z"


def levels(maps: Float[np.ndarray, "maps rows cols"], highest: float) -> np.ndarray:
    """Maps as bytes, uint8 [maps, rows, cols].

    The square root of each cell's share of `highest`, so that faint cells keep their shades.
    """
    share = np.clip(maps / (highest or 1.0), 0, 1)
    return np.rint(255 * np.sqrt(share)).astype(np.uint8)


def text_of(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode("ascii")
