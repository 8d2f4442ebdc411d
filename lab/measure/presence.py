"""How well presence tells what is there from what is not, with intervals by picture.

    rows = separation(scores, present, pictures, groups)        # AUROC, and what is rejected with 95 % kept

A score is any number that is higher for what is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lab.datasets import Sample
from lab.measure.intervals import CHUNK, Estimate, percentiles

KEPT = 0.95  # of what is there, above the threshold
METRICS = ("auroc", "rejected")


@dataclass(frozen=True)
class Separation:
    """One figure over one group of samples. Shares from 0 to 1, higher is better."""

    group: str
    metric: str  # auroc | rejected: of what is not there, with 95 % of what is there kept
    value: float
    low: float
    high: float
    there: int
    absent: int


def separation(
    scores: Float[np.ndarray, " samples"],
    present: Bool[np.ndarray, " samples"],
    pictures: Int[np.ndarray, " samples"],
    groups: Mapping[str, Bool[np.ndarray, " samples"]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Separation]:
    """AUROC and rejection of every group that has samples of both sides, with 95 % bootstrap intervals.

    Pictures are drawn anew with all their samples. Rejected is what scores below the highest threshold that keeps 95 %
    of the same group's samples of what is there.
    """
    rows = []
    for group, inside in groups.items():
        there, absent = int((present & inside).sum()), int((~present & inside).sum())
        if there and absent:
            draws = _drawn(scores[inside], present[inside], pictures[inside], resamples, seed)
            low, high = percentiles(draws[1:])
            for at, metric in enumerate(METRICS):
                rows.append(
                    Separation(group, metric, float(draws[0, at]), float(low[at]), float(high[at]), there, absent)
                )
    return rows


def _drawn(
    scores: np.ndarray, present: np.ndarray, pictures: np.ndarray, resamples: int, seed: int
) -> Float[np.ndarray, "draws 2"]:
    """The two figures of all samples, then of each resample; NaN where a draw has but one side."""
    number = len(names := np.unique(pictures))
    picture = np.searchsorted(names, pictures)
    rng, found = np.random.default_rng(seed), [figures(scores, present, np.ones((1, len(scores))))]
    step = max(1, CHUNK // max(number, len(scores)))
    for count in [min(step, resamples - done) for done in range(0, resamples, step)]:
        draws = rng.integers(number, size=(count, number)) + number * np.arange(count)[:, None]
        times = np.bincount(draws.ravel(), minlength=count * number).reshape(count, number)
        found.append(figures(scores, present, times[:, picture]))
    return np.concatenate(found)


def figures(
    scores: Float[np.ndarray, " samples"],
    present: Bool[np.ndarray, " samples"],
    times: Float[np.ndarray, "draws samples"],
) -> Float[np.ndarray, "draws 2"]:
    """AUROC and rejection where each sample counts so many times. Equal scores are half a win in the first."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))  # of each value, ascending
    there, absent = (
        np.add.reduceat(np.where(side[order], times[:, order], 0), starts, axis=1) for side in (present, ~present)
    )
    all_there, all_absent = (side.sum(1, keepdims=True) for side in (there, absent))
    below = absent.cumsum(1) - absent
    lost = there.cumsum(1) <= (1 - KEPT) * all_there + 1e-9  # values that may go
    sums = np.concatenate(
        [
            (there * (below + absent / 2)).sum(1, keepdims=True) / np.where(all_there > 0, all_there, np.nan),
            np.where(lost, absent, 0).sum(1, keepdims=True),
        ],
        axis=1,
    )
    return np.where(all_there > 0, sums / np.where(all_absent > 0, all_absent, np.nan), np.nan)


# groups and tables

COLUMNS = ("samples", "there", "absent", "AUROC", "rejected")
FEWEST = 10  # of each side in a category that has a row of its own


def by_category(
    samples: Sequence[Sample], present: Bool[np.ndarray, " samples"]
) -> dict[str, Bool[np.ndarray, " samples"]]:
    """The samples of each `category` of the data file that has enough of both sides, the largest first."""
    names = np.array([str(sample.extra.get("category") or "") for sample in samples])
    groups = {f"category {name}": names == name for name in sorted(set(names.tolist()) - {""})}
    some = {
        group: inside
        for group, inside in groups.items()
        if min((present & inside).sum(), (~present & inside).sum()) >= FEWEST
    }
    return dict(sorted(some.items(), key=lambda item: -item[1].sum()))


def cells(rows: Sequence[Separation], *, interval: bool = False) -> list[tuple[str, int, int, str, str]]:
    """A line for each group, its figures in %, under COLUMNS."""
    lines = dict[str, tuple[Separation, list[str]]]()
    for row in rows:
        lines.setdefault(row.group, (row, []))[1].append(in_percent(row, interval=interval))
    return [(group, row.there, row.absent, texts[0], texts[1]) for group, (row, texts) in lines.items()]


def in_percent(one: Separation | Estimate, *, interval: bool = False) -> str:
    """A share in %, with its interval if that is wanted."""
    ends = f" ({100 * one.low:.1f} to {100 * one.high:.1f})" if interval else ""
    return f"{100 * one.value:.1f}{ends}"
