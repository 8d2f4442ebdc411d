"""The figure of an ablation: one dot for each set of heads, the chosen heads apart, and what more heads do."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lab.ablate.interventions import INTERVENTIONS
from lab.ablate.report import IN_WORDS, QUESTIONS, Ablation
from lab.ablate.sets import CHOSEN, UNTOUCHED
from lab.ablate.trial import SHARES
from lab.base.colours import GREEN, ORANGE, PURPLE
from lab.figures.colours import BOX_COLOUR, INK
from lab.figures.style import LABEL, PAGE, SMALL, canvas, inches, place

GREY = "#9a9a9a"
# name of the set: label, marker, colour, size, and how far below the row's middle its dots lie, in rows
MARKS: dict[str, tuple[str, str, str, float, float]] = {
    "random": ("same layers", "o", GREY, 8, 0.12),
    "any": ("any layer", "o", ORANGE, 8, 0.26),
    "matched": ("matched in attention sum", "o", GREEN, 8, 0.4),
    "others": ("all others of the layers", "s", INK, 11, -0.1),
    "all": ("all heads changed", "^", INK, 14, -0.1),
    "none": ("all heads changed", "^", INK, 14, -0.1),
}
NOTE = 0.36  # inches from the curves down to what is said below them
LEAST = 0.01  # nats; below, the scale is linear, above, it is logarithmic
CURVES = (BOX_COLOUR, ORANGE, GREEN, PURPLE, INK, GREY)
WIDTH, ROW, LEFT = 2.75, 0.42, 1.78  # inches: dots, a row, names
GAP, NAMES, TOP, FOOT = 0.45, 0.77, 0.5, 0.5  # inches: between dots and curves, right of the curves, above, below
AT_LEFT = 0.06 / WIDTH - LEFT / WIDTH  # the figure's left margin, in widths of the dots' axes


def ablation_figure(found: Ablation) -> Figure | None:
    """At the left the headline of every intervention, at the right that of the heads selected most often, by number.

    Shares in %, or the divergence if the data has no answers; None if nothing was measured.
    """
    measured = found.measured
    shares = {name: metric for name, metric in measured.items() if metric in SHARES}
    names = shares or measured
    if not names:
        return None
    unit, height = ("%" if shares else "nats"), max(1.1, ROW * len(names))
    numbers = sorted({int(row.name.split()[1]) for row in found.rows if row.name.startswith("best ")})
    width = PAGE if len(numbers) > 1 else LEFT + WIDTH + 0.15
    lines = _left_out(names).count("\n") if len(numbers) > 1 else 0
    figure = canvas(width, TOP + height + FOOT + 1.25 * SMALL / 72 * lines)
    dots = place(figure, LEFT, TOP, WIDTH, height)
    _dots(dots, found, names, unit)
    if len(numbers) > 1:
        curves = place(figure, LEFT + WIDTH + GAP, TOP, PAGE - LEFT - WIDTH - GAP - NAMES, height)
        _curves(curves, found, names, numbers, unit)
    return figure


def _scale(unit: str) -> float:
    return 100.0 if unit == "%" else 1.0


def _dots(axis: Axes, found: Ablation, names: dict[str, str], unit: str) -> None:
    scale, seen = _scale(unit), set()
    for y, (name, metric) in enumerate(names.items()):
        rows, each = found.of(name, metric), found.each[name][metric]
        for kind, (_, marker, colour, size, down) in MARKS.items():
            values = [each[i] for i, one in enumerate(found.sets) if one.name == kind and np.isfinite(each[i])]
            if values:
                seen.add(kind)
                axis.scatter(
                    scale * np.array(values), np.full(len(values), y + down), s=size, marker=marker, color=colour,
                    alpha=0.75 if len(values) > 1 else 1, linewidth=0, zorder=3, clip_on=False,
                )  # fmt: skip
        before, chosen = rows[UNTOUCHED], rows[CHOSEN]
        axis.plot([scale * before.value] * 2, [y - 0.36, y + 0.46], color=INK, linewidth=1, zorder=2)
        axis.plot(
            [scale * chosen.value_low, scale * chosen.value_high], [y - 0.24] * 2, color=BOX_COLOUR, linewidth=1.3,
            zorder=4, solid_capstyle="butt",
        )  # fmt: skip
        axis.scatter(
            [scale * chosen.value], [y - 0.24], s=26, marker="D", color=BOX_COLOUR, edgecolor="white", linewidth=0.6,
            zorder=5, clip_on=False,
        )  # fmt: skip
    _rows(axis, names)
    axis.set_xlabel("%" if unit == "%" else "divergence of the next token, nats", fontsize=LABEL, color=INK, labelpad=2)
    if unit == "%":
        axis.set_xlim(0, 100)
    else:
        axis.set_xscale("symlog", linthresh=LEAST)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter("{x:g}")
    _legend(axis, seen)


def _rows(axis: Axes, names: dict[str, str]) -> None:
    """A name for each row, with what its figure is, and lines between the questions."""
    axis.set(ylim=(len(names) - 0.45, -0.55), yticks=[])
    before = None
    for y, (name, metric) in enumerate(names.items()):
        question = INTERVENTIONS[name].question
        if question != before:
            if before is not None:
                axis.axhline(y - 0.5, color="#c8c8c8", linewidth=0.5, xmin=AT_LEFT, clip_on=False)
            axis.text(
                AT_LEFT, y - 0.12, QUESTIONS[question].replace(" they ", " they\n"), fontsize=SMALL, color=INK,
                transform=axis.get_yaxis_transform(), va="center", fontweight="bold",
            )  # fmt: skip
        words = IN_WORDS[metric].split(",")[0].removesuffix(" of the next token")  # the axis tells the rest
        for text, at, size, colour in ((name, y - 0.14, LABEL, INK), (words, y + 0.2, SMALL, "#666666")):
            axis.text(
                -0.02, at, text, fontsize=size, color=colour, transform=axis.get_yaxis_transform(), ha="right",
                va="center",
            )  # fmt: skip
        before = question
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=2)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.5)
    axis.set_axisbelow(True)


def _legend(axis: Axes, seen: set[str]) -> None:
    marks = [("D", BOX_COLOUR, "chosen"), ("|", INK, "untouched model")]
    marks += [(marker, colour, label) for kind, (label, marker, colour, _, _) in MARKS.items() if kind in seen]
    handles = {
        label: Line2D([], [], marker=marker, color=colour, linestyle="", markersize=6 if marker == "|" else 4)
        for marker, colour, label in marks
    }
    axis.legend(
        list(handles.values()), list(handles), loc="lower left", bbox_to_anchor=(AT_LEFT, 1.0), ncols=4, fontsize=SMALL,
        frameon=False, handletextpad=0.2, columnspacing=1, borderpad=0, handlelength=1.2,
    )  # fmt: skip


def _curves(axis: Axes, found: Ablation, names: dict[str, str], numbers: Sequence[int], unit: str) -> None:
    """The headline against the number of heads, for the first interventions of each question."""
    scale, ends = _scale(unit), list[tuple[float, str, str]]()
    for colour, (name, metric) in zip(CURVES, _told(names).items(), strict=False):
        rows = found.of(name, metric)
        there = [k for k in numbers if f"best {k}" in rows]
        values = [scale * rows[f"best {k}"].value for k in there]
        axis.plot(there, values, color=colour, marker="o", markersize=3, linewidth=1.1, clip_on=False)
        ends.append((values[-1], name, colour))
    for y, (_, name, colour) in zip(_apart([end[0] for end in sorted(ends)], axis, unit), sorted(ends), strict=True):
        axis.annotate(
            name, (1, y), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", color=colour,
            fontsize=SMALL, va="center", annotation_clip=False,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.minorticks_off()
    axis.set_xlabel("heads, selected most often", fontsize=LABEL, color=INK, labelpad=2)
    title = "nats, by number of heads" if unit == "nats" else "the same by number of heads, %"
    axis.set_title(title, fontsize=LABEL, color=INK, loc="left", pad=8)
    below = -NOTE / inches(axis)[1]
    axis.text(
        0, below, _left_out(names), fontsize=SMALL, color="#666666", va="top", transform=axis.transAxes
    )  # fmt: skip
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=2)


def _told(names: dict[str, str]) -> dict[str, str]:
    """At most so many as there are colours; those that ask for the least first, by question."""
    firsts = ("redirect", "swap", "keep_uniform", "zero", "background", "block")
    chosen = [name for name in (*firsts, *names) if name in names]
    return {name: names[name] for name in list(dict.fromkeys(chosen))[: len(CURVES) - 1]}


def _left_out(names: dict[str, str]) -> str:
    """Which of the rows have no curve, in lines; nothing if all have one."""
    rest = [name for name in names if name not in _told(names)]
    return fill(f"not drawn: {', '.join(rest)}", 36) if rest else ""


def _apart(values: Sequence[float], axis: Axes, unit: str) -> list[float]:
    """Ascending places for labels, none of which covers another."""
    if unit == "%":
        axis.set_ylim(0, 100)
    else:
        axis.set_ylim(bottom=0)
    low, high = axis.get_ylim()
    line = 1.25 * SMALL / 72 / inches(axis)[1]  # of the height of the axes
    step, places = line * (high - low), list[float]()
    for value in values:
        places.append(max(value, places[-1] + step) if places else value)
    above = high + step
    for number in reversed(range(len(places))):
        above = places[number] = min(places[number], above - step)
    return places
