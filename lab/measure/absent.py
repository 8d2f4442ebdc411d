"""Samples whose expression describes nothing in the picture, beside those with a target: is no box given where there is
nothing, and one where there is something?

The figures are those of gRefCOCO's authors (GRES, arXiv 2306.00968):

    N-acc   share of the samples without target that get nothing
    T-acc   share of those with one that get something
    gIoU    mean IoU of all samples; without target it is 1 if there is no mask, and 0 if there is one
    cIoU    sum of intersections over sum of unions; a mask where there is no target is all union
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from lab.base.console import table
from lab.datasets import Sample
from lab.measure.intervals import Estimate, bootstrap, numbered
from lab.measure.metrics import Score
from lab.measure.presence import COLUMNS, Separation, by_category, cells, in_percent, separation


@dataclass(frozen=True)
class Told:
    """What the chosen heads tell of one sample."""

    sample: Sample
    presence: float | None  # None: not calibrated, or no record
    boxed: bool  # whether there is a box
    intersection: float  # of the masks, pixels; NaN where the truth has none
    union: float

    @classmethod
    def of_score(cls, sample: Sample, presence: float | None, boxed: bool, scored: Score) -> "Told":
        """Of a sample that has a target, as it was scored."""
        masks = (np.nan if one is None else float(one) for one in (scored.intersection, scored.union))
        return cls(sample, presence, boxed, *masks)

    @classmethod
    def of_absent(cls, sample: Sample, presence: float | None, boxed: bool, area: int) -> "Told":
        """Of a sample without target, and a mask of so many pixels."""
        return cls(sample, presence, boxed, 0.0, float(area))


def no_target_figures(told: Sequence[Told], *, resamples: int = 1000, seed: int = 0) -> list[Estimate]:
    """N-acc, T-acc and, where a sample has a true mask, gIoU and cIoU over those that have one or no target.

    With 95 % bootstrap intervals by picture. A figure appears where at least one sample counts.
    """
    present = np.array([one.sample.present for one in told])
    boxed = np.array([one.boxed for one in told], float)
    intersection, union = (np.array([getattr(one, name) for one in told]) for name in ("intersection", "union"))
    masked = ~np.isnan(union)
    empty = masked & (union == 0)
    iou = np.where(empty, 1.0, np.divide(intersection, union, out=np.zeros(len(told)), where=masked & ~empty))
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "N-acc": ((1 - boxed) * ~present, (~present).astype(float)),
        "T-acc": (boxed * present, present.astype(float)),
    }
    if (masked & present).any():
        sums["gIoU"] = (np.where(masked, iou, 0.0), masked.astype(float))
        sums["cIoU"] = (np.nan_to_num(intersection), np.nan_to_num(union))
    some = {name: parts for name, parts in sums.items() if parts[1].any()}
    above, below = (np.array([parts[side] for parts in some.values()]) for side in (0, 1))
    pictures = numbered([str(one.sample.image_file) for one in told])
    values, low, high = bootstrap(above, below, pictures, resamples=resamples, seed=seed)
    counts = [int((parts[1] > 0).sum()) if name != "cIoU" else int(masked.sum()) for name, parts in some.items()]
    numbers = zip(some, values.tolist(), low.tolist(), high.tolist(), counts, strict=True)
    return [Estimate("all", *row) for row in numbers]


def presence_separation(told: Sequence[Told], *, resamples: int = 1000, seed: int = 0) -> list[Separation]:
    """How well presence tells samples with a target from those without: all, by kind of absence, and by category.

    Samples without a presence are left out. Where those of a kind of absence name their twins, they are set against
    these alone: the same words about what is there.
    """
    known = [one for one in told if one.presence is not None]
    if not known:
        return []
    samples = [one.sample for one in known]
    present = np.array([sample.present for sample in samples])
    scores = np.array([one.presence for one in known])
    pictures = numbered([str(sample.image_file) for sample in samples])
    groups = {"all": np.ones(len(known), bool)} | _by_absence(samples, present) | by_category(samples, present)
    return separation(scores, present, pictures, groups, resamples=resamples, seed=seed)


def _by_absence(samples: Sequence[Sample], present: Bool[np.ndarray, " samples"]) -> dict[str, np.ndarray]:
    kinds = np.array([str(sample.extra.get("absence") or "") for sample in samples])
    ids = np.array([sample.id for sample in samples])
    groups = {}
    for kind in dict.fromkeys(kinds[~present].tolist()):
        if kind:
            gone = ~present & (kinds == kind)
            twins = [samples[i].extra.get("twin") for i in np.flatnonzero(gone).tolist()]
            there = present if None in twins else present & np.isin(ids, list(map(str, twins)))
            groups[f"absent {kind}"] = gone | there
    return groups


@dataclass(frozen=True)
class WithoutTarget:
    """What samples without target add to the figures of the others; nothing if there are none."""

    figures: list[Estimate]
    separation: list[Separation]  # empty without a calibration

    def to_json(self) -> dict[str, Any]:
        """For metrics.json."""
        return {"figures": list(map(asdict, self.figures)), "presence": list(map(asdict, self.separation))}

    def tables(self, draw: Callable[..., str] = table, *, interval: bool = False) -> list[str]:
        """The two tables, figures in %; those that hold something."""
        if not self.figures:
            return []
        texts = [in_percent(one, interval=interval) for one in self.figures]
        parts = [draw(("with no-target samples", *(one.metric for one in self.figures)), [("chosen", *texts)])]
        return parts + ([draw(COLUMNS, cells(self.separation, interval=interval))] if self.separation else [])


def without_target(told: Sequence[Told], *, resamples: int = 1000, seed: int = 0) -> WithoutTarget:
    """The figures of samples with and without target together; empty if all have one."""
    if all(one.sample.present for one in told):
        return WithoutTarget([], [])
    figures = no_target_figures(told, resamples=resamples, seed=seed)
    return WithoutTarget(figures, presence_separation(told, resamples=resamples, seed=seed))
