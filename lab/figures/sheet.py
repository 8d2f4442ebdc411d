"""Where the parts of a figure go.

Caption on top, a large picture at the left, small panels around it, a colour bar at the right.
"""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.figures.style import PAGE, canvas, caption, caption_height, place, write_caption

TITLE, GAP, MARGIN, BAR = 0.3, 0.09, 0.08, 0.55  # inches; a title has two lines
WIDEST = PAGE - 2 * MARGIN - BAR  # inches: all cells together
NARROWEST, TYPICAL = 1.17, 1.7  # inches: one cell, for its title; a square cell
SLIDE = 16 / 9
MOST_COLUMNS = 5


def sheet(query: str, panels: int, shape: float, *, large: bool = True) -> tuple[Figure, list[Axes]]:
    """An empty figure for as many panels, whose pictures are `shape` times as wide as high, under the query.

    With `large`, the first of the axes is four panels in size, and the last is for a colour bar.
    """
    corner = 2 if large else 0
    rows, columns = _rows_and_columns(panels + corner**2, shape, corner)
    width = max(NARROWEST, min(TYPICAL * math.sqrt(shape), (WIDEST + GAP) / columns - GAP))
    height = width / shape
    across, down = width + GAP, height + TITLE
    whole_width = 2 * MARGIN + columns * across - GAP + (BAR if large else 0)
    lines = caption(query, whole_width - 2 * MARGIN)
    top = caption_height(lines)
    figure = canvas(whole_width, top + rows * down + MARGIN)
    write_caption(figure, lines, MARGIN)

    def cell(row: int, column: int, size: int = 1) -> Axes:
        left, high = MARGIN + column * across, top + row * down + TITLE
        axis = place(figure, left, high, size * across - GAP, size * down - TITLE)
        axis.set_anchor("SW" if size > 1 else "N")
        return axis

    free = [(row, column) for row in range(rows) for column in range(columns) if row >= corner or column >= corner]
    axes = [*([cell(0, 0, 2)] if large else []), *(cell(*at) for at in free[:panels])]
    if not large:
        return figure, axes
    bar = place(figure, whole_width - MARGIN - BAR + 0.08, top + TITLE, 0.1, rows * down - TITLE)
    return figure, [*axes, bar]


def _rows_and_columns(cells: int, shape: float, least: int) -> tuple[int, int]:
    """The grid for so many cells, at least `least` each way, that is near to a slide's shape and leaves few cells
    empty.
    """

    def cost(rows: int, columns: int) -> float:
        return abs(math.log(columns * shape / rows / SLIDE)) + 8 * (1 - cells / (rows * columns))

    grids = [(rows, max(least, -(-cells // rows))) for rows in range(max(1, least), cells + 1)]
    return min((grid for grid in grids if grid[1] <= MOST_COLUMNS), key=lambda grid: cost(*grid))
