"""Figures: the picture with mask and box, what each chosen head looks at and all see together; how often each head is selected."""

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
from matplotlib.ticker import MaxNLocator, MultipleLocator
from PIL import Image, ImageOps

from analyze import Head, HeadScore
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

    scale = min(1.0, LONGEST_SIDE / max(image.size))
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))) if scale < 1 else image
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


def selection_figure(
    frequency: Float[np.ndarray, "layers heads"], std: Float[np.ndarray, "layers heads"], ranked: Sequence[Head], top_k: int, title: str
) -> Figure:
    """How often each head is selected: the whole model as a map, and the most frequent heads as bars with their deviation.

    Args:
        frequency: share of the samples, 0 to 1. std: its standard deviation over the trials.
        ranked: the heads, most frequent first; the first `top_k` are marked in both parts.
    """
    figure = Figure(figsize=(11, 5.2), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.965, title if len(title) <= 84 else f"…{title[-83:]}", va="top", fontsize=15, color=INK, parse_math=False)
    _head_map(figure, figure.add_axes((0.055, 0.12, 0.47, 0.76)), 100 * frequency, ranked[:top_k], "selected in % of samples")
    best = [head for head in ranked[: max(10, min(top_k, 20))] if frequency[head] > 0]
    _selection_bars(figure.add_axes((0.66, 0.12, 0.325, 0.76)), best, 100 * frequency, 100 * std, top_k)
    return figure


def _head_map(figure: Figure, axis: Axes, percent: Float[np.ndarray, "layers heads"], chosen: Sequence[Head], label: str) -> None:
    picture = axis.imshow(percent, cmap=HEAT, vmin=0, vmax=max(1.0, float(percent.max())), interpolation="nearest")
    for layer, head in chosen:
        for colour, line in (("white", 3.6), (BOX_COLOUR, 2.0)):
            axis.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=line, clip_on=False))
    for side, name, count in ((axis.xaxis, "head", percent.shape[1]), (axis.yaxis, "layer", percent.shape[0])):
        side.set_major_locator(MultipleLocator(1 if count <= 12 else 4))
        side.set_label_text(name, fontsize=12, color=INK)
    axis.set(xlim=(-0.5, percent.shape[1] - 0.5), ylim=(percent.shape[0] - 0.5, -0.5))
    axis.tick_params(labelsize=10, colors=INK)
    bar = figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.03)
    bar.set_label(label, fontsize=12, color=INK)
    bar.ax.tick_params(labelsize=10, colors=INK)
    bar.outline.set_edgecolor("#999999")


def _selection_bars(
    axis: Axes, heads: Sequence[Head], percent: Float[np.ndarray, "layers heads"], deviation: Float[np.ndarray, "layers heads"], top_k: int
) -> None:
    lengths, errors = ([values[head] for head in heads] for values in (percent, deviation))
    colours = [BOX_COLOUR if rank < top_k else "#b5b5b5" for rank in range(len(heads))]
    axis.barh(range(len(heads)), lengths, xerr=errors if any(errors) else None, color=colours, ecolor=INK, capsize=2.5, height=0.72)
    longest = max((length + error for length, error in zip(lengths, errors, strict=True)), default=1.0)
    for rank, (length, error) in enumerate(zip(lengths, errors, strict=True)):
        axis.text(length + error + 0.02 * longest, rank, f"{length:.1f}", va="center", fontsize=11, color=INK)
    axis.set_yticks(range(len(heads)), [f"L{layer} H{head}" for layer, head in heads])
    for label in axis.get_yticklabels()[:top_k]:
        label.set_fontweight("bold")
    axis.set(xlim=(0, 1.2 * longest), ylim=(max(len(heads), 5) - 0.4, -0.6))
    axis.set_xlabel("selected in % of samples", fontsize=12, color=INK)
    axis.tick_params(labelsize=11, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)


def head_quality_figure(
    mean_iou: Float[np.ndarray, "layers heads"], frequency: Float[np.ndarray, "layers heads"], rho: float | None
) -> Figure:
    """How good each head's own box is, layer by head, and whether the heads that are selected often are the good ones.

    Args:
        mean_iou: mean IoU with the true box, 0 to 1.
        frequency: share of the samples in which the head is selected, 0 to 1.
        rho: Spearman's rank correlation of the two, over the heads ever selected; None if there are too few.
    """
    figure = Figure(figsize=(11, 4.6), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.965, "Boxes of single heads", va="top", fontsize=15, color=INK)
    _head_map(figure, figure.add_axes((0.055, 0.13, 0.47, 0.73)), 100 * mean_iou, [], "mean IoU of its own box, %")
    axis = figure.add_axes((0.68, 0.13, 0.3, 0.73))
    seen = frequency > 0
    axis.scatter(100 * frequency[seen], 100 * mean_iou[seen], s=22, color="#0072b2", edgecolor="white", linewidth=0.6)
    axis.set_xlabel("selected in % of samples", fontsize=12, color=INK)
    axis.set_ylabel("mean IoU of its own box, %", fontsize=12, color=INK)
    axis.set_title("" if rho is None else f"Spearman's rho {rho:.2f}", fontsize=12, color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlim=(0, None), ylim=(0, None))
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Writes the figure, whole or not at all; the format is the suffix (.png, .pdf, .svg)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=dpi)
    write_atomic(path, buffer.getvalue())


def show(figure: Figure) -> None:
    """Opens a window with the figure; where there is no display, says so and goes on."""
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() == "agg":
        log.warning("show_plot=true: no display here, so no window is opened")
        return
    window = plt.figure(figsize=figure.get_size_inches(), dpi=figure.dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    window.figimage(np.asarray(canvas.buffer_rgba()))
    plt.show()
