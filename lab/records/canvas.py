"""Several grids over one picture, joined on one canvas.

    canvas = Canvas.over(record.grids)
    canvas.maps(weights)                    # [..., image tokens] -> [..., rows, cols]
    canvas.grid                             # where the canvas lies in the picture

The canvas continues the cells of the finest grid over all that any grid covers. Each token's weight is spread evenly
over its own cell, so that a canvas cell gets the share of it that overlaps the cell; the grids are added. The sum of a
map is the weight of the tokens that count. Of a single grid the canvas is the grid itself, and no weight is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from conf.schema import Grids
from lab.base.errors import UserError
from llava.grid import Grid

MAX_CELLS_PER_TOKEN = 16  # bounds what a wrong file can ask for; grids of real models need fewer than 2
NEARLY = 1e-6  # of a cell: edges that differ by less are the same, and rounding parted them


@dataclass(frozen=True, eq=False)
class Canvas:
    """The cells that maps are drawn on, and how each grid's rows and columns lie on them."""

    grid: Grid  # the canvas as a grid of its own; its tokens mean nothing if several grids were joined
    parts: tuple[tuple[Grid, Float32[np.ndarray, "rows own_rows"], Float32[np.ndarray, "cols own_cols"]], ...] = ()

    @classmethod
    def over(cls, grids: Sequence[Grid]) -> "Canvas":
        """The canvas of one grid or several. Raises UserError if they need far more cells than they have tokens."""
        if len(grids) == 1:
            return cls(grids[0])
        fine = min(grids, key=lambda grid: _cell(grid)[0] * _cell(grid)[1])
        width, height = _cell(fine)
        left, top = fine.extent_xyxy[:2]

        def lattice(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
            x0, y0, x1, y1 = grid.extent_xyxy
            columns, rows = np.linspace(x0, x1, grid.cols + 1), np.linspace(y0, y1, grid.rows + 1)
            return _exact((columns - left) / width), _exact((rows - top) / height)

        edges = [lattice(grid) for grid in grids]  # in cells of the finest grid, counted from its corner
        first_col, first_row = (int(np.floor(min(edge[axis][0] for edge in edges))) for axis in (0, 1))
        cols, rows = (
            int(np.ceil(max(edge[axis][-1] for edge in edges))) - first
            for axis, first in ((0, first_col), (1, first_row))
        )
        if rows * cols > MAX_CELLS_PER_TOKEN * sum(grid.rows * grid.cols for grid in grids):
            raise UserError(f"the grids lie so far apart that one canvas over them would have {rows} x {cols} cells")
        x0, y0 = left + first_col * width, top + first_row * height
        whole = Grid(0, rows, cols, (x0, y0, x0 + cols * width, y0 + rows * height))
        parts = [
            (grid, _shares(down - first_row, rows), _shares(across - first_col, cols))
            for grid, (across, down) in zip(grids, edges, strict=True)
        ]
        return cls(whole, tuple(parts))

    def maps(self, weights: Float32[np.ndarray, "*heads vis"]) -> Float32[np.ndarray, "*heads rows cols"]:
        """The weights of image tokens as maps on the canvas; a view where one grid without gaps makes it."""
        if not self.parts:
            return _on_grid(weights, self.grid)
        spread = [down @ _on_grid(weights, grid) @ across.T for grid, down, across in self.parts]
        return np.sum(spread, axis=0)


def choose_grids(grids: Sequence[Grid], choice: Grids) -> tuple[Grid, ...]:
    """The grids that `logic.grids` asks for; all of them if there are none of the kind."""
    kind = {Grids.whole: "whole", Grids.tiles: "tile"}.get(choice)
    return tuple(grid for grid in grids if grid.kind == kind) or tuple(grids)


def _cell(grid: Grid) -> tuple[float, float]:
    """Width and height of a cell in pixels of the picture."""
    x0, y0, x1, y1 = grid.extent_xyxy
    return (x1 - x0) / grid.cols, (y1 - y0) / grid.rows


def _exact(edges: np.ndarray) -> np.ndarray:
    return np.where(np.abs(edges - np.round(edges)) < NEARLY, np.round(edges), edges)


def _shares(edges: np.ndarray, cells: int) -> Float32[np.ndarray, "cells own"]:
    """How much of each of a grid's rows (or columns) lies in each cell of the canvas; a column adds up to 1."""
    low, high = edges[:-1], edges[1:]
    start = np.arange(cells)[:, None]
    overlap = np.clip(np.minimum(high, start + 1) - np.maximum(low, start), 0, None)
    return (overlap / (high - low)).astype(np.float32)


def _on_grid(weights: Float32[np.ndarray, "*heads vis"], grid: Grid) -> Float32[np.ndarray, "*heads rows cols"]:
    if grid.stride > grid.cols:
        return weights[..., grid.index]
    return weights[..., grid.tokens].reshape(*weights.shape[:-1], grid.rows, grid.cols)
