"""Where to cut the heat map: rules compared on scenes like those of the training, and on scenes unlike them.

    python -m lab.picturebook.cuts seed=46 n=600 beyond=100

Draws `n` scenes of the training's kind and `beyond` of each kind of SETS that it did not have, asks the shipped model
once about each, and makes masks and boxes of its preset's heads by every rule of RULES. No rule sees the truth, but for
the last rows: they take, sample by sample, the level of the same heat map that is best by the truth, for the box and
for the mask apart, so that they tell how much of what is missed is missed by the cut. A second table has the
differences from the first rule, each picture drawn for both, and how much of the way from it to its level by truth a
rule goes in Acc@0.5. Intervals are of 95 %. To add a rule or a kind of scene, add its line.
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bbox import boxes_on_image, cut_cells, head_maps, heat_map, regions, sharpen
from conf.schema import LogicConfig, configuration
from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, markdown, progress
from lab.base.errors import UserError
from lab.datasets import Truth
from lab.heads.choice import head_choice
from lab.measure.intervals import bootstrap, paired_bootstrap, ratios
from lab.measure.metrics import box_iou
from lab.measure.sets import Asked, HeadSet, Sight
from lab.picturebook.make import Drawn, samples
from lab.picturebook.world import SceneConfig
from lab.records.pixels import Pixels
from lab.records.record import Record

SETS: dict[str, SceneConfig] = {
    "in range": SceneConfig(),
    "small: 2 to 3 cells": SceneConfig(cells=[2, 3]),
    "tiny: 1 to 2 cells": SceneConfig(cells=[1, 2]),
    "large: 10 to 14 cells": SceneConfig(cells=[10, 14]),
    "many: 8 to 14 things": SceneConfig(things=[8, 14]),
    "cluttered": SceneConfig(clutter=60),
    "blurred": SceneConfig(blur=0.4),
}
RULES: dict[str, list[str]] = {  # the first is what the others are compared with
    "cells": ["logic=cells"],
    "mean": ["logic=cells", "logic.mask.method=mean_relu"],
    "quantile 0.9": ["logic=cells", "logic.mask.method=quantile"],
    "half of the peak": ["logic=cells", "logic.mask.method=peak"],
    "0.6 of the mass": ["logic=cells", "logic.mask.method=mass"],
    "most stable level": ["logic=cells", "logic.mask.method=stable"],
    "heaviest region": ["logic=cells", "logic.box.region=heaviest"],
    "cut finer": ["logic=cells", "logic.mask.cuts=4"],
    "evened": ["logic=cells", "logic.smoothing.power=0.4"],
    "best": ["logic=best"],
    "best, not evened": ["logic=best", "logic.smoothing.power=1"],
    "best, not sharpened": ["logic=best", "logic.mask.power=1"],
    "best, largest region": ["logic=best", "logic.box.region=largest"],
    "best, cut finer": ["logic=best", "logic.mask.cuts=8"],
    "best, smoothed less": ["logic=best", "logic.smoothing.sigma=0.6"],
    "best, half of the peak": ["logic=best", "logic.mask.method=peak"],
}
BY_TRUTH = ("cells", "best")  # whose heat maps are also cut by the truth
LEVELS = 64  # that are tried then
THRESHOLDS = (0.5, 0.75)
METRICS = ("Acc@0.5", "Acc@0.75", "mIoU", "pointing")


@dataclass
class CutsConfig:
    """What is measured on what."""

    seed: int = 46
    n: int = 600  # scenes of the training's kind
    beyond: int = 100  # scenes of each other kind

    def __post_init__(self) -> None:
        if min(self.n, self.beyond) < 0 or not (self.n or self.beyond):
            raise UserError(f"n={self.n} beyond={self.beyond}: no scenes; expected 0 or more of each, and some of one")


Scores = Float[np.ndarray, "4 rules scenes"]  # as lab.measure.intervals.columns has them


def measure(config: CutsConfig) -> dict[str, Scores]:
    """Every rule on every scene of each set."""
    from collector import collect
    from lab.stages.common import load_model

    base = configuration([])
    loaded, heads = load_model(base), tuple(head_choice(base.logic, base.model).named or ())
    logics = {name: configuration(overrides).logic for name, overrides in RULES.items()}

    def of_set(name: str, n: int) -> Iterator[Float[np.ndarray, "4 rules"]]:
        for drawn in progress(samples(n, config.seed, like=SETS[name]), name, total=n):
            record = collect(loaded, drawn.image, drawn.expression.text, base.model)
            yield scores(record, heads, logics, _truth(drawn))

    sizes = {name: config.beyond if i else config.n for i, name in enumerate(SETS)}
    return {name: np.stack(list(of_set(name, n)), axis=-1) for name, n in sizes.items() if n}


def _truth(drawn: Drawn) -> Truth:
    x0, y0, x1, y1 = map(float, drawn.box_xyxy)
    return Truth(drawn.id, (x0, y0, x1, y1), drawn.mask, None, float(drawn.mask.sum()), None)


def scores(
    record: Record, heads: HeadSet, logics: dict[str, LogicConfig], truth: Truth
) -> Float[np.ndarray, "4 rules"]:
    """One scene by every rule, and at the level that is best by the truth."""
    asked = [Asked([heads], logic) for logic in logics.values()]
    seen = record.under(next(iter(logics.values())))
    by_rule = np.concatenate(Sight(seen).scores_of(asked, truth), axis=1)
    ceilings = [by_truth(seen, heads, logics[name], truth) for name in BY_TRUTH]
    pointed = by_rule[3, [list(logics).index(name) for name in BY_TRUTH]]
    return np.concatenate([by_rule, np.vstack([np.array(ceilings).T, pointed])], axis=1)


def by_truth(record: Record, heads: HeadSet, logic: LogicConfig, truth: Truth) -> tuple[float, float, float]:
    """The IoU of the best box, and intersection and union of the best mask, that a level of the heat map gives."""
    assert record.image_size is not None
    assert truth.mask is not None
    heat = cut_cells(heat_map(head_maps(record, heads, logic.contrast), heads, logic)[None], logic.mask.cuts)
    levels = np.unique(np.quantile(heat, 1 - np.geomspace(1 / heat.size, 1, LEVELS)))
    masks = regions(heat > levels[:, None, None], logic.box, np.repeat(sharpen(heat, logic.mask), len(levels), 0))
    fine = record.grid.cut(logic.mask.cuts)
    boxes, found = boxes_on_image(masks, fine, record.image_size)
    overlap = box_iou(boxes + np.array([0, 0, 1, 1]), np.array(truth.box_xyxy)) * found
    both, either = Pixels.of(fine, record.image_size).overlaps(masks, truth.mask, None)
    best = (both / np.maximum(either, 1)).argmax()
    return float(overlap.max()), float(both[best]), float(either[best])


def report(found: dict[str, Scores]) -> str:
    """Both tables as Markdown."""
    names = [*RULES, *(f"{name}, level by truth" for name in BY_TRUTH)]
    rows, gains = [], []
    for kind, columns in found.items():
        figures = {name: np.array(part) for name, part in ratios(*columns, thresholds=THRESHOLDS).items()}
        label = f"{kind}, {columns.shape[-1]}"
        for i, rule in enumerate(names):
            rows.append((label, rule, *(_value(figures[name][:, i]) for name in METRICS)))
            if i:
                gains.append((label, rule, *(_gain(figures[name], i) for name in METRICS), _way(figures["Acc@0.5"], i)))
    shown, against = (f"{name}, %" for name in METRICS), (f"{name}, points" for name in METRICS)
    first = markdown(("scenes", "rule", *shown), rows)
    second = markdown(("scenes", "rule", *against, "of the way, %"), gains)
    return f"{first}\n\nDifferences from `{names[0]}`:\n\n{second}"


def _value(parts: Float[np.ndarray, "2 scenes"]) -> str:
    value, low, high = (100 * end[0] for end in bootstrap(*parts[:, None]))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _gain(parts: Float[np.ndarray, "2 rules scenes"], rule: int) -> str:
    """The difference of a rule from the first one."""
    (first, second), low, high = paired_bootstrap(parts[None, :, 0], parts[None, :, rule])
    return f"{100 * (second - first)[0]:+.1f} ({100 * low[0]:+.1f} to {100 * high[0]:+.1f})"


def _way(parts: Float[np.ndarray, "2 rules scenes"], rule: int) -> str:
    """How much of the way from the first rule to the level that is best by the truth a rule goes."""
    further = parts[0] - parts[0, 0]
    if further[len(RULES)].sum() <= 0:
        return ""
    value, low, high = (100 * end[0] for end in bootstrap(further[rule][None], further[len(RULES)][None]))
    return f"{value:.0f} ({low:.0f} to {high:.0f})"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options = typed_options(CutsConfig, sys.argv[1:])
        print(report(measure(options)))
