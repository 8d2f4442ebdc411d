"""Scores over samples -> figures with intervals: what a set of heads does to the model, against the untouched model and
against its controls.

Every difference is one of pairs: the same samples with and without the change. In each draw of the bootstrap pictures
are drawn anew with all their samples and, of a control of several sets, one of these sets: the interval is that of what
one such set does to other pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lab.ablate.sets import CHOSEN, UNTOUCHED, HeadSet
from lab.measure.intervals import percentiles, resampled

AGAINST = "chosen against "  # a row of the chosen heads' difference to a control


@dataclass(frozen=True)
class Row:
    """One figure. Shares are from 0 to 1, `logprob` and `divergence` in nats."""

    name: str  # untouched | chosen | random | others | ...
    intervention: str
    metric: str
    value: float  # of a control of several sets, their mean
    value_low: float
    value_high: float
    difference: float  # to the untouched model; of "chosen against X", to X
    low: float
    high: float
    n: int  # samples
    sets: int  # of heads


def estimates(
    scores: Mapping[str, Float[np.ndarray, "interventions sets samples"]],
    words: Int[np.ndarray, " samples"],
    pictures: Int[np.ndarray, " samples"],
    interventions: Sequence[str],
    sets: Sequence[HeadSet],
    *,
    resamples: int,
    seed: int,
) -> list[Row]:
    """The rows of every intervention and metric. A figure is a mean over samples, that of `words` one over words.

    Args:
        scores: by metric, NaN where nothing was measured.
        words: in each sample's answer.
        pictures: a number for the picture of each sample.
    """
    rows: list[Row] = []
    for number, intervention in enumerate(interventions):
        for metric, values in scores.items():
            weights = words.astype(float) if metric == "words" else np.ones(len(words))
            draws = _draws(values[number], weights, pictures, resamples, seed)
            counted = int(np.isfinite(values[number, 0]).sum())
            if counted:
                rows += _rows(draws, intervention, metric, counted, sets, seed)
    return rows


def _draws(
    values: Float[np.ndarray, "sets samples"],
    weights: Float[np.ndarray, " samples"],
    pictures: Int[np.ndarray, " samples"],
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "draws sets"]:
    """The figure of each set over all samples, then over each draw of pictures; NaN of a set without a figure."""
    measured = np.isfinite(values)
    below = measured * weights
    return resampled(np.where(measured, values, 0) * below, below, pictures, resamples, seed)


def _rows(
    draws: Float[np.ndarray, "draws sets"],
    intervention: str,
    metric: str,
    counted: int,
    sets: Sequence[HeadSet],
    seed: int,
) -> list[Row]:
    names = dict.fromkeys(one.name for one in sets)
    named = {name: [i for i, one in enumerate(sets) if one.name == name] for name in names}
    groups = {name: draws[:, index] for name, index in named.items() if np.isfinite(draws[0, index]).all()}
    rng = np.random.default_rng((seed, 2))
    figures = {name: (group[0].mean(), _one_of(group[1:], rng)) for name, group in groups.items()}

    def row(name: str, of: str, to: str) -> Row:
        (value, drawn), (before, others) = figures[of], figures[to]
        value_low, value_high = percentiles(drawn).tolist()
        low, high = percentiles(drawn - others).tolist()
        numbers = (float(value), value_low, value_high, float(value - before), low, high)
        return Row(name, intervention, metric, *numbers, counted, groups[of].shape[1])

    against = [name for name in figures if CHOSEN in figures and name not in (UNTOUCHED, CHOSEN)]
    return [row(name, name, UNTOUCHED) for name in figures] + [
        row(AGAINST + name, CHOSEN, name) for name in against if not name.startswith(("L", "best"))
    ]


def _one_of(draws: Float[np.ndarray, "draws sets"], rng: np.random.Generator) -> Float[np.ndarray, " draws"]:
    """In each draw one of the sets."""
    return draws[np.arange(len(draws)), rng.integers(draws.shape[1], size=len(draws))]


def each_set(
    scores: Float[np.ndarray, "sets samples"], weights: Float[np.ndarray, " samples"]
) -> Float[np.ndarray, " sets"]:
    """The figure of every single set, for the figure's dots; NaN where nothing was measured."""
    measured = np.isfinite(scores)
    below = (measured * weights).sum(1)
    above = (np.where(measured, scores, 0) * weights).sum(1)
    return np.divide(above, below, out=np.full(len(scores), np.nan), where=below > 0)
