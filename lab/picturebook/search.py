"""Which rules turn the heads of the shipped model into the best boxes.

Every combination, on scenes that are used for nothing else.

    python -m lab.picturebook.make out=runs/choose n=1000 seed=30
    python pipeline.py stage=batch data.data_file=runs/choose/picturebook.jsonl data.process_all=true \\
        data.save_generic=true data.output_dir=runs/choose
    python -m lab.picturebook.search data_file=runs/choose/picturebook.jsonl \\
        records=runs/choose/examples-models-picturebook
    python -m lab.picturebook.search choices=edges data_file=runs/choose/picturebook.jsonl \\
        records=runs/choose/examples-models-picturebook

The heads are found without labels, by the shipped model's rules; labels choose between the rules that make the box.
Prints the best combinations and, for each setting, the best that can be had with it. What wins is, but for the number
of heads, conf/logic/cells.yaml and, of those that cut between the cells (`choices=edges`), conf/logic/best.yaml; how
good it is, other scenes tell (seed 31, in the model card).
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from analyze import Head
from bbox import binarise, box_on_image, cut_cells, head_maps, region, sharpen, smooth
from conf.schema import BoxConfig, LogicConfig, MaskConfig, configuration
from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, markdown, progress
from lab.base.errors import UserError
from lab.base.workers import in_workers
from lab.datasets import Sample, need_truth, read_jsonl, read_truth
from lab.heads.choice import head_choice
from lab.measure.intervals import bootstrap, numbered
from lab.measure.metrics import box_iou, exclusive
from lab.records.files import load_record
from lab.stages.study import settings_of
from lab.study.find import find_heads, split
from lab.study.plan import CONTRASTS

Choices = dict[str, tuple[Any, ...]]
CHOICES: dict[str, Choices] = {
    "cells": {
        "heads": (1, 2, 3, 4, 5),
        "threshold": (("mean_relu", 0.9), ("otsu", 0.9), ("quantile", 0.8), ("quantile", 0.9), ("quantile", 0.95)),
        "region": ("all", "largest", "largest_hull"),
        "sigma": (0.0, 0.4, 0.8, 1.0, 1.4, 1.8),
        "contrast": CONTRASTS,
        "evened": (1.0,),
        "cuts": (1,),
        "sharpened": (1.0,),
    },
    "edges": {
        "heads": (3,),
        "threshold": (("otsu", 0.9),),
        "region": ("largest", "heaviest"),
        "sigma": (0.6, 0.8, 1.0),
        "contrast": ("none",),
        "evened": (1.0, 0.6, 0.5, 0.4, 0.3),  # logic.smoothing.power
        "cuts": (4,),
        "sharpened": (1.0, 1.25, 1.5, 1.75, 2.0),  # logic.mask.power
    },
}
LEVELS = (0.5, 0.75)  # of IoU that count as right


@dataclass
class SearchConfig:
    """What is searched on what."""

    data_file: str = "runs/choose/picturebook.jsonl"
    records: str = "runs/choose/examples-models-picturebook"
    best: int = 12  # combinations that are printed
    choices: str = "cells"  # or edges

    def __post_init__(self) -> None:
        if self.best < 1:
            raise UserError(f"best={self.best}: expected 1 or more combinations to print")


def search(config: SearchConfig) -> tuple[list[tuple[Any, ...]], Float[np.ndarray, "levels combinations 3"]]:
    """Every combination of the choices, and its Acc at each of LEVELS with the 95 % interval."""
    choices = choices_of(config.choices)
    base = configuration([f"data.data_file={config.data_file}"])
    settings = settings_of(base, head_choice(base.logic, base.model))
    samples = read_jsonl(Path(config.data_file))
    need_truth(samples, config.data_file)
    parts = split(samples, Path(config.records), settings)
    logic = settings.logic
    heads = find_heads(parts, settings).fixed("both", max(choices["heads"]), logic)
    seen = [(sample, parts.files[sample.id]) for sample in parts.scored if sample.id in parts.files]
    pictures = numbered([str(sample.image_file) for sample, _ in seen])
    scored = in_workers(partial(ious, heads=heads, logic=logic, choices=choices), seen)
    overlaps = np.array([row for _, row in progress(scored, "search", total=len(seen))]).T  # [combinations, samples]
    right = [(overlaps >= level).astype(float) for level in LEVELS]
    estimates = [np.stack(bootstrap(hits, np.ones_like(hits), pictures), axis=1) for hits in right]
    return list(product(*choices.values())), np.stack(estimates)


def choices_of(name: str) -> Choices:
    """Raises UserError for a name that is not one of CHOICES."""
    if name not in CHOICES:
        raise UserError(f"choices={name}: choose from {', '.join(CHOICES)}")
    return CHOICES[name]


def ious(
    item: tuple[Sample, Path], heads: Sequence[Head], logic: LogicConfig, choices: Choices
) -> Float[np.ndarray, " combinations"]:
    """IoU of one scene's true box with the box of every combination of `choices`, in their order."""
    record = load_record(item[1], logic)
    size = record.image_size or (1, 1)
    found: dict[tuple[Any, ...], tuple[float, ...]] = {}
    for contrast, sigma, evened in product(choices["contrast"], choices["sigma"], choices["evened"]):
        maps = smooth(head_maps(record, heads, contrast), replace(logic.smoothing, sigma=sigma, power=evened))
        for k, cuts in product(choices["heads"], choices["cuts"]):
            fine, grid = cut_cells(maps[:k].sum(0)[None], cuts)[0], record.grid.cut(cuts)
            for threshold, power in product(choices["threshold"], choices["sharpened"]):
                config = MaskConfig(threshold[0], threshold[1], power=power)
                heat = sharpen(fine, config)
                mask = binarise(heat, config)
                for kind in choices["region"]:
                    box = box_on_image(region(mask, BoxConfig(kind), heat), grid, size)
                    combination = k, threshold, kind, sigma, contrast, evened, cuts, power
                    found[combination] = (0.0, 0.0, 0.0, 0.0) if box is None else exclusive(box)
    boxes = np.array([found[combination] for combination in product(*choices.values())])
    return box_iou(boxes, np.array(read_truth(item[0], size).box_xyxy))


def report(
    choices: Choices,
    combinations: list[tuple[Any, ...]],
    estimates: Float[np.ndarray, "levels combinations 3"],
    best: int,
) -> str:
    """The best combinations by Acc@0.5, and the best with each value of each setting that was varied."""
    order = np.argsort(-estimates[0, :, 0], kind="stable")
    varied = [column for column, values in enumerate(choices.values()) if len(values) > 1]
    named = list(choices)
    figures = [f"Acc@{level}, %" for level in LEVELS]

    def row(i: int, columns: Sequence[int]) -> tuple[str, ...]:
        return *(_name(combinations[i][column]) for column in columns), *(_cell(one[i]) for one in estimates)

    parts = [markdown((*(named[column] for column in varied), *figures), [row(i, varied) for i in order[:best]])]
    for column in varied:
        firsts = [
            next(i for i in order if combinations[i][column] == value) for value in list(choices.values())[column]
        ]
        parts.append(markdown((f"best with {named[column]}", *figures), [row(i, [column]) for i in firsts]))
    return "\n\n".join(parts)


def _name(value: Any) -> str:
    if isinstance(value, tuple):
        method, quantile = value
        return f"{method} {quantile}" if method == "quantile" else method
    return value if isinstance(value, str) else f"{value:g}"


def _cell(estimate: Float[np.ndarray, " 3"]) -> str:
    value, low, high = 100 * estimate
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options = typed_options(SearchConfig, sys.argv[1:])
        print(report(choices_of(options.choices), *search(options), options.best))
