"""Whose attention points best: one table over the tokens that can be read, on scenes of the shipped model.

    python -m lab.picturebook.read n=250 seed=41 find_n=250 find_seed=40

Heads are found by selection alone on `find_n` scenes of `find_seed`, anew for each choice, by the rules of the shipped
model, and scored on the `n` scenes of `seed`. Prints Acc@0.5 with its 95 % interval over pictures, and the difference
from the last prompt token, each picture drawn for both.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from analyze import most_selected, rank_heads, selection_frequency
from bbox import localize
from conf.schema import Config, LogicConfig, configuration
from lab.base.console import exit_in_one_line, markdown, progress
from lab.measure.intervals import bootstrap
from lab.picturebook.evaluate import Scored
from lab.picturebook.make import samples

TOKENS: dict[str, tuple[str, str]] = {  # what the table calls them: model.read, logic.token
    "last prompt token": ("last", "mean"),
    "first generated token": ("answer", "first"),
    "mean of the generated tokens": ("answer", "mean"),
    "mean of the expression": ("expression", "mean"),
}


@dataclass
class ReadConfig:
    """What is measured on what."""

    n: int = 500  # scenes that are scored
    seed: int = 41
    find_n: int = 250  # scenes on which the heads are found
    find_seed: int = 40
    top_n: int = 10  # heads that each scene votes for
    top_k: int = 3  # heads that are fixed


def hits(finding: Sequence[Scored], scored: Sequence[Scored], logic: LogicConfig, config: ReadConfig) -> np.ndarray:
    """Whether each scene's box is right, [scenes], by heads that `logic` finds."""
    shape = finding[0].record.num_layers, finding[0].record.num_heads
    counts = selection_frequency([rank_heads(s.record.under(logic), logic) for s in finding], config.top_n, shape)
    heads = most_selected(counts, config.top_k)
    boxes = [localize(s.record.under(logic), heads, logic).box_xyxy for s in scored]
    return np.array([s.box_iou(box) >= 0.5 for s, box in zip(scored, boxes, strict=True)], float)


def measure(config: ReadConfig) -> dict[str, np.ndarray]:
    """The hits of every choice of TOKENS."""
    from collector import collect
    from lab.stages.common import load_model

    base: Config = configuration([])
    loaded = load_model(base)

    def collected(n: int, seed: int, read: str) -> list[Scored]:
        model = replace(base.model, read=read)
        drawn = progress(samples(n, seed), f"{read} {seed}", total=n)
        return [Scored(collect(loaded, d.image, d.expression.text, model), d.box_xyxy, "") for d in drawn]

    found: dict[str, np.ndarray] = {}
    for read in dict.fromkeys(read for read, _ in TOKENS.values()):
        finding, scored = collected(config.find_n, config.find_seed, read), collected(config.n, config.seed, read)
        for name, (own, token) in TOKENS.items():
            if own == read:
                found[name] = hits(finding, scored, replace(base.logic, token=token), config)
    return {name: found[name] for name in TOKENS}


def report(found: dict[str, np.ndarray]) -> str:
    """The table as Markdown."""
    right = np.stack(list(found.values()))
    rows = np.concatenate([right, right - right[:1]])
    estimates = 100 * np.stack(bootstrap(rows, np.ones_like(rows), np.arange(rows.shape[1])), axis=1)
    acc, gain = estimates[: len(right)], estimates[len(right) :]
    lines = [
        (name, f"{a[0]:.1f} ({a[1]:.1f} to {a[2]:.1f})", f"{g[0]:+.1f} ({g[1]:+.1f} to {g[2]:+.1f})")
        for name, a, g in zip(found, acc, gain, strict=True)
    ]
    return markdown(("token that is read", "Acc@0.5, %", "against the last prompt token"), lines)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options: Any = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(ReadConfig), OmegaConf.from_cli(sys.argv[1:]))
        )
        print(report(measure(options)))
