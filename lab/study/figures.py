"""The study's figures: what each setting does to the boxes, and how good each head is that is selected often."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import viz
from lab.figures.colours import BOX_COLOUR, INK
from lab.figures.selection import head_quality_figure
from lab.figures.style import canvas, place
from lab.study.plan import REGIONS, Row, Table
from lab.study.report import Study

GREY, ORANGE = "#b5b5b5", "#e69f00"  # beside blue, apart for colour-blind readers and in grey print
METRIC = "Acc@0.5"
TITLES = ("Which heads", "Which criteria", "How many heads", "Smoothing", "Mask and box", "How many samples find them")
WIDTH, HEIGHT, LEFT, GAP = 3.45, 2.5, 0.75, 1.0  # of a panel, and around it, inches


def draw(study: Study, folder: Path) -> list[Path]:
    """Writes the figures and returns where."""
    mean_iou = study.found.mean_iou
    frequency = study.found.counts("both", study.settings.logic) / len(study.found.finding)
    figures = {
        "study_settings": settings_figure(study),
        "study_heads": head_quality_figure(mean_iou, frequency, study.rhos[0].value),
    }
    written = []
    for name, figure in figures.items():
        written.append(folder / f"{name}.png")
        viz.save_figure(figure, written[-1], dpi=110)
    return written


def settings_figure(study: Study) -> Figure:
    """Acc@0.5 of every setting with its interval.

    Heads, criteria, number of heads, smoothing, mask and box, samples to find heads with.
    """
    figure = canvas(3 * (WIDTH + LEFT) + 0.3, 2 * (HEIGHT + GAP) + 0.3)
    tables = study.plan.tables
    panels = [_panel(figure, i, title) for i, title in enumerate(TITLES)]
    _bars(panels[0], study, {"": tables["heads"].rows}, _head_names(tables["heads"]))
    criteria = {
        kind: [row for row in tables["criteria"].rows if row.labels[0] == kind] for kind in ("fixed", "per sample")
    }
    _bars(panels[1], study, criteria, [row.labels[1].replace(" only", "\nonly") for row in criteria["fixed"]])
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
    return figure


def _panel(figure: Figure, index: int, title: str) -> Axes:
    row, column = divmod(index, 3)
    axis = place(figure, LEFT + column * (WIDTH + LEFT), 0.45 + row * (HEIGHT + GAP), WIDTH, HEIGHT)
    axis.set_title(title, fontsize=13, color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=10, colors=INK)
    axis.set_ylim(0, 100)
    if column == 0:
        axis.set_ylabel("Acc@0.5, %", fontsize=11, color=INK)
    return axis


def _head_names(table: Table) -> list[str]:
    short = {"found here": "found", "of logic.heads": "logic.heads", "picked anew for each sample": "per\nsample"}
    names = [row.labels[0].split(":")[0] for row in table.rows]
    return [
        short.get(name, name.replace("random heads of the same layers", "random").replace("oracle, ", "oracle,\n"))
        for name in names
    ]


def _values(study: Study, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Values in %, and how far the interval reaches below and above, [2, rows]."""
    estimates = 100 * np.array([study.estimate(row, METRIC) for row in rows])
    return estimates[:, 0], np.abs(estimates[:, 1:] - estimates[:, :1]).T


def _bars(axis: Axes, study: Study, groups: dict[str, list[Row]], names: Sequence[str]) -> None:
    """One group of bars for each name, the groups' colours told in a legend."""
    width = 0.8 / len(groups)
    for i, ((label, rows), colour) in enumerate(zip(groups.items(), (BOX_COLOUR, ORANGE, GREY), strict=False)):
        values, reach = _values(study, rows)
        places = np.arange(len(rows)) + (i - (len(groups) - 1) / 2) * width
        axis.bar(
            places,
            values,
            width * 0.92,
            yerr=reach,
            color=colour,
            ecolor=INK,
            capsize=2,
            error_kw={"elinewidth": 1},
            label=label,
        )
    axis.set_xticks(range(len(names)), names)
    if len(groups) > 1:
        axis.legend(
            fontsize=9.5, frameon=False, ncols=len(groups), loc="lower right", bbox_to_anchor=(1.04, 0.975),
            handlelength=0.9, handletextpad=0.4, columnspacing=0.9,
        )  # fmt: skip


def _line(axis: Axes, study: Study, table: Table, label: str, *, log: bool = False) -> None:
    values, reach = _values(study, table.rows)
    x = [float(row.labels[0].split()[0]) for row in table.rows]
    axis.errorbar(x, values, yerr=reach, color=BOX_COLOUR, marker="o", markersize=5, capsize=2.5, elinewidth=1.2)
    if log:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.set_xlabel(label, fontsize=11, color=INK)
