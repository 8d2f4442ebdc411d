"""The second reading of the records: every setting of the plan on every sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from analyze import Head
from lab.base.console import progress
from lab.base.workers import in_workers
from lab.datasets import Sample, read_truth
from lab.measure.intervals import bootstrap, columns, metric_names, ratios
from lab.measure.metrics import MEASURES, score
from lab.measure.sets import Asked, HeadSet, Sight
from lab.records.files import load_record
from lab.study.find import Found, Split
from lab.study.plan import Case, Plan
from lab.study.settings import Settings

THRESHOLDS = (0.5,)
METRICS = metric_names(THRESHOLDS)


@dataclass(frozen=True)
class Shot:
    """A sample, its record if it has one, and the heads that each criterion picks for it."""

    sample: Sample
    path: Path | None
    greedy: dict[str, tuple[Head, ...]]


@dataclass(frozen=True, eq=False)
class Measured:
    """Each setting's figures.

    The value over all samples, its interval, and every sample's part, by name of the metric.
    """

    values: dict[str, Float[np.ndarray, "cases 3"]]  # value, low, high; NaN where nothing was measured
    parts: dict[str, Float[np.ndarray, "2 cases samples"]]  # numerators, denominators
    pictures: Int[np.ndarray, " samples"]  # a number for the picture of each scored sample


def measure_plan(plan: Plan, parts: Split, found: Found, settings: Settings) -> Measured:
    """Scores every setting on every sample, in worker processes. A sample without a record is a miss."""
    shots = [_shot(sample, parts, found, settings) for sample in parts.scored]
    read = partial(score_cases, cases=plan.cases, inclusive=settings.inclusive)
    scores = np.empty((4, len(plan.cases), len(shots)), np.float32)
    for i, (_, row) in enumerate(progress(in_workers(read, shots, settings.workers), "study 2/2", total=len(shots))):
        scores[:, :, i] = row
    figures = ratios(*scores.astype(float), thresholds=THRESHOLDS)
    pictures = found.scored_picture_of
    values = {name: _estimates(np.array(figures[name]), pictures, settings) for name in METRICS}
    return Measured(values, {name: np.array(figures[name]) for name in METRICS}, pictures)


def _shot(sample: Sample, parts: Split, found: Found, settings: Settings) -> Shot:
    path = parts.files.get(sample.id)
    return Shot(sample, path, found.greedy(path, settings.logic.top_k) if path else {})


def _estimates(
    parts: Float[np.ndarray, "2 cases samples"], pictures: Int[np.ndarray, " samples"], settings: Settings
) -> Float[np.ndarray, "cases 3"]:
    estimates = np.full((parts.shape[1], 3), np.nan)
    counted = (parts[1] > 0).any(1)
    if counted.any():
        estimates[counted] = np.stack(
            bootstrap(parts[0][counted], parts[1][counted], pictures, resamples=settings.resamples, seed=settings.seed),
            axis=1,
        )
    return estimates


def score_cases(shot: Shot, cases: Sequence[Case], inclusive: bool) -> Float[np.ndarray, "4 cases"]:
    """One sample in every setting: IoU of the boxes, intersection and union of the masks, whether the point is right.

    NaN: not measured. Settings with the same rules are measured together.
    """
    record = load_record(shot.path, cases[0].logic) if shot.path else None
    truth = read_truth(shot.sample, record.image_size if record else None)
    if record is None:
        measures = {True: MEASURES, False: ("box", "point")}
        missed = {whole: score(truth, None, measures=some, inclusive=inclusive) for whole, some in measures.items()}
        return columns([missed[case.whole] for case in cases])
    sight, scores = Sight(record), np.empty((4, len(cases)))
    alike: dict[tuple[str, bool], list[int]] = {}
    for i, case in enumerate(cases):
        alike.setdefault((case.rules, case.whole), []).append(i)
    asked = [
        Asked([_heads(cases[i], shot) for i in places], cases[places[0]].logic, whole)
        for (_, whole), places in alike.items()
    ]
    for places, found in zip(alike.values(), sight.scores_of(asked, truth, inclusive=inclusive), strict=True):
        scores[:, places] = found
    return scores


def _heads(case: Case, shot: Shot) -> HeadSet:
    return shot.greedy.get(case.greedy, ()) if case.greedy else case.heads or ()
