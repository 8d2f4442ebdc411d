"""Whose attention points best: one table over the tokens that can be read, on scenes of the shipped model.

    python -m lab.picturebook.read n=250 seed=41 find_n=250 find_seed=40

Heads are found by selection alone on `find_n` scenes of `find_seed`, anew for each choice, by the rules of the shipped
model, and scored on the `n` scenes of `seed`. Prints Acc@0.5 with its 95 % interval over pictures, the difference from
the last prompt token, each picture drawn for both, and the same for Acc@0.75.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from analyze import most_selected, rank_heads, selection_frequency
from bbox import localize
from conf.schema import Config, LogicConfig, configuration
from lab.base.arguments import typed_options
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


def ious(finding: Sequence[Scored], scored: Sequence[Scored], logic: LogicConfig, config: ReadConfig) -> np.ndarray:
    """The IoU of each scene's box with the true one, [scenes], by heads that `logic` finds."""
    shape = finding[0].record.num_layers, finding[0].record.num_heads
    counts = selection_frequency([rank_heads(s.record.under(logic), logic) for s in finding], config.top_n, shape)
    heads = most_selected(counts, config.top_k)
    boxes = [localize(s.record.under(logic), heads, logic).box_xyxy for s in scored]
    return np.array([s.box_iou(box) for s, box in zip(scored, boxes, strict=True)])


def measure(config: ReadConfig) -> dict[str, np.ndarray]:
    """The IoUs of every choice of TOKENS."""
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
                found[name] = ious(finding, scored, replace(base.logic, token=token), config)
    return {name: found[name] for name in TOKENS}


def report(found: dict[str, np.ndarray]) -> str:
    """The table as Markdown."""
    columns = [column for threshold in (0.5, 0.75) for column in _accuracy(np.stack(list(found.values())) >= threshold)]
    headers = [f"{name}{at}" for at in ("@0.5", "@0.75") for name in ("Acc", "against the last prompt token, Acc")]
    return markdown(
        ("token that is read", *(f"{header}, %" for header in headers)), list(zip(found, *columns, strict=True))
    )


def _accuracy(right: Bool[np.ndarray, "choices scenes"]) -> tuple[list[str], list[str]]:
    """Each choice's accuracy, and its difference from the first one's, both with their intervals."""
    rows = np.concatenate([right.astype(float), right - right[:1].astype(float)])
    estimates = 100 * np.stack(bootstrap(rows, np.ones_like(rows), np.arange(rows.shape[1])), axis=1)
    acc, gain = estimates[: len(right)], estimates[len(right) :]
    return (
        [f"{a:.1f} ({low:.1f} to {high:.1f})" for a, low, high in acc],
        [f"{g:+.1f} ({low:+.1f} to {high:+.1f})" for g, low, high in gain],
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options = typed_options(ReadConfig, sys.argv[1:])
        print(report(measure(options)))
