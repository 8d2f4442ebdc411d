"""Figures over many samples: how often each head is selected, and how good each head's own box is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyze import Head
from lab.figures.colours import BOX_COLOUR, INK
from lab.figures.heads import head_map, map_width
from lab.figures.style import CAPTION_POINTS, LABEL, PAGE, SMALL, TITLE, canvas, mark_heads, place, text_size

OTHERS = "#8c8c8c"  # heads that are not chosen; beside blue in grey print too


def selection_figure(
    frequency: Float[np.ndarray, "layers heads"],
    std: Float[np.ndarray, "layers heads"],
    ranked: Sequence[Head],
    top_k: int,
    title: str,
) -> Figure:
    """How often each head is selected.

    The whole model as a map, and the most frequent heads as bars with their deviation.

    Args:
        frequency: share of the samples, 0 to 1. std: its standard deviation over the trials.
        ranked: the heads, most frequent first; the first `top_k` are marked in both parts.
    """
    figure = canvas(PAGE, 3.2)
    figure.text(0.012, 0.97, _end(title), va="top", fontsize=CAPTION_POINTS, color=INK, parse_math=False)
    width = map_width(frequency.shape, 2.3, 3.3)
    axis = place(figure, 0.4, 0.4, width, 2.3)
    head_map(figure, axis, 100 * frequency, "selected in % of samples")
    mark_heads(axis, ranked[:top_k])
    best = [head for head in ranked[: max(10, min(top_k, 20))] if frequency[head] > 0]
    left = 0.4 + width + 1.1
    _selection_bars(place(figure, left, 0.4, PAGE - left - 0.1, 2.3), best, 100 * frequency, 100 * std, top_k)
    return figure


def _end(title: str) -> str:
    """The title, or as much of its end as fits on one line."""
    while text_size(title, CAPTION_POINTS)[0] > PAGE - 0.2:
        title = f"…{title.lstrip('…')[1:]}"
    return title


def _selection_bars(
    axis: Axes,
    heads: Sequence[Head],
    percent: Float[np.ndarray, "layers heads"],
    deviation: Float[np.ndarray, "layers heads"],
    top_k: int,
) -> None:
    lengths, errors = ([values[head] for head in heads] for values in (percent, deviation))
    colours = [BOX_COLOUR if rank < top_k else OTHERS for rank in range(len(heads))]
    axis.barh(
        range(len(heads)),
        lengths,
        xerr=errors if any(errors) else None,
        color=colours,
        ecolor=INK,
        capsize=1.5,
        height=0.72,
        error_kw={"elinewidth": 0.8},
    )
    longest = max((length + error for length, error in zip(lengths, errors, strict=True)), default=1.0)
    for rank, (length, error) in enumerate(zip(lengths, errors, strict=True)):
        axis.text(length + error + 0.02 * longest, rank, f"{length:.1f}", va="center", fontsize=SMALL, color=INK)
    axis.set_yticks(range(len(heads)), [f"L{layer} H{head}" for layer, head in heads])
    for label in axis.get_yticklabels()[:top_k]:
        label.set_fontweight("bold")
    axis.set(xlim=(0, 1.2 * longest), ylim=(max(len(heads), 5) - 0.4, -0.6))
    over = "\n± standard deviation over the trials" if any(errors) else ""
    axis.set_xlabel(f"selected in % of samples{over}", fontsize=LABEL, color=INK, labelpad=2)
    axis.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=2)
    axis.spines[["top", "right"]].set_visible(False)


def head_quality_figure(
    mean_iou: Float[np.ndarray, "layers heads"],
    frequency: Float[np.ndarray, "layers heads"],
    rho: float | None,
    chosen: Sequence[Head] = (),
) -> Figure:
    """How good each head's own box is, layer by head, and whether the heads that are selected often are the good ones.

    Args:
        mean_iou: mean IoU with the true box, 0 to 1.
        frequency: share of the samples in which the head is selected, 0 to 1.
        rho: Spearman's rank correlation of the two, over the heads ever selected; None if there are too few.
        chosen: the heads that make the heat map, marked in both parts.
    """
    figure = canvas(PAGE, 2.75)
    figure.text(0.012, 0.965, "Boxes of single heads", va="top", fontsize=CAPTION_POINTS, color=INK)
    width = map_width(mean_iou.shape, 1.95, 3.2)
    axis = place(figure, 0.4, 0.42, width, 1.95)
    head_map(figure, axis, 100 * mean_iou, "mean IoU of its own box, %")
    mark_heads(axis, chosen)
    left = 0.4 + width + 1.0
    axis = place(figure, left, 0.42, PAGE - left - 0.1, 1.95)
    seen, marked = frequency > 0, np.zeros(frequency.shape, bool)
    marked[tuple(np.array(chosen, int).reshape(-1, 2).T)] = True
    for which, mark, colour, size, label in (
        (seen & ~marked, "o", OTHERS, 9, "other heads"), (marked, "D", BOX_COLOUR, 16, "chosen heads"),
    ):  # fmt: skip
        axis.scatter(
            100 * frequency[which], 100 * mean_iou[which], s=size, color=colour, marker=mark, edgecolor="white",
            linewidth=0.3, label=label,
        )  # fmt: skip
    if chosen:
        axis.legend(loc="lower right", frameon=False, fontsize=SMALL, labelcolor=INK, handletextpad=0.2, borderpad=0)
    axis.set_xlabel("selected in % of samples", fontsize=LABEL, color=INK, labelpad=2)
    axis.set_ylabel("mean IoU of its own box, %", fontsize=LABEL, color=INK, labelpad=2)
    axis.set_title("" if rho is None else f"Spearman's rho {rho:.2f}", fontsize=TITLE, color=INK, loc="left")
    axis.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlim=(0, None), ylim=(0, None))
    return figure
