"""How well the picture-book model answers and looks, on scenes it has never seen.

    python -m lab.picturebook.evaluate n=500 seed=7

Heads are found by selection alone on `find_n` scenes of seed `find_seed`; truth is used only to score them on the `n`
scenes of `seed`. Prints the tables of the model card and writes every figure to `out`. A head points right if its
highest cell's centre lies in the true box; Acc@0.5 is the share of boxes with an IoU of 0.5 or more.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from analyze import most_selected, rank_heads, selection_frequency
from conf.schema import LogicConfig, configuration
from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, markdown, progress
from lab.datasets import Truth
from lab.measure.controls import sets_of_same_layers
from lab.measure.metrics import box_iou, exclusive
from lab.measure.predictions import highest_point
from lab.measure.sets import HeadSet, Sight
from lab.picturebook.make import Drawn, samples
from lab.records.record import Record

VARIANTS = {
    "preset of the model": [],
    "preset, but of whole cells": ["logic=cells"],
    "preset, but every region": ["logic.box.region=all"],
    "preset, but cut at the mean": ["logic.mask.method=mean_relu"],
    "selection_v1, unchanged": ["logic=selection_v1"],
    "paper, unchanged": ["logic=paper"],
}


@dataclass
class EvaluateConfig:
    """What is measured on what."""

    n: int = 500  # scenes that are scored
    seed: int = 7
    find_n: int = 500  # scenes on which the heads are found
    find_seed: int = 8
    top_n: int = 10  # heads that each scene votes for
    top_k: int = 3  # heads that are fixed
    draws: int = 20  # random sets of heads of the same layers
    answers: bool = True  # also let the model answer
    out: str = "runs/picturebook_evaluation.json"


@dataclass
class Scored:
    """One scene: the record of its expression and the truth about it."""

    record: Record
    box_xyxy: tuple[int, int, int, int]  # pixels, edges exclusive
    answer: str

    def points_inside(self, heat: np.ndarray) -> bool:
        """Whether the centre of the heat map's [rows, cols] highest cell lies in the true box."""
        x, y = highest_point(heat, self.record.grid)
        return bool(self.box_xyxy[0] <= x < self.box_xyxy[2] and self.box_xyxy[1] <= y < self.box_xyxy[3])

    def box_iou(self, found_xyxy: tuple[int, int, int, int] | None) -> float:
        """IoU of the true box and an inclusive pixel box; 0 for no box."""
        if found_xyxy is None:
            return 0.0
        return float(box_iou(np.array(self.box_xyxy), np.array(exclusive(found_xyxy))))

    @property
    def truth(self) -> Truth:
        """The box alone: pointing is by the box here."""
        x0, y0, x1, y1 = map(float, self.box_xyxy)
        return Truth("", (x0, y0, x1, y1), None, None, (x1 - x0) * (y1 - y0), None)


def score_sets(
    scored: Sequence[Scored], sets: Sequence[Sequence[HeadSet]], rules: LogicConfig
) -> list[dict[str, float]]:
    """Pointing accuracy and Acc@0.5 of sets of heads, their maps together; each scene has as many sets of its own."""
    found = np.stack(
        [Sight(s.record).scores(own, rules, s.truth, masks=False) for s, own in zip(scored, sets, strict=True)]
    )  # [scenes, 4, sets]
    pointing, right = found[:, 3].mean(0), (found[:, 0] >= 0.5).mean(0)
    return [{"pointing": float(one), "acc_50": float(other)} for one, other in zip(pointing, right, strict=True)]


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Finds the heads on one set of scenes and scores them on another, by the rules of every variant."""
    from collector import collect
    from lab.stages.common import load_model

    base = configuration([f"model.use_generate={str(config.answers).lower()}"])
    loaded = load_model(base)

    def collected(n: int, seed: int, name: str) -> list[Scored]:
        drawn: Drawn
        found = []
        for drawn in progress(samples(n, seed), name, total=n):
            record = collect(loaded, drawn.image, drawn.expression.text, base.model)
            found.append(Scored(record, drawn.box_xyxy, " ".join(drawn.expression.answer)))
        return found

    finding, scored = collected(config.find_n, config.find_seed, "find"), collected(config.n, config.seed, "score")
    layers, heads = scored[0].record.num_layers, scored[0].record.num_heads
    pointing = [
        [np.mean([s.points_inside(s.record.maps[layer, head]) for s in scored]) for head in range(heads)]
        for layer in range(layers)
    ]
    return {
        "config": OmegaConf.to_container(OmegaConf.structured(config)),
        "answers": _answers(scored) if config.answers else None,
        "variants": {
            name: evaluate_variant(finding, scored, configuration(overrides).logic, config)
            for name, overrides in VARIANTS.items()
        },
        "pointing_per_head": np.round(pointing, 3).tolist(),
        "box_share": float(np.mean([_share(s) for s in scored])),
    }


def evaluate_variant(
    finding: list[Scored], scored: list[Scored], rules: LogicConfig, config: EvaluateConfig
) -> dict[str, Any]:
    """The heads that one set of rules finds, and how well they do alone, together, and against random heads of their
    layers.
    """
    shape = finding[0].record.num_layers, finding[0].record.num_heads
    counts = selection_frequency([rank_heads(s.record, rules) for s in finding], config.top_n, shape)
    heads = most_selected(counts, config.top_k)
    rng = np.random.default_rng(0)
    sets = sets_of_same_layers(heads, shape[1], config.draws, rng).sets
    fixed = [tuple(heads), *((head,) for head in heads), *sets]
    together, *others = score_sets(scored, [fixed] * len(scored), rules)
    rankings = (rank_heads(s.record, rules)[: config.top_k] for s in scored)
    picked = [[tuple((one.layer, one.head) for one in ranking)] for ranking in rankings]
    alone, draws = others[: len(heads)], others[len(heads) :]
    return {
        "heads": [list(head) for head in heads],
        "selected": [int(counts[head]) for head in heads],
        "alone": alone,
        "together": together,
        "per sample": score_sets(scored, picked, rules)[0],
        "random": {key: float(np.mean([draw[key] for draw in draws])) for key in draws[0]},
        "selection_counts": counts.tolist(),
    }


def _answers(scored: list[Scored]) -> dict[str, float]:
    """Shares of right answers: the first word, every word over all answers, and whole answers."""
    pairs = [(str(s.record.meta["generated_text"]).split(), s.answer.split()) for s in scored]
    words = [(said[i : i + 1] == [right]) for said, wanted in pairs for i, right in enumerate(wanted)]
    return {
        "first_word": float(np.mean([said[:1] == wanted[:1] for said, wanted in pairs])),
        "words": float(np.mean(words)),
        "whole": float(np.mean([said == wanted for said, wanted in pairs])),
    }


def _share(s: Scored) -> float:
    width, height = s.record.image_size or (1, 1)
    x0, y0, x1, y1 = s.box_xyxy
    return (x1 - x0) * (y1 - y0) / (width * height)


def report(result: dict[str, Any]) -> str:
    """The tables as Markdown."""
    parts = []
    if result["answers"]:
        said = result["answers"]
        parts.append(
            markdown(("answers", "right, %"), [(k.replace("_", " "), f"{100 * v:.1f}") for k, v in said.items()])
        )
    for name, found in result["variants"].items():
        rows = [
            (f"L{h[0]} H{h[1]}", n, *_percent(alone))
            for h, n, alone in zip(found["heads"], found["selected"], found["alone"], strict=True)
        ]
        rows.append(("**these together**", "", *_percent(found["together"])))
        rows.append(("random heads of the same layers", "", *_percent(found["random"])))
        rows.append(("picked per sample", "", *_percent(found["per sample"])))
        parts.append(markdown((name, "selected", "pointing, %", "Acc@0.5, %"), rows))
    pointing = 100 * np.array(result["pointing_per_head"])
    header = ("pointing, %", *(f"H{head}" for head in range(pointing.shape[1])))
    parts.append(markdown(header, [(f"L{layer}", *(f"{v:.0f}" for v in row)) for layer, row in enumerate(pointing)]))
    return "\n\n".join([*parts, f"The true box covers {100 * result['box_share']:.1f} % of the picture on average."])


def _percent(numbers: dict[str, Any]) -> tuple[str, str]:
    return f"{100 * numbers['pointing']:.1f}", f"{100 * numbers['acc_50']:.1f}"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options = typed_options(EvaluateConfig, sys.argv[1:])
        outcome = evaluate(options)
        target = Path(options.out)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(outcome, indent=1))
        print(f"{report(outcome)}\n\nwrote {target}")
