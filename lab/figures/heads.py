"""All heads of one sample: how much each looks at the image, in how few places, and which ones pass."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from analyze import Head, HeadTable
from lab.figures.colours import BOX_COLOUR, EDGE, INK
from lab.figures.style import (
    HEAT,
    LABEL,
    PAGE,
    SMALL,
    TITLE,
    canvas,
    caption,
    caption_height,
    cell_points,
    mark_heads,
    place,
    write_caption,
)

FEW_PLACES = HEAT.reversed()  # low entropy is what is looked for: it gets the dark end
NO_ENTROPY = "#d9d9d9"
BAR = 0.076  # share of a map's width that its colour bar takes, with the gap
MAP, MARGIN, FOOT = 1.8, 0.08, 0.68  # inches


def heads_figure(table: HeadTable, threshold: float | None, chosen: Sequence[Head], query: str) -> Figure:
    """Attention sum and spatial entropy of every head, layer by head, and the sorted sums with the elbow that the
    threshold is.

    Args:
        table: every head's entropy (also of those that do not pass), and which pass the threshold.
        threshold: of the attention sum; None: every head passes.
        chosen: the heads that make the heat map, marked in all three parts.
    """
    lines = caption(query, PAGE - 2 * MARGIN)
    top = caption_height(lines) + 0.3
    figure = canvas(PAGE, top + MAP + FOOT)
    write_caption(figure, lines, MARGIN)
    left, middle, right = (
        place(figure, x, top, width, MAP) for x, width in ((0.36, 1.98), (2.88, 1.98), (5.62, PAGE - 5.62 - MARGIN))
    )

    sums = head_map(figure, left, table.attn_sum, highest=float(table.attn_sum.max()))
    if threshold is not None:
        sums.ax.axhline(threshold, color=BOX_COLOUR, linewidth=1.5)
    left.set_title("attention sum", loc="left", fontsize=TITLE, color=INK)
    _entropy_map(figure, middle, table)
    for axis in (left, middle):
        mark_heads(axis, chosen)
    _sum_curve(right, table.attn_sum, threshold, chosen)
    return figure


def head_map(
    figure: Figure,
    axis: Axes,
    values: Float[np.ndarray, "layers heads"],
    label: str = "",
    *,
    highest: float | None = None,
    colours: Colormap = HEAT,
) -> Colorbar:
    """A layer x head map from zero to `highest`, with a labelled colour bar, which is returned."""
    highest = max(1.0, float(values.max())) if highest is None else highest
    shape = "equal" if _is_square(values.shape) else "auto"
    picture = axis.imshow(
        values,
        cmap=colours,
        vmin=0,
        vmax=highest or 1.0,
        aspect=shape,  # type: ignore[arg-type]
        interpolation="nearest",
    )
    axis.set_anchor("NW")
    for side, name in ((axis.xaxis, "head"), (axis.yaxis, "layer")):
        side.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 5, 8, 10]))
        side.set_label_text(name, fontsize=LABEL, color=INK)
        side.labelpad = 2
    axis.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    axis.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=2)
    bar = figure.colorbar(picture, ax=axis, fraction=BAR - 0.03, pad=0.03)
    bar.set_label(label, fontsize=LABEL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=2)
    bar.outline.set_edgecolor(EDGE)
    return bar


def _is_square(shape: tuple[int, ...]) -> bool:
    """Whether each cell of a layer x head map is; else the map would be a stripe."""
    return max(shape) <= 4 * min(shape)


def map_width(shape: tuple[int, int], height: float, most: float) -> float:
    """Inches that a map of so many layers and heads takes across, with its colour bar, if it is `height` high."""
    return min(most, height * shape[1] / shape[0] / (1 - BAR)) if _is_square(shape) else most


def _entropy_map(figure: Figure, axis: Axes, table: HeadTable) -> None:
    """Every head's entropy; those that do not look at the image enough are struck out, those without one are grey."""
    entropy = np.where(np.isfinite(table.spatial_entropy), np.abs(table.spatial_entropy), np.nan)
    colours = FEW_PLACES.with_extremes(bad=NO_ENTROPY)
    highest = float(np.nanmax(entropy)) if np.isfinite(entropy).any() else 1.0
    bar = head_map(figure, axis, entropy, highest=highest, colours=colours)
    strike_out(axis, ~table.passes, bar.cmap(bar.norm(entropy)))
    axis.set_title("spatial entropy, nats", loc="left", fontsize=TITLE, color=INK)
    key = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=BOX_COLOUR, linewidth=1.4, label="chosen"),
        Line2D([], [], color=INK, marker=(2, 0, -45), markersize=7, linestyle="", label="below threshold"),
        Patch(facecolor=NO_ENTROPY, edgecolor=EDGE, linewidth=0.5, label="no place stands out"),
    ]
    axis.legend(
        handles=key, loc="upper left", bbox_to_anchor=(-0.2, -0.22), frameon=False, fontsize=SMALL, labelcolor=INK,
        ncols=2, handlelength=0.9, handleheight=0.9, handletextpad=0.5, columnspacing=1, borderpad=0, borderaxespad=0,
        labelspacing=0.3,
    )  # fmt: skip


def strike_out(axis: Axes, out: Bool[np.ndarray, "layers heads"], colours: Float[np.ndarray, "layers heads 4"]) -> None:
    """A line through each head that is `out`: dark on light cells, light on dark ones."""
    layers, heads = np.nonzero(out)
    ends = [((x - 0.38, y + 0.38), (x + 0.38, y - 0.38)) for y, x in zip(layers, heads, strict=True)]
    line = min(0.8, cell_points(axis) / 10)
    light = colours[layers, heads, :3] @ [0.299, 0.587, 0.114] > 0.5
    inks = np.where(light, INK, "white")
    axis.add_collection(LineCollection(ends, colors=inks.tolist(), linewidths=line, zorder=3, label="below threshold"))


def _elbow(axis: Axes, ranks: np.ndarray, heights: np.ndarray, elbow: int) -> None:
    ends = [0, -1]
    axis.plot(ranks[ends], heights[ends], color=EDGE, linewidth=0.8, linestyle="--", label="chord")
    axis.plot(
        ranks[elbow],
        heights[elbow],
        "o",
        color="white",
        markeredgecolor=INK,
        markeredgewidth=1.2,
        markersize=5.5,
        label="elbow",
    )


def _sum_curve(
    axis: Axes, sums: Float[np.ndarray, "layers heads"], threshold: float | None, chosen: Sequence[Head]
) -> None:
    """The sorted sums; the elbow is where they lie farthest from the straight line between the ends."""
    order = np.argsort(sums, axis=None, kind="stable")
    heights, ranks = sums.ravel()[order], np.arange(1, sums.size + 1)
    axis.plot(ranks, heights, color=INK, linewidth=1.3)
    kept = sums.size
    if threshold is not None:
        elbow = int(np.searchsorted(heights, threshold))
        kept -= elbow
        axis.axhline(threshold, color=BOX_COLOUR, linewidth=0.9, label=f"threshold {threshold:.3f}")
        if threshold in heights:  # the elbow is one of the sums; a fixed number is none
            _elbow(axis, ranks, heights, elbow)
    rank_of = np.empty(sums.size, int)
    rank_of[order] = ranks
    at = [rank_of[layer * sums.shape[1] + head] for layer, head in chosen]
    axis.plot(
        at,
        [sums[head] for head in chosen],
        "D",
        color=BOX_COLOUR,
        markeredgecolor="white",
        markersize=5.5,
        markeredgewidth=0.6,
        linestyle="",
        label="chosen heads",
    )
    sags = np.median(heights) < (heights[0] + heights[-1]) / 2
    axis.legend(
        loc="upper left" if sags else "lower right",
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=1.4,
        borderpad=0,
        labelspacing=0.3,
    )
    axis.set_title(f"{kept} of {sums.size} heads pass", loc="left", fontsize=TITLE, color=INK)
    axis.set_xlabel("heads, by attention sum", fontsize=LABEL, color=INK, labelpad=2)
    axis.set_ylabel("attention sum", fontsize=LABEL, color=INK, labelpad=2)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=2)
    axis.spines[["top", "right"]].set_visible(False)
