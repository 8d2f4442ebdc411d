"""What the paper claims (arXiv 2503.06287), as comparisons with a verdict, and what they rest on.

Agreement of trials, of rank and quality.

Every claim is one number with a bound, stated here before anything is measured. It holds if the whole 95 % interval is
on the right side of the bound, does not if the whole interval is on the other, and is open between: it cannot be told.
The interval holds all that chance decides, see chance.py; of fewer pictures than FEW, one that has no width or ends on
the bound leaves the claim open. Samples are drawn in pairs: easy ones are easy for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from lab.study.chance import Chance, by_picture, interval, ratio_in_draws
from lab.study.find import Found, first_heads
from lab.study.measure import Measured
from lab.study.plan import Case, Plan, Row, in_random_order
from lab.study.settings import Settings

NEAR = 0.02  # how far k heads may fall behind the best number of heads
TARGET_GAP, TARGET_TIMES = 0.1, 3.0  # behind the oracle, and times the random heads
AGREEMENT = 0.8  # of the heads of two trials
RHO = 0.7
FEW = 300  # pictures: of fewer that are all alike, more than 1 % of others may be unlike them (3 / n, with 95 %)
OVERLAPS = (1, 3, 5, 10)  # numbers of heads whose agreement is told


@dataclass(frozen=True)
class Claim:
    """`value` should be above `bound`, or below it if not `above`; `unit` is points (of Acc@0.5), times, or none."""

    text: str
    value: float
    low: float
    high: float
    bound: float
    above: bool = True
    unit: str = "points"
    note: str = ""
    few: bool = False  # of so few pictures that an interval without width, or up to the bound, tells nothing

    @property
    def verdict(self) -> str:
        """holds | does not hold | open"""
        if not np.isfinite([self.value, self.low, self.high]).all():
            return "open"
        if self.few and (self.low == self.high or self.bound in (self.low, self.high)):
            return "open"
        right = (
            (self.low > self.bound, self.high <= self.bound)
            if self.above
            else (self.high <= self.bound, self.low > self.bound)
        )
        return "holds" if right[0] else "does not hold" if right[1] else "open"


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho between how often heads are selected and the mean IoU of their own boxes."""

    over: str
    heads: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Of the `k` most selected heads, the share that two trials have in common: the mean over the pairs.

    `low` and `high` bound it as other trials would have it, `least` and `most` are the smallest and the largest.
    """

    k: int
    value: float
    low: float
    high: float
    least: float
    most: float


def claims(
    plan: Plan,
    measured: Measured,
    chance: Chance,
    rhos: Sequence[Correlation],
    agreement: Sequence[Agreement],
    settings: Settings,
) -> list[Claim]:
    """Every claim, measured."""
    hits, k = _Hits(plan, measured, chance, settings), settings.logic.top_k
    heads = {row.labels[0].split(":")[0]: row for row in plan.tables["heads"].rows}
    chosen, oracle, random = (
        heads[name] for name in ("found here", f"oracle, best {k}", "random heads of the same layers")
    )
    return [
        *_of_criteria(plan, hits),
        hits.behind_best(
            f"{k} heads are within {100 * NEAR:g} points of the best number", chosen, plan.tables["number"].rows, NEAR
        ),
        *map(_of_rank, rhos),
        *[_of_trials(one) for one in agreement if one.k == k],
        hits.behind(
            f"target: within {100 * TARGET_GAP:g} points of the oracle's {k} heads", chosen, oracle, TARGET_GAP
        ),
        hits.times(f"target: at least {TARGET_TIMES:g} times the random heads", chosen, random),
    ]


def _of_criteria(plan: Plan, hits: "_Hits") -> list[Claim]:
    rows = {row.labels: row for row in plan.tables["criteria"].rows}
    pairs = [
        ("fixed heads: both criteria beat the attention sum alone", ("fixed", "both"), ("fixed", "sum only")),
        ("fixed heads: both criteria beat the entropy alone", ("fixed", "both"), ("fixed", "entropy only")),
        ("per sample: both criteria beat the attention sum alone", ("per sample", "both"), ("per sample", "sum only")),
        ("per sample: both criteria beat the entropy alone", ("per sample", "both"), ("per sample", "entropy only")),
        ("fixed heads beat heads picked per sample", ("fixed", "both"), ("per sample", "both")),
    ]
    return [hits.more(text, rows[better], rows[worse]) for text, better, worse in pairs]


def _of_rank(rho: Correlation) -> Claim:
    text = f"rank and quality agree, rho > {RHO}, over heads {rho.over}"
    return Claim(text, rho.value, rho.low, rho.high, RHO, unit="", note=f"{rho.heads} heads")


def _of_trials(one: Agreement) -> Claim:
    text = f"trials agree: two share over {100 * AGREEMENT:g} % of their {one.k} heads"
    return Claim(
        text, one.value, one.low, one.high, AGREEMENT, unit="share", note=f"worst pair: {100 * one.least:.0f} %"
    )


class _Hits:
    """The share of samples that each row gets right (Acc@0.5): on all of them, then in each draw of pictures."""

    def __init__(self, plan: Plan, measured: Measured, chance: Chance, settings: Settings) -> None:
        self.plan, self.parts, self.chance = plan, measured.parts["Acc@0.5"], chance
        self.pictures, self.seed = measured.pictures, settings.seed

    def of(self, row: Row) -> Float[np.ndarray, " draws"]:
        """The row's value, the mean over its settings, then its value in each draw.

        There the draw's own heads, or a draw of its random sets, take the place of its settings.
        """
        value = self._ratios(row.cases, np.ones((1, self.chance.scored.shape[1]))).mean(0)
        if row.again:
            distinct = {case.key: case for case in row.again}
            place = {key: i for i, key in enumerate(distinct)}
            values = self._ratios(tuple(distinct.values()), self.chance.scored)
            drawn = values[[place[case.key] for case in row.again], np.arange(len(row.again))]
        else:
            weights = np.full((len(self.chance.scored), len(row.cases)), 1 / len(row.cases))
            if row.drawn:
                number = len(row.cases)
                weights = np.random.default_rng((self.seed, 7)).multinomial(number, weights[0], len(weights)) / number
            drawn = (weights.T * self._ratios(row.cases, self.chance.scored)).sum(0)
        return np.concatenate([value, drawn])

    def _ratios(self, cases: Sequence[Case], draws: Float[np.ndarray, "draws pictures"]) -> np.ndarray:
        hits, counted = self.parts[:, [self.plan.index[case.key] for case in cases]]
        return ratio_in_draws(hits, counted, self.pictures, draws)

    def more(self, text: str, better: Row, worse: Row) -> Claim:
        return self._claim(text, self.of(better) - self.of(worse), 0.0, note=_same_heads(better, worse))

    def behind(self, text: str, row: Row, best: Row, bound: float) -> Claim:
        return self._claim(text, self.of(best) - self.of(row), bound, above=False, note=_same_heads(row, best))

    def behind_best(self, text: str, row: Row, rows: Sequence[Row], bound: float) -> Claim:
        """Behind whichever of `rows` is best, in each draw anew."""
        values = np.stack([self.of(other) for other in rows])
        best = rows[int(values[:, 0].argmax())].labels[0]
        return self._claim(text, values.max(0) - self.of(row), bound, above=False, note=f"best: {best}")

    def times(self, text: str, row: Row, other: Row) -> Claim:
        hits, others = self.of(row), self.of(other)
        if others[0] == 0:
            return Claim(text, np.inf, np.nan, np.nan, TARGET_TIMES, unit="times", note="random heads are never right")
        ratios = np.divide(hits, others, out=np.full_like(hits, np.inf), where=others > 0)
        kind = "drawn again in each resample" if other.drawn else "all there are"
        return self._claim(text, ratios, TARGET_TIMES, unit="times", note=f"{len(other.cases)} sets, {kind}")

    def _claim(
        self, text: str, values: np.ndarray, bound: float, *, above: bool = True, unit: str = "points", note: str
    ) -> Claim:
        """From the value on all samples and those of the draws behind it."""
        low, high = interval(values[1:])
        few = self.chance.scored.shape[1] < FEW
        return Claim(text, float(values[0]), low, high, bound, above, unit, note, few)


def _same_heads(one: Row, other: Row) -> str:
    heads = [row.cases[0].heads for row in (one, other)]
    return "the same heads" if heads[0] is not None and set(heads[0]) == set(heads[1] or ()) else ""


# rank and quality


def rank_correlations(found: Found, settings: Settings, chance: Chance) -> list[Correlation]:
    """Over the heads ever selected, and over those selected more often than an average head that may be.

    Below that, heads are selected by chance, and their order says nothing.
    """
    counts = found.counts("both", settings.logic)
    chance_count = counts.sum() / max(1, counts.size - settings.logic.filter.first_layer * found.shape[1])
    return [
        _correlation("ever selected", found, counts > 0, settings, chance),
        _correlation("selected more often than the average head", found, counts > chance_count, settings, chance),
    ]


def _correlation(
    over: str, found: Found, heads: Bool[np.ndarray, "layers heads"], settings: Settings, chance: Chance
) -> Correlation:
    if heads.sum() < 3:
        return Correlation(over, int(heads.sum()), np.nan, np.nan, np.nan)
    votes, measured = found.votes("both", settings.logic)[found.finding][:, heads], found.measured
    selected = _all_then_draws(votes, found.picture_of[found.finding], chance.finding)
    quality = _all_then_draws(found.iou[measured][:, heads], found.picture_of[measured], chance.scored)
    with np.errstate(invalid="ignore"):
        rho = _spearman(selected, quality)
    low, high = interval(rho[1:])
    return Correlation(over, int(heads.sum()), float(rho[0]), low, high)


def _all_then_draws(
    values: Float[np.ndarray, "samples heads"],
    pictures: Int[np.ndarray, " samples"],
    draws: Float[np.ndarray, "draws pictures"],
) -> Float[np.ndarray, "1+draws heads"]:
    """Sums over all samples, then over the pictures of each draw."""
    return by_picture(values, pictures, np.concatenate([np.ones((1, draws.shape[1])), draws]))


def _spearman(a: Float[np.ndarray, "draws heads"], b: Float[np.ndarray, "draws heads"]) -> Float[np.ndarray, " draws"]:
    a, b = (rankdata(values, axis=1) for values in (a, b))
    a, b = (values - values.mean(1, keepdims=True) for values in (a, b))
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


# trials


def trial_counts(
    found: Found, settings: Settings
) -> tuple[Float[np.ndarray, "trials layers heads"], Int[np.ndarray, " trials"]]:
    """How often each head is selected in each of `logic.select.trials` parts of the samples, and the parts' sizes.

    No picture is in two parts.
    """
    order = in_random_order(found, (settings.seed, 8))
    pictures = found.picture_of[order]
    starts = np.flatnonzero(np.diff(pictures, prepend=-1))  # where a picture's samples begin
    trials = min(settings.logic.select.trials, len(starts))
    wanted = np.arange(1, trials) * len(order) / trials
    parts = np.split(order, starts[np.searchsorted(starts, wanted).clip(1, len(starts) - 1)]) if trials > 1 else [order]
    parts = [part for part in parts if len(part)]
    votes = found.votes("both", settings.logic)
    return np.stack([votes[part].sum(0) for part in parts]), np.array([len(part) for part in parts])


def agreements(counts: Float[np.ndarray, "trials layers heads"], top_k: int, settings: Settings) -> list[Agreement]:
    """For several numbers of heads. Empty for one trial."""
    number, found = len(counts), []
    draws = np.random.default_rng((settings.seed, 9)).integers(number, size=(settings.resamples, number))
    for k in sorted({*OVERLAPS, top_k}):
        heads = [set(first_heads(trial, k)) for trial in counts]
        if number < 2 or min(map(len, heads)) < k:
            continue
        shared = np.array([[len(one & other) / k for other in heads] for one in heads])
        pairs = shared[np.triu_indices(number, 1)]
        drawn = [_mean_of_pairs(shared, trials) for trials in draws]
        found.append(Agreement(k, float(pairs.mean()), *interval(drawn), float(pairs.min()), float(pairs.max())))
    return found


def _mean_of_pairs(shared: Float[np.ndarray, "trials trials"], trials: Int[np.ndarray, " drawn"]) -> float:
    """Over the pairs of drawn trials that are not the same one; NaN if all are."""
    apart = trials[:, None] != trials[None]
    return float(shared[np.ix_(trials, trials)][apart].mean()) if apart.any() else np.nan
