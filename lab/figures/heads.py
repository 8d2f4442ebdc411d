"""All heads of one sample: how much each looks at the image, in how few places, and which ones pass."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyze import Head, HeadTable
from lab.figures.colours import BOX_COLOUR, EDGE, INK
from lab.figures.style import HEAT, canvas, caption, caption_height, mark_heads, place, write_caption

FEW_PLACES = HEAT.reversed()  # low entropy is what is looked for: it gets the dark end
NO_ENTROPY = "#d9d9d9"
WIDTH, MAP, MARGIN = 13.3, 3.5, 0.15  # inches


def heads_figure(table: HeadTable, threshold: float | None, chosen: Sequence[Head], query: str) -> Figure:
    """Attention sum and spatial entropy of every head, layer by head, and the sorted sums with the elbow that the
    threshold is.

    Args:
        table: every head's entropy (also of those that do not pass), and which pass the threshold.
        threshold: of the attention sum; None: every head passes.
        chosen: the heads that make the heat map, marked in all three parts.
    """
    lines = caption(query, WIDTH - 2 * MARGIN)
    top = caption_height(lines) + 0.42
    figure = canvas(WIDTH, top + MAP + 0.75)
    write_caption(figure, lines, MARGIN)
    left, middle, right = (
        place(figure, x, top, width, MAP) for x, width in ((0.6, 3.85), (5.2, 3.85), (9.95, WIDTH - 9.95 - MARGIN))
    )

    sums = head_map(figure, left, table.attn_sum, highest=float(table.attn_sum.max()))
    if threshold is not None:
        sums.ax.axhline(threshold, color=BOX_COLOUR, linewidth=2.5)
    left.set_title("attention sum S", loc="left", fontsize=12, color=INK)
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
    opacity: Float[np.ndarray, "layers heads"] | None = None,
) -> Colorbar:
    """A layer x head map from zero to `highest`, with a labelled colour bar, which is returned."""
    highest = max(1.0, float(values.max())) if highest is None else highest
    shape = "auto" if max(values.shape) > 4 * min(values.shape) else "equal"
    picture = axis.imshow(
        values,
        cmap=colours,
        alpha=opacity,
        vmin=0,
        vmax=highest or 1.0,
        aspect=shape,  # type: ignore[arg-type]
        interpolation="nearest",
    )
    axis.set_anchor("NW")
    for side, name in ((axis.xaxis, "head"), (axis.yaxis, "layer")):
        side.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 5, 8, 10]))
        side.set_label_text(name, fontsize=12, color=INK)
    axis.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    axis.tick_params(labelsize=10, colors=INK)
    bar = figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.03)
    bar.set_label(label, fontsize=12, color=INK)
    bar.ax.tick_params(labelsize=10, colors=INK)
    bar.outline.set_edgecolor(EDGE)
    return bar


def _entropy_map(figure: Figure, axis: Axes, table: HeadTable) -> None:
    """Every head's entropy; those that do not look at the image enough fade, those without an entropy are grey."""
    entropy = np.where(np.isfinite(table.spatial_entropy), np.abs(table.spatial_entropy), np.nan)
    colours = FEW_PLACES.with_extremes(bad=NO_ENTROPY)
    highest = float(np.nanmax(entropy)) if np.isfinite(entropy).any() else 1.0
    opacity = np.where(table.passes, 1.0, 0.22)
    head_map(figure, axis, entropy, highest=highest, colours=colours, opacity=opacity)
    axis.set_title("spatial entropy H, nats", loc="left", fontsize=12, color=INK)
    axis.set_xlabel("head\npale: below the threshold; grey: nothing stands out", fontsize=10.5, color=INK)


def _elbow(axis: Axes, ranks: np.ndarray, heights: np.ndarray, elbow: int) -> None:
    ends = [0, -1]
    axis.plot(ranks[ends], heights[ends], color=EDGE, linewidth=1.2, linestyle="--", label="chord")
    axis.plot(
        ranks[elbow],
        heights[elbow],
        "o",
        color="white",
        markeredgecolor=INK,
        markeredgewidth=2,
        markersize=9,
        label="elbow",
    )


def _sum_curve(
    axis: Axes, sums: Float[np.ndarray, "layers heads"], threshold: float | None, chosen: Sequence[Head]
) -> None:
    """The sorted sums; the elbow is where they lie farthest from the straight line between the ends."""
    order = np.argsort(sums, axis=None, kind="stable")
    heights, ranks = sums.ravel()[order], np.arange(1, sums.size + 1)
    axis.plot(ranks, heights, color=INK, linewidth=2)
    kept = sums.size
    if threshold is not None:
        elbow = int(np.searchsorted(heights, threshold))
        kept -= elbow
        axis.axhline(threshold, color=BOX_COLOUR, linewidth=1.2, label=f"threshold {threshold:.3f}")
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
        markersize=9,
        linestyle="",
        label="chosen heads",
    )
    sags = np.median(heights) < (heights[0] + heights[-1]) / 2
    axis.legend(
        loc="upper left" if sags else "lower right", frameon=False, fontsize=11, labelcolor=INK, handlelength=1.4
    )
    axis.set_title(f"S, sorted: {kept} of {sums.size} heads pass", loc="left", fontsize=12, color=INK)
    axis.set_xlabel("heads, by attention sum", fontsize=12, color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.tick_params(labelsize=10, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
