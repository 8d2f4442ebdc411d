"""Which rules turn the heads of the shipped model into the best boxes.

Every combination, on scenes that are used for nothing else.

    python -m lab.picturebook.make out=runs/choose n=1000 seed=30
    python pipeline.py stage=batch data.data_file=runs/choose/picturebook.jsonl data.process_all=true \\
        data.save_generic=true data.output_dir=runs/choose
    python -m lab.picturebook.search data_file=runs/choose/picturebook.jsonl \\
        records=runs/choose/examples-models-picturebook

The heads are found without labels, by the shipped model's rules; labels choose between the rules that make the box.
Prints the best combinations and, for each setting, the best that can be had with it. What wins is conf/logic/best.yaml;
how good it is, other scenes tell (seed 31, in the model card).
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
from bbox import binarise, box_on_image, head_maps, region, smooth
from conf.schema import BoxConfig, MaskConfig, SmoothingConfig, configuration
from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, markdown, progress
from lab.base.workers import in_workers
from lab.datasets import Sample, need_truth, read_jsonl, read_truth
from lab.heads.choice import head_choice
from lab.measure.intervals import bootstrap, numbered
from lab.measure.metrics import box_iou, exclusive
from lab.records.files import load_record
from lab.stages.study import settings_of
from lab.study.find import find_heads, split
from lab.study.plan import CONTRASTS, REGIONS

CHOICES: dict[str, tuple[Any, ...]] = {
    "heads": (1, 2, 3, 4, 5),
    "threshold": (("mean_relu", 0.9), ("otsu", 0.9), ("quantile", 0.8), ("quantile", 0.9), ("quantile", 0.95)),
    "region": REGIONS,
    "sigma": (0.0, 0.4, 0.8, 1.0, 1.4, 1.8),
    "contrast": CONTRASTS,
}


@dataclass
class SearchConfig:
    """What is searched on what."""

    data_file: str = "runs/choose/picturebook.jsonl"
    records: str = "runs/choose/examples-models-picturebook"
    best: int = 12  # combinations that are printed


def search(config: SearchConfig) -> tuple[list[tuple[Any, ...]], Float[np.ndarray, "combinations 3"]]:
    """Every combination of CHOICES, and its Acc@0.5 with the 95 % interval."""
    base = configuration([f"data.data_file={config.data_file}"])
    settings = settings_of(base, head_choice(base.logic, base.model))
    samples = read_jsonl(Path(config.data_file))
    need_truth(samples, config.data_file)
    parts = split(samples, Path(config.records), settings)
    logic = settings.logic
    heads = find_heads(parts, settings).fixed("both", max(CHOICES["heads"]), logic)
    seen = [(sample, parts.files[sample.id]) for sample in parts.scored if sample.id in parts.files]
    pictures = numbered([str(sample.image_file) for sample, _ in seen])
    scored = in_workers(partial(ious, heads=heads, smoothing=logic.smoothing), seen)
    hits = np.array(
        [row >= 0.5 for _, row in progress(scored, "search", total=len(seen))], float
    ).T  # [combinations, samples]
    return list(product(*CHOICES.values())), np.stack(bootstrap(hits, np.ones_like(hits), pictures), axis=1)


def ious(
    item: tuple[Sample, Path], heads: Sequence[Head], smoothing: SmoothingConfig
) -> Float[np.ndarray, " combinations"]:
    """IoU of one scene's true box with the box of every combination of CHOICES, in their order."""
    record = load_record(item[1])
    size = record.image_size or (1, 1)
    found: dict[tuple[Any, ...], tuple[float, ...]] = {}
    for contrast, sigma in product(CHOICES["contrast"], CHOICES["sigma"]):
        maps = smooth(head_maps(record, heads, contrast), replace(smoothing, sigma=sigma))
        for k, threshold in product(CHOICES["heads"], CHOICES["threshold"]):
            mask = binarise(maps[:k].sum(0), MaskConfig(threshold[0], threshold[1]))
            for kind in CHOICES["region"]:
                box = box_on_image(region(mask, BoxConfig(kind)), record.grid, size)
                found[k, threshold, kind, sigma, contrast] = (0.0, 0.0, 0.0, 0.0) if box is None else exclusive(box)
    boxes = np.array([found[combination] for combination in product(*CHOICES.values())])
    return box_iou(boxes, np.array(read_truth(item[0], size).box_xyxy))


def report(combinations: list[tuple[Any, ...]], estimates: Float[np.ndarray, "combinations 3"], best: int) -> str:
    """The best combinations, and the best with each value of each setting."""
    order = np.argsort(-estimates[:, 0], kind="stable")
    header = (*CHOICES, "Acc@0.5, %")
    parts = [markdown(header, [(*_names(combinations[i]), _cell(estimates[i])) for i in order[:best]])]
    for column, (name, values) in enumerate(CHOICES.items()):
        firsts = [next(i for i in order if combinations[i][column] == value) for value in values]
        parts.append(
            markdown(
                (f"best with {name}", "Acc@0.5, %"),
                [(_names(combinations[i])[column], _cell(estimates[i])) for i in firsts],
            )
        )
    return "\n\n".join(parts)


def _names(chosen: tuple[Any, ...]) -> tuple[str, ...]:
    heads, (method, quantile), region, sigma, contrast = chosen
    return str(heads), f"{method} {quantile}" if method == "quantile" else method, region, f"{sigma:g}", contrast


def _cell(estimate: Float[np.ndarray, " 3"]) -> str:
    value, low, high = 100 * estimate
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options = typed_options(SearchConfig, sys.argv[1:])
        print(report(*search(options), options.best))
