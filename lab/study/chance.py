"""What is drawn anew for the intervals of the claims: pictures, with them the heads that they find, and random sets.

A claim is about other pictures of the same kind. Its interval holds what would differ there: which pictures are scored,
which heads they find, which number of heads looks best, and which random heads stand beside them. Pictures are drawn
with replacement, each with all its samples; where the same pictures find and are scored, they are drawn once for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from analyze import Head
from conf.schema import LogicConfig
from lab.study.find import Found


@dataclass(frozen=True, eq=False)
class Chance:
    """How often each picture is drawn; pictures are numbered as in Found.picture_of."""

    scored: Float[np.ndarray, "draws pictures"]
    finding: Float[np.ndarray, "draws pictures"]

    @classmethod
    def of(cls, found: Found, scored: Int[np.ndarray, " samples"], resamples: int, seed: int) -> "Chance":
        """`scored` holds the picture of each scored sample."""
        rng = np.random.default_rng((seed, 6))
        total = max(scored.max(initial=0), found.picture_of.max(initial=0)) + 1
        here = _draws(scored, total, resamples, rng)
        finders = found.picture_of[found.finding]
        return cls(here, here if np.isin(finders, scored).all() else _draws(finders, total, resamples, rng))


def _draws(
    pictures: Int[np.ndarray, " samples"], total: int, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "draws pictures"]:
    there = np.unique(pictures)
    drawn = np.zeros((resamples, total))
    drawn[:, there] = rng.multinomial(len(there), np.full(len(there), 1 / len(there)), resamples)
    return drawn


def found_again(found: Found, criterion: str, k: int, logic: LogicConfig, chance: Chance) -> list[tuple[Head, ...]]:
    """The `k` heads that the pictures of each draw select by a criterion; fewer if fewer were selected."""
    votes = found.votes(criterion, logic)[found.finding]
    return _best_of_draws(by_picture(votes, found.picture_of[found.finding], chance.finding), found.shape, k)


def oracle_again(found: Found, k: int, chance: Chance) -> list[tuple[Head, ...]]:
    """The `k` heads whose own boxes are best on the pictures of each draw, by the labels."""
    measured = found.measured
    return _best_of_draws(by_picture(found.iou[measured], found.picture_of[measured], chance.scored), found.shape, k)


def by_picture(
    values: Float[np.ndarray, "samples *rest"], pictures: Int[np.ndarray, " samples"], draws: Float[np.ndarray, "n p"]
) -> Float[np.ndarray, "n *rest"]:
    """The values of the samples, added up over the pictures of each draw."""
    summed = np.zeros((draws.shape[1], *values.shape[1:]))
    np.add.at(summed, pictures, values)
    return np.tensordot(draws, summed, 1)


def _best_of_draws(
    sums: Float[np.ndarray, "draws layers heads"], shape: tuple[int, int], k: int
) -> list[tuple[Head, ...]]:
    flat = sums.reshape(len(sums), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    return [
        tuple(sorted(divmod(index, shape[1]) for index in best.tolist() if row[index] > 0))
        for best, row in zip(order, flat, strict=True)
    ]


def ratio_in_draws(
    hits: Float[np.ndarray, "cases samples"],
    counted: Float[np.ndarray, "cases samples"],
    pictures: Int[np.ndarray, " samples"],
    draws: Float[np.ndarray, "draws pictures"],
) -> Float[np.ndarray, "cases draws"]:
    """sum(hits) / sum(counted) of each case over the pictures of each draw; NaN where nothing counts."""
    above, below = (by_picture(part.T, pictures, draws).T for part in (hits, counted))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def interval(draws: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95 % of what was drawn."""
    finite = np.asarray(draws)[np.isfinite(draws)]
    if not len(finite):
        return np.nan, np.nan
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
