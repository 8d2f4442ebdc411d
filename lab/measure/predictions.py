"""Every sample measured in every row of stage=evaluate: what the heads of a row find, beside the truth."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from analyze import rank_heads
from bbox import Localization, localize
from conf.schema import LogicConfig
from lab.base.console import progress
from lab.datasets import Sample, read_truth
from lab.measure.controls import Rows
from lab.measure.intervals import Estimate
from lab.measure.metrics import Prediction, Score, exclusive, score
from lab.records.files import load_record
from lab.records.record import Record
from llava.grid import Grid


def measure(
    samples: Sequence[Sample], files: dict[str, Path], rows: Rows, logic: LogicConfig, *, inclusive: bool
) -> tuple[dict[str, list[Score]], list[Prediction]]:
    """Every sample's score in every row, a sample without a record being a miss, and the chosen heads' predictions."""
    scores: dict[str, list[Score]] = {name: [] for name in rows}
    kept = []
    for sample in progress(samples, "evaluate 2/2"):
        record = load_record(files[sample.id], logic.grids) if sample.id in files else None
        truth = read_truth(sample, record.image_size if record else None)
        ranking = rank_heads(record, logic) if record else []
        for name, pick in rows.items():
            found: Prediction | None = None
            if record is not None and pick is None:
                found = _middle(sample.id, record)
            elif record is not None and pick is not None:
                located = localize(record, pick(record, ranking), logic)
                found = prediction(sample.id, located, record.grid, inclusive=inclusive)
            measures = ("box",) if pick is None else ("box", "mask", "point")
            scores[name].append(score(truth, found, measures=measures, inclusive=inclusive))
            if name == "chosen" and found is not None:
                kept.append(found)
    return scores, kept


def prediction(sample_id: str, found: Localization, grid: Grid, *, inclusive: bool = False) -> Prediction:
    """What was found, as the metrics want it.

    Its box has exclusive edges unless `inclusive`; its point is the centre of the highest cell.
    """
    point = highest_point(found.heat, grid) if found.heads else None
    return Prediction(sample_id, metric_box(found.box_xyxy, inclusive=inclusive), found.mask, point)


def metric_box(
    box_xyxy: tuple[int, int, int, int] | None, *, inclusive: bool
) -> tuple[float, float, float, float] | None:
    """A box of pixels, both edges inclusive, in the convention of `metrics.box`."""
    if box_xyxy is None or not inclusive:
        return None if box_xyxy is None else exclusive(box_xyxy)
    x0, y0, x1, y1 = map(float, box_xyxy)
    return x0, y0, x1, y1


def highest_point(heat: Float[np.ndarray, "rows cols"], grid: Grid) -> tuple[float, float]:
    """The centre of the heat map's highest cell, (x, y) in pixels of the image."""
    row, col = np.unravel_index(heat.argmax(), heat.shape)
    x0, y0, x1, y1 = grid.extent_xyxy
    return float(x0 + (col + 0.5) * (x1 - x0) / grid.cols), float(y0 + (row + 0.5) * (y1 - y0) / grid.rows)


def _middle(sample_id: str, record: Record) -> Prediction:
    width, height = record.image_size or (1, 1)
    return Prediction(sample_id, (width / 4, height / 4, 3 * width / 4, 3 * height / 4))


def merge_draws(rows: dict[str, list[Estimate]]) -> dict[str, list[Estimate]]:
    """Puts the mean of the random draws, with the range that holds 95 % of them, in the place of the draws."""
    draws = [estimates for name, estimates in rows.items() if name.startswith("random ")]
    merged: dict[str, list[Estimate]] = {}
    for name, estimates in rows.items():
        if not name.startswith("random "):
            merged[name] = estimates
        elif "random, same layers" not in merged:
            merged["random, same layers"] = [_mean_of(same) for same in zip(*draws, strict=True)]
    return merged


def _mean_of(draws: Iterable[Estimate]) -> Estimate:
    found = list(draws)
    values = [one.value for one in found]
    low, high = np.quantile(values, [0.025, 0.975])
    return replace(found[0], value=float(np.mean(values)), low=float(low), high=float(high))
