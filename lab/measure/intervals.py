"""Figures over many samples with their bootstrap intervals, of one run or of two over the same samples.

Pictures are drawn, not samples: expressions about one picture are easy or hard together, and intervals that ignore it
are too narrow (with 8 expressions a picture a nominal 95 % covers 85 to 88 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lab.base.errors import UserError
from lab.measure.metrics import Score

THRESHOLDS = (0.25, 0.5, 0.75)  # of Acc@; a hit at an IoU of so much or more


CHUNK = 2**21  # drawn pictures that the bootstrap holds at once


@dataclass(frozen=True)
class Difference:
    """One figure of two runs over the same samples.

    `low` and `high` bound second - first, each picture drawn in both or in neither.
    """

    group: str  # as in Estimate
    metric: str
    first: float
    second: float
    value: float  # second - first
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Estimate:
    """One figure over one group of samples, with its bootstrap interval.

    All are shares from 0 to 1, higher is better.
    """

    group: str  # all | split <name> | small | medium | large
    metric: str
    value: float
    low: float
    high: float
    n: int


# Many samples: every figure is a ratio of two sums over the samples, so one bootstrap serves them all


def summarize(
    scores: Sequence[Score],
    *,
    others: Float[np.ndarray, "4 samples"] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Estimate]:
    """Every figure over all samples, each split and each size of object, with the interval of `level` from `resamples`
    resamples.

    `Acc@t` and `box IoU` (mean) of boxes, `cIoU` (sum of intersections over sum of unions) and `mIoU` (mean) of masks,
    `pointing`. A figure appears where at least one sample of the group counts. `others` are the `columns` of something
    else that was measured on the same samples, and take the place of theirs. Without resamples, an interval is its
    value. Raises UserError if there is no sample.
    """
    if not scores:
        raise UserError("no sample was scored; expected one or more")
    figures = ratios(*(columns(scores) if others is None else others), thresholds=thresholds)
    # [figures, numerator and denominator, samples]
    names, sums, pictures = np.array(list(figures)), np.array(list(figures.values())), pictures_of(scores)
    rows = []
    for group, inside in _groups(scores).items():
        counted = (sums[:, 1, inside] > 0).sum(axis=1)
        some = counted > 0
        above, below = sums[some][:, :, inside].swapaxes(0, 1)
        values, low, high = bootstrap(above, below, pictures[inside], resamples=resamples, seed=seed, level=level)
        numbers = (names[some], values, low, high, counted[some])
        rows += [Estimate(group, *row) for row in zip(*(column.tolist() for column in numbers), strict=True)]
    return rows


def compare(
    first: Sequence[Score],
    second: Sequence[Score],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Difference]:
    """Every figure of two runs over the same samples in the same order, grouped as in `summarize`, with the interval of
    its difference.

    Raises UserError if there is no sample or the ids differ.
    """
    if not first or [one.id for one in first] != [one.id for one in second]:
        raise UserError(
            f"{len(first)} and {len(second)} samples cannot be compared in pairs; expected the same ids in "
            "the same order"
        )
    figures = [ratios(*columns(scores), thresholds=thresholds) for scores in (first, second)]
    names = np.array(list(figures[0]))
    one, other = (np.array(list(run.values())) for run in figures)  # [figures, numerator and denominator, samples]
    rows, pictures = [], pictures_of(first)
    for group, inside in _groups(first).items():
        counted = (one[:, 1, inside] > 0).sum(axis=1)
        some = (counted > 0) & (other[:, 1, inside] > 0).any(axis=1)
        values, low, high = paired_bootstrap(
            one[some][..., inside],
            other[some][..., inside],
            pictures[inside],
            resamples=resamples,
            seed=seed,
            level=level,
        )
        numbers = (names[some], *values, values[1] - values[0], low, high, counted[some])
        rows += [Difference(group, *row) for row in zip(*(column.tolist() for column in numbers), strict=True)]
    return rows


def columns(scores: Sequence[Score]) -> Float[np.ndarray, "4 samples"]:
    """IoU of the boxes, intersection and union of the masks, and whether the point is right;

    NaN where nothing was measured.
    """
    parts = [(one.box_iou, one.intersection, one.union, one.pointed) for one in scores]
    return np.array([[np.nan if part is None else part for part in row] for row in parts], float).reshape(-1, 4).T


def ratios(
    iou: Float[np.ndarray, "*rows samples"],
    intersection: Float[np.ndarray, "*rows samples"],
    union: Float[np.ndarray, "*rows samples"],
    pointed: Float[np.ndarray, "*rows samples"],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of each figure -> each sample's part in its numerator and in its denominator.

    0 and 0 where it does not count.
    """

    def mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.nan_to_num(values), (~np.isnan(values)).astype(float)

    hits = {f"Acc@{t:g}": mean(np.where(np.isnan(iou), np.nan, iou >= t)) for t in thresholds}
    return {
        **hits,
        "box IoU": mean(iou),
        "cIoU": (np.nan_to_num(intersection), np.nan_to_num(union)),
        "mIoU": mean(intersection / np.maximum(union, 1)),
        "pointing": mean(pointed),
    }


def metric_names(thresholds: Sequence[float] = THRESHOLDS) -> tuple[str, ...]:
    """The names of the figures, in the order of `ratios`."""
    return tuple(ratios(*np.zeros((4, 0)), thresholds=thresholds))


def _groups(scores: Sequence[Score]) -> dict[str, Bool[np.ndarray, " samples"]]:
    splits, sizes = np.array([one.split or "" for one in scores]), np.array([one.size for one in scores])
    by_split = {f"split {name}": splits == name for name in dict.fromkeys(splits.tolist()) if name}
    by_size = {name: sizes == name for name in ("small", "medium", "large") if name in sizes}
    return {"all": np.ones(len(scores), bool), **by_split, **by_size}


def pictures_of(scores: Sequence[Score]) -> Int[np.ndarray, " samples"]:
    """A number for the picture of each sample, the same for samples that share one."""
    return numbered([one.picture or f"of sample {i}" for i, one in enumerate(scores)])


def numbered(pictures: Sequence[str]) -> Int[np.ndarray, " samples"]:
    """A number for each name, in order of their first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(pictures))}
    return np.array([numbers[name] for name in pictures], np.intp)


def bootstrap(
    numerators: Float[np.ndarray, "figures samples"],
    denominators: Float[np.ndarray, "figures samples"],
    pictures: Int[np.ndarray, " samples"] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " figures"], Float[np.ndarray, " figures"], Float[np.ndarray, " figures"]]:
    """sum(numerators) / sum(denominators), and the lower and upper end of its percentile interval.

    Pictures, one or more, are drawn anew with replacement, each with all its samples, the same for every figure, which
    makes it one matrix product. `pictures` numbers the picture of each sample; without it, each has its own, and the
    interval is the same as scipy.stats.bootstrap's, which would draw for each figure.
    """
    ratios = resampled(numerators, denominators, pictures, resamples, seed)
    low, high = percentiles(ratios[1:] if resamples else ratios, level)
    return ratios[0], low, high


def paired_bootstrap(
    first: Float[np.ndarray, "figures 2 samples"],
    second: Float[np.ndarray, "figures 2 samples"],
    pictures: Int[np.ndarray, " samples"] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, "2 figures"], Float[np.ndarray, " figures"], Float[np.ndarray, " figures"]]:
    """The figures of two runs over the same samples, and the lower and upper end of the interval of second - first.

    Axis 1 holds numerators and denominators. A draw takes a picture in both runs or in neither, so what makes it easy
    or hard for both cancels: the interval is narrower than two intervals side by side suggest.
    """
    numerators, denominators = np.concatenate([first, second]).swapaxes(0, 1)
    # [1 + resamples, figures] each
    one, other = np.split(resampled(numerators, denominators, pictures, resamples, seed), 2, axis=1)
    low, high = percentiles((other - one)[1:], level)
    return np.stack([one[0], other[0]]), low, high


def percentiles(draws: Float[np.ndarray, "draws *rest"], level: float = 0.95) -> Float[np.ndarray, "2 *rest"]:
    """The ends of the middle part, `level` from 0 to 1, of what was drawn; NaN is left out.

    NaN where nothing else was drawn.
    """
    any_drawn = ~np.isnan(draws).all(axis=0)
    ends = np.nanquantile(np.where(any_drawn, draws, 0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(any_drawn, ends, np.nan)


def resampled(
    numerators: Float[np.ndarray, "figures samples"],
    denominators: Float[np.ndarray, "figures samples"],
    pictures: Int[np.ndarray, " samples"] | None,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "draws figures"]:
    """The ratio of sums over all samples, then over each resample of pictures; NaN where nothing was counted."""
    parts = np.concatenate([numerators, denominators]).T  # [samples, 2 * figures]
    if pictures is not None:
        present, index = np.unique(pictures, return_inverse=True)
        by_picture = np.zeros((len(present), parts.shape[1]))
        np.add.at(by_picture, index, parts)
        parts = by_picture
    number = len(parts)
    rng = np.random.default_rng(seed)
    sums = [parts.sum(axis=0, keepdims=True)]
    step = max(1, CHUNK // number)
    for count in [min(step, resamples - done) for done in range(0, resamples, step)]:
        draws = rng.integers(number, size=(count, number)) + number * np.arange(count)[:, None]
        # how often each picture was drawn
        times = np.bincount(draws.ravel(), minlength=count * number).reshape(count, number)
        sums.append(times @ parts)
    above, below = np.split(np.concatenate(sums), 2, axis=1)  # [1 + resamples, figures] each
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
