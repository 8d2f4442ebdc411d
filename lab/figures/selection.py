"""Figures over many samples: how often each head is selected, and how good each head's own box is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyze import Head
from lab.figures.colours import BOX_COLOUR, INK
from lab.figures.heads import head_map
from lab.figures.style import canvas, mark_heads


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
    figure = canvas(11, 5.2)
    figure.text(
        0.02,
        0.965,
        title if len(title) <= 84 else f"…{title[-83:]}",
        va="top",
        fontsize=15,
        color=INK,
        parse_math=False,
    )
    axis = figure.add_axes((0.055, 0.12, 0.47, 0.76))
    head_map(figure, axis, 100 * frequency, "selected in % of samples")
    mark_heads(axis, ranked[:top_k])
    best = [head for head in ranked[: max(10, min(top_k, 20))] if frequency[head] > 0]
    _selection_bars(figure.add_axes((0.66, 0.12, 0.325, 0.76)), best, 100 * frequency, 100 * std, top_k)
    return figure


def _selection_bars(
    axis: Axes,
    heads: Sequence[Head],
    percent: Float[np.ndarray, "layers heads"],
    deviation: Float[np.ndarray, "layers heads"],
    top_k: int,
) -> None:
    lengths, errors = ([values[head] for head in heads] for values in (percent, deviation))
    colours = [BOX_COLOUR if rank < top_k else "#b5b5b5" for rank in range(len(heads))]
    axis.barh(
        range(len(heads)),
        lengths,
        xerr=errors if any(errors) else None,
        color=colours,
        ecolor=INK,
        capsize=2.5,
        height=0.72,
    )
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
    figure = canvas(11, 4.6)
    figure.text(0.02, 0.965, "Boxes of single heads", va="top", fontsize=15, color=INK)
    head_map(figure, figure.add_axes((0.055, 0.13, 0.47, 0.73)), 100 * mean_iou, "mean IoU of its own box, %")
    axis = figure.add_axes((0.68, 0.13, 0.3, 0.73))
    seen = frequency > 0
    axis.scatter(100 * frequency[seen], 100 * mean_iou[seen], s=22, color="#0072b2", edgecolor="white", linewidth=0.6)
    axis.set_xlabel("selected in % of samples", fontsize=12, color=INK)
    axis.set_ylabel("mean IoU of its own box, %", fontsize=12, color=INK)
    axis.set_title("" if rho is None else f"Spearman's rho {rho:.2f}", fontsize=12, color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlim=(0, None), ylim=(0, None))
    return figure
