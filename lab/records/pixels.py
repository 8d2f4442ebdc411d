"""A mask of cells on the pixels of its picture: bilinear, above one half, and how it overlaps with a true mask.

    pixels = Pixels.of(grid, (width, height))
    pixels.mask(cells)                      # [rows, cols] -> [height, width], False where the grid does not reach
    pixels.overlaps(many, true)             # [n, rows, cols] -> pixels in each intersection and in each union

A pixel between the centres of four cells depends on these four alone. Between the same centres lies a tile of pixels,
so that a mask is made of tiles that are full, empty, or one of fourteen more. Of many masks of one picture, each
different tile is looked at once, and nothing of the picture's size is made but the mask itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int

from llava.grid import Grid

LONGEST = 255  # pixels of a tile's side: larger ones are cut, so that their numbers stay in the cache and fit a byte
AT_ONCE = 2**17  # pixels of tiles that are looked at together
FULL = 15  # the corners of a tile as bits: top left, top right, bottom left, bottom right
BITS_OF = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # of each byte
ABOVE_HALF = 0.5 + 2.0**-25  # what exceeds it still exceeds one half when it is rounded to float32


@dataclass(frozen=True, eq=False)
class Axis:
    """The pixels of a picture along one axis, in pieces between the centres of the same two cells."""

    start: Int[np.ndarray, " pieces"]  # the first pixel of each piece
    length: Int[np.ndarray, " pieces"]
    cell: Int[np.ndarray, " pieces"]  # the nearer cell, counted with one more in front of the first
    near: Float32[np.ndarray, "pieces longest"]  # weight of that cell at each pixel, 0 behind the piece's end
    far: Float32[np.ndarray, "pieces longest"]  # of the next one

    @classmethod
    def of(cls, cells: int, low: float, high: float, limit: int) -> "Axis":
        """`cells` from pixel `low` to `high`, as far as they lie among the `limit` pixels of the picture."""
        first, last = round(low), round(high)
        pixel = np.arange(max(first, 0), max(min(last, limit), max(first, 0)))
        # torch's align_corners=False: in float32, product and difference rounded together
        scale = float(np.float32(cells) / np.float32(max(last - first, 1)))
        where = np.maximum((np.float32(pixel - first) + np.float32(0.5)).astype(float) * scale - 0.5, 0)
        where = where.astype(np.float32)
        below = np.minimum(where.astype(int), cells - 1)
        far = np.clip(where - below.astype(np.float32), 0, 1)
        cell = np.where((below == 0) & (far == 0), 0, below + 1)
        piece = _pieces(cell)
        start, length = np.unique(piece, return_index=True, return_counts=True)[1:]
        weights = np.zeros((2, len(start), int(length.max(initial=0))), np.float32)
        weights[:, piece, np.arange(len(pixel)) - start[piece]] = np.float32(1) - far, far
        return cls(pixel[start], length, cell[start], *weights)


def _pieces(cell: Int[np.ndarray, " pixels"]) -> Int[np.ndarray, " pixels"]:
    """A number for the piece of each pixel: those of a cell, cut after LONGEST."""
    new = np.diff(cell, prepend=-1) > 0
    since = np.arange(len(cell)) - np.maximum.accumulate(np.where(new, np.arange(len(cell)), 0))
    return np.cumsum(since % LONGEST == 0) - 1


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of a picture in tiles: those between the same four centres of cells."""

    size: tuple[int, int]  # (width, height) of the picture
    down: Axis
    across: Axis

    @classmethod
    def of(cls, grid: Grid, image_size: tuple[int, int]) -> "Pixels":
        """The grid's extent counts to the nearest whole pixel."""
        return _pixels(grid.rows, grid.cols, grid.extent_xyxy, image_size)

    def mask(self, cells: Bool[np.ndarray, "rows cols"]) -> Bool[np.ndarray, "height width"]:
        """The mask on the picture; False where the grid does not reach."""
        found = np.zeros(self.size[::-1], bool)
        corners = self._corners(cells[None])[0]
        left, stop = _span(self.across)
        for top, length, full in zip(self.down.start, self.down.length, corners == FULL, strict=True):
            found[top : top + length, left:stop] = np.repeat(full, self.across.length)
        i, j = np.nonzero(_is_mixed(corners))
        for some, tiles in self._tiles(i, j, corners[i, j]):
            tile, y, x = np.nonzero(tiles)
            found[self.down.start[i[some][tile]] + y, self.across.start[j[some][tile]] + x] = True
        return found

    def overlaps(
        self,
        masks: Bool[np.ndarray, "n rows cols"],
        true: Bool[np.ndarray, "height width"],
        ignore: Bool[np.ndarray, "height width"] | None = None,
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Pixels in the intersection and in the union of each mask with the true one, those of `ignore` left out."""
        wanted = true if ignore is None else true & ~ignore
        area, inside = self._counts(masks, (None if ignore is None else ~ignore, wanted))
        return inside, area + np.count_nonzero(wanted) - inside

    def _counts(
        self, masks: Bool[np.ndarray, "n rows cols"], planes: tuple[Bool[np.ndarray, "height width"] | None, ...]
    ) -> Int[np.ndarray, "planes n"]:
        """How many pixels each mask has in common with each plane; None stands for all pixels."""
        corners = self._corners(masks)
        shape = (*corners.shape[1:], FULL + 1)
        there = corners != 0  # seldom: most of a mask is empty
        tile = (np.arange(0, math.prod(shape), FULL + 1).reshape(shape[:2]) + corners)[there]
        number = np.zeros(math.prod(shape), int)
        number[tile] = 1
        i, j, kind = np.unravel_index(different := np.flatnonzero(number), shape)
        number[different] = np.arange(len(different))
        known = self._in_planes(i, j, kind, planes)[:, number[tile]]
        totals, each = np.zeros((len(planes), len(masks)), np.int64), there.sum((1, 2))
        if len(tile):
            totals[:, each > 0] = np.add.reduceat(known, (np.cumsum(each) - each)[each > 0], axis=1)
        return totals

    def _in_planes(
        self,
        i: Int[np.ndarray, " tiles"],
        j: Int[np.ndarray, " tiles"],
        corners: Int[np.ndarray, " tiles"],
        planes: tuple[Bool[np.ndarray, "height width"] | None, ...],
    ) -> Int[np.ndarray, "planes tiles"]:
        """How many pixels tiles of row i, column j have in common with each plane."""
        counts = np.stack([self._whole(plane)[i, j] for plane in planes])
        mixed = np.flatnonzero(_is_mixed(corners))
        for some, tiles in self._tiles(i[mixed], j[mixed], corners[mixed]):
            here = mixed[some]
            y = self.down.start[i[here], None] + np.arange(tiles.shape[1])  # beyond the picture no tile has a pixel
            x = self.across.start[j[here], None] + np.arange(tiles.shape[2])
            at = np.minimum(y, self.size[1] - 1)[:, :, None], np.minimum(x, self.size[0] - 1)[:, None]
            for count, plane in zip(counts, planes, strict=True):
                count[here] = _number(tiles if plane is None else tiles & plane[at])
        return counts

    def _whole(self, plane: Bool[np.ndarray, "height width"] | None) -> Int[np.ndarray, "down across"]:
        """How many pixels of the plane lie in each whole tile."""
        if plane is None or 0 in (len(self.down.start), len(self.across.start)):
            return self.down.length[:, None] * self.across.length
        (top, bottom), (left, right) = _span(self.down), _span(self.across)
        covered = plane[top:bottom, left:right].view(np.uint8)
        rows = np.add.reduceat(covered, self.down.start - top, axis=0, dtype=np.uint8)  # LONGEST at most
        return np.add.reduceat(rows, self.across.start - left, axis=1, dtype=np.int64)

    def _corners(self, masks: Bool[np.ndarray, "n rows cols"]) -> Int[np.ndarray, "n down across"]:
        """The four cells around each tile as bits; at the edges the outermost cells stand for those that lack."""
        cells = np.pad(masks, ((0, 0), (1, 1), (1, 1)), mode="edge").view(np.uint8)
        beside = cells[:, :, :-1] | cells[:, :, 1:] << 1
        corners = beside[:, :-1] | beside[:, 1:] << 2
        return corners[:, self.down.cell][:, :, self.across.cell]

    def _tiles(
        self, i: Int[np.ndarray, " tiles"], j: Int[np.ndarray, " tiles"], corners: Int[np.ndarray, " tiles"]
    ) -> Iterator[tuple[slice, Bool[np.ndarray, "some h w"]]]:
        """What lies above one half in tiles of row i, column j, as many at a time as fit into the cache.

        Behind a tile's end there is nothing. Sums are rounded as torch rounds them on processors that fuse a product
        into a sum: horizontally in float32, then the product with the lower row, then the rest in one.
        """
        step = max(AT_ONCE // max(self.down.near.shape[1] * self.across.near.shape[1], 1), 1)
        for some in (slice(first, first + step) for first in range(0, len(i), step)):
            top_left, top_right, low_left, low_right = (
                (corners[some] >> bit & 1).astype(np.float32)[:, None] for bit in range(4)
            )
            near, far = self.across.near[j[some]], self.across.far[j[some]]
            top, low = near * top_left + far * top_right, near * low_left + far * low_right  # [tiles, w]
            rest = self.down.far[i[some], :, None] * low[:, None]  # [tiles, h, w]
            yield some, self.down.near[i[some], :, None].astype(float) * top[:, None] + rest > ABOVE_HALF


def _number(tiles: Bool[np.ndarray, "tiles h w"]) -> Int[np.ndarray, " tiles"]:
    """How many pixels each tile has, counted as bits of bytes: several times faster than a sum over booleans."""
    packed = np.packbits(tiles.reshape(len(tiles), math.prod(tiles.shape[1:])), axis=1)
    return BITS_OF[packed].sum(1, dtype=np.int64)


def _is_mixed(corners: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    return (corners > 0) & (corners < FULL)


def _span(axis: Axis) -> tuple[int, int]:
    """The first pixel and the one behind the last that the grid covers."""
    return (int(axis.start[0]), int(axis.start[-1] + axis.length[-1])) if len(axis.start) else (0, 0)


@lru_cache(maxsize=64)
def _pixels(rows: int, cols: int, extent_xyxy: tuple[float, ...], image_size: tuple[int, int]) -> Pixels:
    x0, y0, x1, y1 = extent_xyxy
    width, height = image_size
    return Pixels(image_size, Axis.of(rows, y0, y1, height), Axis.of(cols, x0, x1, width))
