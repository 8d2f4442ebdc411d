"""A picture with its image tokens drawn over it, so that one can look whether each lies where it should.

Grids over the whole picture and grids over its tiles have a panel each. A grid has its own colour, and a number in the
first and in the last of its cells: their tokens among the record's V.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageOps

from lab.base.colours import APART, INK
from lab.base.errors import UserError
from llava.family import Picture
from llava.grid import KINDS, Grid

FIGURES = ("png", "pdf", "svg")
WIDTH, TALLEST = 7.1, 5.5  # inches: of a printed page's text; of a panel
PIXELS = 200  # per inch
POINTS = 7
PALE = 0.45  # how much of the picture's contrast is left below the lines
LONGEST_SIDE = 900  # pixels of the picture inside the figure; more would not be seen
TITLES = {"whole": "over the whole picture", "tile": "over its tiles"}


def figure_kind(path: str) -> str:
    """png, pdf or svg. Raises UserError for another file name."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FIGURES:
        raise UserError(f"--draw={path}: expected a name that ends in {', '.join(f'.{one}' for one in FIGURES)}")
    return kind


def drawn(image: Image.Image, picture: Picture, kind: str = "png") -> bytes:
    """The figure as a file of this kind. `picture` is what a family made of the RGB `image`."""
    panels = [[grid for grid in picture.grids if grid.kind == one] for one in KINDS]
    panels = [grids for grids in panels if grids]
    colours = _colours(picture.grids)
    frames = [_frame(image.size, grids) for grids in panels]
    across = WIDTH / len(panels)
    down = min(TALLEST, max(across * (y1 - y0) / (x1 - x0) for x0, y0, x1, y1 in frames))
    entries = [_entry(grid) for grid in picture.grids]
    columns = 2 if max(map(len, entries)) > 40 else 3
    legend = 0.3 + 0.15 * -(-len(entries) // columns)
    figure = Figure(figsize=(WIDTH, down + 0.3 + legend), dpi=PIXELS, facecolor="white")
    height = down + 0.3 + legend
    pale = _pale(image)
    for number, (grids, frame) in enumerate(zip(panels, frames, strict=True)):
        axis = figure.add_axes((number / len(panels) + 0.01, legend / height, 1 / len(panels) - 0.02, down / height))
        _draw(axis, pale, image.size, frame, grids, colours)
    figure.legend(
        [Line2D([], [], color=colours[grid], linewidth=2) for grid in picture.grids], entries, loc="lower center",
        ncols=columns, fontsize=POINTS, frameon=False, handlelength=1.2, columnspacing=1.5,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def _colours(grids: Sequence[Grid]) -> dict[Grid, str]:
    """Ink for those over the whole picture; tiles side by side or above each other differ."""
    of_tiles = [grid for grid in grids if grid.kind == "tile"]
    count = len(APART)
    return dict.fromkeys(grids, INK) | {grid: APART[(n + n // count) % count] for n, grid in enumerate(of_tiles)}


def _frame(image_size: tuple[int, int], grids: Sequence[Grid]) -> tuple[float, float, float, float]:
    """What holds the picture and all grids, which may reach beyond it."""
    boxes = [(0.0, 0.0, *map(float, image_size)), *(grid.extent_xyxy for grid in grids)]
    lows, highs = [min(box[i] for box in boxes) for i in (0, 1)], [max(box[i] for box in boxes) for i in (2, 3)]
    return lows[0], lows[1], highs[0], highs[1]


def _entry(grid: Grid) -> str:
    return f"{grid.kind}, {grid.rows} x {grid.cols}: tokens {grid.tokens.start} to {grid.tokens.stop - 1}"


def _pale(image: Image.Image) -> Image.Image:
    small = ImageOps.contain(image, (LONGEST_SIDE, LONGEST_SIDE)) if max(image.size) > LONGEST_SIDE else image
    return Image.blend(Image.new("RGB", small.size, "white"), small, PALE)


def _draw(
    axis: Axes,
    pale: Image.Image,
    image_size: tuple[int, int],
    frame: tuple[float, float, float, float],
    grids: Sequence[Grid],
    colours: dict[Grid, str],
) -> None:
    x0, y0, x1, y1 = frame
    width, height = image_size
    axis.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal", xticks=[], yticks=[], facecolor="#dddddd")
    axis.imshow(pale, extent=(0, width, height, 0), interpolation="antialiased")
    axis.set(xlim=(x0, x1), ylim=(y1, y0))
    axis.set_title(TITLES[grids[0].kind], fontsize=POINTS + 1)
    axis.spines[:].set_visible(False)
    for grid in grids:
        _draw_grid(axis, grid, colours[grid])


def _draw_grid(axis: Axes, grid: Grid, colour: str) -> None:
    x0, y0, x1, y1 = grid.extent_xyxy
    across, down = (x1 - x0) / grid.cols, (y1 - y0) / grid.rows
    lines = [[(x0 + col * across, y0), (x0 + col * across, y1)] for col in range(1, grid.cols)]
    lines += [[(x0, y0 + row * down), (x1, y0 + row * down)] for row in range(1, grid.rows)]
    axis.add_collection(LineCollection(lines, colors=colour, linewidths=0.35), autolim=False)
    edge = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.2, clip_on=False)
    axis.add_patch(edge)
    corners = {(x0, y0): ("left", "top"), (x1, y1): ("right", "bottom")}
    tokens = (grid.index[0, 0], grid.index[-1, -1])
    for token, ((x, y), (side, end)) in zip(tokens, corners.items(), strict=True):
        left, top = (x, y) if side == "left" else (x - across, y - down)
        axis.add_patch(Rectangle((left, top), across, down, facecolor=colour, alpha=0.6, linewidth=0))
        shift = 2 if side == "left" else -2
        axis.annotate(
            str(token), (x, y), xytext=(shift, -shift), textcoords="offset points", ha=side, va=end, fontsize=POINTS,
            color=INK, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
