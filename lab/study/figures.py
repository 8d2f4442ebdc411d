"""The study's figures: what each setting does to the boxes, and how good each head is that is selected often."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import viz
from analyze import Head
from lab.base.colours import GREEN, ORANGE, PURPLE
from lab.figures.colours import BOX_COLOUR, INK
from lab.figures.selection import head_quality_figure
from lab.figures.style import LABEL, PAGE, SMALL, TITLE, canvas, place
from lab.study.plan import REGIONS, Row, Table
from lab.study.report import Study

GROUPS = (BOX_COLOUR, ORANGE, "#b5b5b5", GREEN)  # the first three are apart in grey print, too
# Where several settings lie, unlike an interval.
RANGE: dict[str, Any] = {"color": PURPLE, "linewidth": 2.2}
METRIC = "Acc@0.5"
PAD = 2  # points between an axis and its ticks' names
TITLES = ("Which heads", "Which criteria", "How many heads", "Smoothing", "Mask and box", "How many samples find them")
COLUMNS, HEIGHT, LEFT, GAP, TOP, FOOT = 2, 1.5, 0.5, 0.78, 0.5, 0.68  # of panels; the rest in inches, around them
WIDTH = PAGE / COLUMNS - LEFT - 0.1


def draw(study: Study, folder: Path) -> list[Path]:
    """Writes the figures and returns where."""
    mean_iou = study.found.mean_iou
    frequency = study.found.counts("both", study.settings.logic) / len(study.found.finding)
    figures = {
        "study_settings": settings_figure(study),
        "study_heads": head_quality_figure(mean_iou, frequency, study.rhos[0].value, _found_heads(study)),
    }
    written = []
    for name, figure in figures.items():
        written.append(folder / f"{name}.png")
        viz.save_figure(figure, written[-1], dpi=200)
    return written


def _found_heads(study: Study) -> Sequence[Head]:
    """The heads that the study found, which all its tables are about."""
    return study.plan.tables["heads"].rows[0].cases[0].heads or ()


def settings_figure(study: Study) -> Figure:
    """Acc@0.5 of every setting with its interval or, of several settings, their mean and how far they spread.

    Heads, criteria, number of heads, smoothing, mask and box, samples to find heads with.
    """
    rows = -(-len(TITLES) // COLUMNS)
    figure = canvas(PAGE, TOP + rows * HEIGHT + (rows - 1) * GAP + FOOT)
    tables = study.plan.tables
    panels = [_panel(figure, i, title) for i, title in enumerate(TITLES)]
    _bars(panels[0], study, {"": tables["heads"].rows}, _head_names(tables["heads"]))
    criteria = {row.labels: row for row in tables["criteria"].rows}
    names = [name for kind, name in criteria if kind == "fixed"]
    kinds = {kind: [criteria.get((kind, name)) for name in names] for kind in ("fixed", "per sample")}
    _bars(panels[1], study, kinds, names)
    stagger(panels[1])
    _line(panels[2], study, tables["number"], "heads")
    _line(panels[3], study, tables["sigma"], "sigma, cells")
    masks = {str(region): [row for row in tables["mask"].rows if row.labels[1] == region] for region in REGIONS}
    _bars(
        panels[4],
        study,
        {k.replace("_", " "): v for k, v in masks.items()},
        [row.labels[0].replace("_relu", "") for row in masks["all"]],
    )
    _line(panels[5], study, tables["discovery"], "samples that find the heads", log=True)
    figure.legend(
        handles=[_interval_key(), _spread_key()], loc="lower center", ncols=2, frameon=False, fontsize=SMALL,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def stagger(axis: Axes) -> None:
    """Puts every second name a line lower, so that many stand side by side."""
    for tick in axis.xaxis.get_major_ticks()[1::2]:
        tick.set_pad(PAD + 1.3 * SMALL)


def _interval_key() -> Line2D:
    return Line2D([], [], color=INK, marker="|", markersize=5, linewidth=0.9, label="95 % bootstrap interval")


def _spread_key() -> Line2D:
    return Line2D([], [], label="range of 95 % of several draws", **RANGE)


def _panel(figure: Figure, index: int, title: str) -> Axes:
    row, column = divmod(index, COLUMNS)
    axis = place(figure, LEFT + column * (WIDTH + LEFT + 0.1), TOP + row * (HEIGHT + GAP), WIDTH, HEIGHT)
    axis.set_title(title, fontsize=TITLE, color=INK, loc="left", pad=14)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL, colors=INK, length=2.5, pad=PAD)
    axis.set_ylim(0, 100)
    axis.set_ylabel("Acc@0.5, %", fontsize=LABEL, color=INK, labelpad=2)
    return axis


def _head_names(table: Table) -> list[str]:
    short = {"found here": "found", "of logic.heads": "logic.\nheads", "picked anew for each sample": "per\nsample"}
    names = [row.labels[0].split(":")[0] for row in table.rows]
    return [
        short.get(name, name.replace("random heads of the same layers", "random").replace("oracle, ", "oracle,\n"))
        for name in names
    ]


def _values(study: Study, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Values in %, and how far the interval reaches below and above, [2, rows]."""
    estimates = 100 * np.array([study.estimate(row, METRIC) for row in rows])
    return estimates[:, 0], np.abs(estimates[:, 1:] - estimates[:, :1]).T


def _bars(axis: Axes, study: Study, groups: Mapping[str, Sequence[Row | None]], names: Sequence[str]) -> None:
    """One group of bars for each name, without those that are None; the groups' colours are told in a legend."""
    width = 0.8 / len(groups)
    for i, ((label, each), colour) in enumerate(zip(groups.items(), GROUPS[: len(groups)], strict=True)):
        rows = [row for row in each if row is not None]
        places = np.flatnonzero([row is not None for row in each]) + (i - (len(groups) - 1) / 2) * width
        axis.bar(places, _values(study, rows)[0], width * 0.92, color=colour, label=label)
        _draw_uncertainty(axis, study, rows, places)
    axis.set_xticks(range(len(names)), names)
    if len(groups) > 1:
        axis.legend(
            fontsize=SMALL, frameon=False, ncols=len(groups), loc="lower left", bbox_to_anchor=(0, 1),
            handlelength=0.9, handletextpad=0.4, columnspacing=0.9, borderpad=0, borderaxespad=0.2,
        )  # fmt: skip


def _draw_uncertainty(axis: Axes, study: Study, rows: Sequence[Row], places: Sequence[float] | np.ndarray) -> None:
    """A thin line with ends for an interval, a coloured one for the range of several settings."""
    values, reach = _values(study, rows)
    for x, value, (below, above), row in zip(places, values, reach.T, rows, strict=True):
        if len(row.cases) > 1:
            ends = [value - below, value + above]
            axis.plot([x, x], ends, solid_capstyle="butt", zorder=1.5, clip_on=False, **RANGE)
        else:
            axis.errorbar(
                x, value, [[below], [above]], color=INK, capsize=2, linestyle="", elinewidth=0.9, zorder=4,
                clip_on=False,
            )  # fmt: skip


def _line(axis: Axes, study: Study, table: Table, label: str, *, log: bool = False) -> None:
    x = [float(row.labels[0].split()[0]) for row in table.rows]
    values = _values(study, table.rows)[0]
    axis.plot(x, values, color=BOX_COLOUR, marker="o", markersize=3.5, linewidth=1.1, clip_on=False)  # 100 % is shown
    _draw_uncertainty(axis, study, table.rows, x)
    if log:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.set_xlabel(label, fontsize=LABEL, color=INK, labelpad=2)
