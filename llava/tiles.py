"""A picture seen twice: whole, and enlarged in tiles of which the padding is cut away, as LLaVA-NeXT sees it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.image_processing_utils import select_best_resolution

from lab.base.errors import UserError
from llava.checkpoint.tower import tower_side
from llava.grid import Grid


@dataclass(frozen=True)
class TileGeometry:
    """Where the image tokens of a picture lie.

    Those of the whole picture, then those of its tiles, row by row across the tiles, with a newline token behind each
    row.
    """

    side: int  # tokens per row and per column of a tile, and of the whole picture
    pixels: int  # per side of a tile
    canvases: tuple[tuple[int, int], ...]  # (height, width) in pixels of the tiles together, to choose from

    @property
    def tokens(self) -> int:
        """Image tokens of one picture, at most."""
        cells = [
            (height * self.side // self.pixels, width * self.side // self.pixels) for height, width in self.canvases
        ]
        return self.fewest + max(rows * (cols + 1) for rows, cols in cells)

    @property
    def fewest(self) -> int:
        """Image tokens of one picture, at least."""
        return self.side**2

    def tiles(self, image_size: tuple[int, int]) -> Grid | None:
        """The grid of the tiles for a picture of (width, height) pixels.

        None if it is so narrow that nothing is left of them.

        The picture is enlarged into the canvas and centred there, in whole pixels; then rows or columns of tokens that
        hold padding alone are cut at both ends, by their number in exact arithmetic. The two may differ by a part of a
        token.
        """
        width, height = image_size
        canvas = select_best_resolution((height, width), [list(pair) for pair in self.canvases])
        patch = self.pixels / self.side  # pixels of a token
        cells = [edge * self.side // self.pixels for edge in canvas]
        scale = min(canvas[0] / height, canvas[1] / width)
        fits_width = canvas[1] / width < canvas[0] / height
        enlarged = [
            min(math.ceil(height * scale), canvas[0]) if fits_width else canvas[0],
            canvas[1] if fits_width else min(math.ceil(width * scale), canvas[1]),
        ]
        cut_rows = cut_cols = 0
        if width / height > cells[1] / cells[0]:
            cut_rows = (cells[0] - int(round(height * (cells[1] / width), 7))) // 2
        else:
            cut_cols = (cells[1] - int(round(width * (cells[0] / height), 7))) // 2
        rows, cols = cells[0] - 2 * cut_rows, cells[1] - 2 * cut_cols
        if rows == 0 or cols == 0:
            return None
        top, left = ((edge - size) // 2 for edge, size in zip(canvas, enlarged, strict=True))
        down, across = height / enlarged[0], width / enlarged[1]  # original pixels per enlarged pixel
        extent = (
            (cut_cols * patch - left) * across,
            (cut_rows * patch - top) * down,
            ((cells[1] - cut_cols) * patch - left) * across,
            ((cells[0] - cut_rows) * patch - top) * down,
        )
        return Grid(self.fewest, rows, cols, extent, stride=cols + 1, kind="tile")

    def describe(self) -> dict[str, str]:
        """What happens to a picture, in words."""
        tiles = sorted({f"{height // self.pixels} x {width // self.pixels}" for height, width in self.canvases})
        return {
            "image": f"whole, and in {', '.join(tiles)} tiles of {self.pixels} pixels, as its shape asks",
            "grid": f"{self.side} x {self.side} of each; at most {self.tokens} image tokens",
        }


def tile_geometry(config: Any, processor: Any, source: Path) -> TileGeometry:
    """From the processor's sizes, the tower's, and the shapes that both are told.

    Raises:
        UserError: they do not fit together.
    """
    size, crop, pixels = dict(processor.size), dict(processor.crop_size), config.vision_config.image_size
    resized = size.get("shortest_edge") or size.get("height")
    if (crop.get("height"), crop.get("width"), resized) != (pixels, pixels, pixels):
        raise UserError(
            f"{source}: tiles are resized to {size} and cropped to {crop}, "
            f"but the vision tower sees {pixels} x {pixels} pixels"
        )
    canvases = tuple(tuple(pair) for pair in config.image_grid_pinpoints)
    if canvases != tuple(tuple(pair) for pair in processor.image_grid_pinpoints):
        raise UserError(f"{source}: image_grid_pinpoints of the model and of its image processor differ")
    if not canvases or any(len(pair) != 2 or edge < pixels or edge % pixels for pair in canvases for edge in pair):
        raise UserError(
            f"{source}: image_grid_pinpoints are {canvases}; expected pairs of multiples of {pixels} pixels"
        )
    if config.vision_feature_select_strategy != "default":
        raise UserError(
            f"{source}: vision_feature_select_strategy must be default, for a class token fits into no tile"
        )
    return TileGeometry(tower_side(config, source), pixels, canvases)
