"""Whether leaving out sinks (`logic.filter.sinks`) helps where there are some, and harms where there are none.

    python -m lab.picturebook.sinks n=300 seed=61 find_n=150 find_seed=62

The shipped model has no sinks, so they are planted: most heads give a part of their attention to a few cells at the
border, the same cells in every picture, as models of the Qwen kind do. Heads are found by selection alone on `find_n`
scenes, anew for each row, and scored on `n` others. Prints Acc@0.5 with its 95 % interval, and the difference from the
same records with all cells counted.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from conf.schema import Config, LogicConfig, configuration
from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line, markdown, progress
from lab.measure.intervals import bootstrap
from lab.picturebook.evaluate import Scored
from lab.picturebook.make import samples
from lab.picturebook.read import ReadConfig, ious
from lab.records.record import Record


@dataclass
class SinkConfig(ReadConfig):
    """What is measured on what, and what is planted."""

    n: int = 300
    seed: int = 61
    find_n: int = 150
    find_seed: int = 62
    share: float = 0.5  # of logic.filter.sinks
    heads: float = 0.8  # share of the heads that look at the planted cells
    most: float = 0.6  # of a head's attention goes there at most; between a tenth and so much, drawn for each picture
    cells: int = 3  # planted, at the border


@dataclass(frozen=True)
class Plant:
    """The cells and the heads, the same for all pictures."""

    cells: np.ndarray
    heads: np.ndarray  # [layers, heads], bool
    most: float

    @classmethod
    def draw(cls, record: Record, config: SinkConfig) -> "Plant":
        """Cells of the border of the record's grid, and heads of its model."""
        rng, index = np.random.default_rng(0), record.grids[0].index
        border = np.unique(np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]]))
        heads = rng.random((record.num_layers, record.num_heads)) < config.heads
        return cls(rng.choice(border, config.cells, replace=False), heads, config.most)

    def into(self, record: Record, seed: int) -> Record:
        """The record with a part of these heads' attention moved to the cells; the sums stay."""
        rng = np.random.default_rng((1, seed))
        part = rng.uniform(0.1, self.most, self.heads.shape) * self.heads
        to = rng.dirichlet(np.ones(len(self.cells)), self.heads.shape)  # layers heads cells
        moved = record.attn * (1 - part)[..., None, None]
        moved[..., self.cells] += (record.attn.sum(-1) * part[..., None])[..., None] * to[:, :, None]
        return replace(record, attn=moved.astype(np.float32))


def measure(config: SinkConfig) -> dict[tuple[str, str], tuple[np.ndarray, float]]:
    """IoUs [scenes], and tokens left out on average, of every row: (records, cells)."""
    from collector import collect
    from lab.stages.common import load_model

    base: Config = configuration([])
    loaded = load_model(base)

    def collected(n: int, seed: int) -> list[Scored]:
        drawn = progress(samples(n, seed), f"scenes {seed}", total=n)
        return [Scored(collect(loaded, d.image, d.expression.text, base.model), d.box_xyxy, "") for d in drawn]

    finding, scored = collected(config.find_n, config.find_seed), collected(config.n, config.seed)
    plant = Plant.draw(scored[0].record, config)

    def planted(scenes: Sequence[Scored], first: int) -> list[Scored]:
        return [replace(one, record=plant.into(one.record, first + i)) for i, one in enumerate(scenes)]

    def row(scenes: tuple[list[Scored], list[Scored]], logic: LogicConfig) -> tuple[np.ndarray, float]:
        number = float(np.mean([len(one.record.under(logic).left_out) for one in scenes[1]]))
        return ious(*scenes, logic, config), number

    records = {"as they are": (finding, scored), "with planted sinks": (planted(finding, 10**6), planted(scored, 0))}
    cells = {"all": None, "sinks left out": config.share}
    return {
        (name, kept): row(scenes, replace(base.logic, filter=replace(base.logic.filter, sinks=share)))
        for name, scenes in records.items()
        for kept, share in cells.items()
    }


def report(found: dict[tuple[str, str], tuple[np.ndarray, float]]) -> str:
    """The table as Markdown."""
    lines = []
    for (name, kept), (boxes, number) in found.items():
        before = found[name, "all"][0]
        rows = np.stack([boxes >= 0.5, (boxes >= 0.5).astype(float) - (before >= 0.5)])
        acc, gain = 100 * np.stack(bootstrap(rows, np.ones_like(rows), np.arange(len(boxes))), axis=1)
        told = [f"{acc[0]:.1f} ({acc[1]:.1f} to {acc[2]:.1f})", f"{gain[0]:+.1f} ({gain[1]:+.1f} to {gain[2]:+.1f})"]
        lines.append((name, kept, f"{number:.1f}", *told))
    return markdown(("records", "cells that count", "left out", "Acc@0.5, %", "against all cells"), lines)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_in_one_line():
        options = typed_options(SinkConfig, sys.argv[1:])
        print(report(measure(options)))
