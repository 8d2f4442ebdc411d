"""Figures: the picture with mask and box, what each chosen head looks at, and what they see together."""

import io
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

from analyze import HeadScore
from bbox import Localization
from lab.records import Grid, write_atomic

log = logging.getLogger(__name__)

HEAT = colormaps["inferno"]
BOX_COLOUR = "#00b7ff"  # stays apart from the heat colours in grey print and for colour-blind readers
MASK_COLOUR = (1.0, 0.72, 0.0)
INK = "#222222"
PANEL_HEIGHT, TITLE_ROOM, BAR_ROOM = 2.3, 0.26, 0.8  # inches
LONGEST_SIDE = 800  # pixels of the picture inside a figure; more would not be seen


def top_heads_figure(
    image: Image.Image,
    query: str,
    maps: Float[np.ndarray, "heads rows cols"],
    scores: Sequence[HeadScore],
    result: Localization,
    grid: Grid,
) -> Figure:
    """The picture with mask outline and box, each chosen head's map over it, and the mean of their smoothed maps.

    All maps share one colour scale: attention per cell, the share of the last token's attention that a cell gets.

    Args:
        maps: the chosen heads' attention, as captured, in the order of `scores`.
        scores: what the ranking says of the same heads.
        grid: where the maps lie over `image`.
    """
    rows, columns = _layout(len(scores) + 1)
    panel_width = PANEL_HEIGHT * min(1.7, max(0.72, image.width / image.height))
    width, height = (rows + columns) * panel_width + BAR_ROOM, rows * (PANEL_HEIGHT + TITLE_ROOM)
    caption = textwrap.wrap(f"“{query}”", max(24, int(8 * width)), max_lines=3, placeholder=" …”")
    head_room = 0.3 + 0.24 * len(caption)
    height += head_room
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    cells = figure.add_gridspec(
        rows,
        rows + columns,
        left=0.01,
        right=1 - BAR_ROOM / width,
        bottom=0.12 / height,
        top=1 - head_room / height,
        wspace=0.05,
        hspace=0.14,
    )
    figure.text(0.012, 1 - 0.14 / height, "\n".join(caption), va="top", fontsize=13, color=INK, parse_math=False)

    small = ImageOps.contain(image, (LONGEST_SIDE, LONGEST_SIDE)) if max(image.size) > LONGEST_SIDE else image
    combined = result.heat / max(1, len(scores))
    highest = max(float(maps.max(initial=0)), float(combined.max())) or 1.0
    norm = PowerNorm(0.5, 0, highest)  # most cells of a head that looks at few are faint
    first = figure.add_subplot(cells[:, :rows])
    _picture(first, small, image.size)
    _result(first, result)
    titles = [*map(score_title, scores), "together, smoothed"]
    axes = [figure.add_subplot(cells[i // columns, rows + i % columns]) for i in range(len(titles))]
    for axis, attention, title in zip(axes, [*maps, combined], titles, strict=True):
        _overlay(axis, small, image.size, attention, grid, norm)
        axis.set_title(title, fontsize=9.5, color=INK, pad=4)
    _colour_bar(figure, (1 - (BAR_ROOM - 0.12) / width, 0.12 / height, 0.13 / width, 1 - (head_room + 0.24) / height), norm)
    return figure


def _layout(panels: int) -> tuple[int, int]:
    """Rows and columns of the small panels beside the large one, which is as tall as all rows."""
    rows = 1 if panels == 1 else 2 if panels <= 6 else 3
    return rows, -(-panels // rows)


def score_title(score: HeadScore) -> str:
    """`L14 H24 · S 0.61 · H 0.42`: layer and head from zero, attention sum, spatial entropy."""
    entropy = f"{abs(score.spatial_entropy):.2f}" if np.isfinite(score.spatial_entropy) else "∞"
    return f"L{score.layer} H{score.head} · S {score.attn_sum:.2f} · H {entropy}"


def _picture(axis: Axes, picture: Image.Image, size: tuple[int, int]) -> None:
    axis.imshow(np.asarray(picture), extent=(0, size[0], size[1], 0), interpolation="antialiased")
    axis.set(xlim=(0, size[0]), ylim=(size[1], 0), xticks=[], yticks=[], aspect="equal")
    for spine in axis.spines.values():
        spine.set_edgecolor("#999999")


def _overlay(
    axis: Axes, picture: Image.Image, size: tuple[int, int], attention: Float[np.ndarray, "rows cols"], grid: Grid, norm: Normalize
) -> None:
    """Attention over a pale grey copy of the picture, in the right place whatever padding or crop the grid has."""
    pale = np.asarray(ImageOps.grayscale(picture)) / 255 * 0.5 + 0.5
    _picture(axis, Image.fromarray((pale * 255).astype(np.uint8)).convert("RGB"), size)
    x0, y0, x1, y1 = grid.extent_xyxy
    opacity = _opacity(np.asarray(norm(attention)))
    axis.imshow(attention, cmap=HEAT, norm=norm, alpha=opacity, extent=(x0, x1, y1, y0), interpolation="nearest", zorder=2)
    axis.set(xlim=(0, size[0]), ylim=(size[1], 0))


def _result(axis: Axes, result: Localization) -> None:
    """Mask as a tint with an outline, box as a frame; nothing where there is none."""
    if not result.mask.any() or result.box_xyxy is None:
        return
    height, width = result.mask.shape
    tint = ListedColormap([(*MASK_COLOUR, 0.0), (*MASK_COLOUR, 0.25)])
    axis.imshow(result.mask, cmap=tint, vmin=0, vmax=1, extent=(0, width, height, 0), interpolation="nearest", zorder=2)
    axis.contour(
        _padded(result.mask), levels=[0.5], colors=[MASK_COLOUR], linewidths=1.6, extent=(-0.5, width + 0.5, -0.5, height + 0.5), zorder=3
    )
    x0, y0, x1, y1 = result.box_xyxy
    for colour, line in (("white", 3.6), (BOX_COLOUR, 2.0)):
        axis.add_patch(Rectangle((x0, y0), x1 - x0 + 1, y1 - y0 + 1, fill=False, edgecolor=colour, linewidth=line, zorder=4, clip_on=False))


def _padded(mask: Bool[np.ndarray, "height width"]) -> np.ndarray:
    """One row and column of background all round, so that the outline of a mask at the edge closes."""
    return np.pad(mask.astype(np.float32), 1)[1:, 1:] if min(mask.shape) < 2 else np.pad(mask.astype(np.float32), 1)[:-1, :-1]


def _colour_bar(figure: Figure, place: tuple[float, float, float, float], norm: Normalize) -> None:
    axis = figure.add_axes(place)
    ramp = np.linspace(0, 1, 128)
    opacity = _opacity(ramp)[:, None]
    colours = HEAT(ramp)[:, :3] * opacity + (1 - opacity) * 0.85  # as seen over the pale picture
    axis.imshow(colours[:, None], origin="lower", aspect="auto", extent=(0, 1, 0, 1))
    ticks = np.array([0, *MaxNLocator(4).tick_values(0, norm.vmax or 1.0)[1:]])
    ticks = ticks[ticks <= norm.vmax]
    axis.set(xticks=[], yticks=norm(ticks), yticklabels=[f"{100 * tick:g}" for tick in ticks])
    axis.yaxis.tick_right()
    axis.yaxis.set_label_position("right")
    axis.set_ylabel("attention per cell, %", fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK)


def _opacity(level: np.ndarray) -> np.ndarray:
    """How much of the picture a cell hides, 0 to 0.95, for a level of 0 to 1."""
    return 0.95 * np.clip(level, 0, 1) ** 0.8


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Writes the figure, whole or not at all; the format is the suffix (.png, .pdf, .svg)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=dpi)
    write_atomic(path, buffer.getvalue())


def show(figure: Figure) -> None:
    """Opens a window with the figure; where there is no display, says so and goes on."""
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() == "agg":
        log.warning("show_plot=true: no display here, the figure is only saved")
        return
    window = plt.figure(figsize=figure.get_size_inches())
    window.canvas.figure = figure
    figure.set_canvas(window.canvas)
    plt.show()
