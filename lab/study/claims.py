"""What the paper claims (arXiv 2503.06287), as comparisons with a verdict, and what they rest on.

Agreement of trials, of rank and quality.

Every claim is one number with a bound, stated here before anything is measured. It holds if the whole 95 % interval is
on the right side of the bound, does not if the whole interval is on the other, and is open between. Samples are drawn
in pairs: easy ones are easy for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from analyze import selection_trials
from lab.measure.intervals import bootstrap, paired_bootstrap
from lab.study.find import Found, first_heads
from lab.study.measure import Measured
from lab.study.plan import Plan, Row
from lab.study.settings import Settings

NEAR = 0.02  # how far k heads may fall behind the best number of heads
TARGET_GAP, TARGET_TIMES = 0.1, 3.0  # behind the oracle, and times the random heads
AGREEMENT = 0.8  # of the heads of two trials
RHO = 0.7
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

    @property
    def verdict(self) -> str:
        """holds | does not hold | open"""
        if not np.isfinite([self.value, self.low, self.high]).all():
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
    """Of the `k` most selected heads, the share that two trials have in common.

    Mean, smallest and largest over the pairs.
    """

    k: int
    value: float
    low: float
    high: float


def claims(
    plan: Plan, measured: Measured, rhos: Sequence[Correlation], agreement: Sequence[Agreement], settings: Settings
) -> list[Claim]:
    """Every claim, measured."""
    hits, k = _Hits(plan, measured, settings), settings.logic.top_k
    heads = {row.labels[0].split(":")[0]: row for row in plan.tables["heads"].rows}
    chosen, oracle, random = (
        heads[name] for name in ("found here", f"oracle, best {k}", "random heads of the same layers")
    )
    best = max(plan.tables["number"].rows, key=hits.mean)
    return [
        *_of_criteria(plan, hits),
        hits.behind(
            f"{k} heads are within {100 * NEAR:g} points of the best number",
            chosen,
            best,
            NEAR,
            f"best: {best.labels[0]}",
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
        text, one.value, one.value, one.value, AGREEMENT, unit="share", note=f"worst pair: {100 * one.low:.0f} %"
    )


class _Hits:
    """Which samples each row gets right (Acc@0.5), and comparisons of rows over the same samples."""

    def __init__(self, plan: Plan, measured: Measured, settings: Settings) -> None:
        self.plan, self.parts, self.settings = plan, measured.parts["Acc@0.5"], settings

    def of(self, row: Row) -> Float[np.ndarray, "1 2 samples"]:
        """Numerators and denominators, the mean over the row's settings."""
        return self.parts[:, [self.plan.index[case.key] for case in row.cases]].mean(1)[None]

    def mean(self, row: Row) -> float:
        return float(self.of(row)[0, 0].mean())

    def more(self, text: str, better: Row, worse: Row) -> Claim:
        value, low, high = self._difference(worse, better)
        return Claim(text, value, low, high, 0.0, note=_same_heads(better, worse))

    def behind(self, text: str, row: Row, best: Row, bound: float, note: str = "") -> Claim:
        value, low, high = self._difference(row, best)
        return Claim(text, value, low, high, bound, above=False, note=note or _same_heads(row, best))

    def times(self, text: str, row: Row, other: Row) -> Claim:
        hits, others = self.of(row)[:, 0], self.of(other)[:, 0]
        if not others.any():
            return Claim(text, np.inf, np.nan, np.nan, TARGET_TIMES, unit="times", note="random heads are never right")
        value, low, high = (
            float(v[0]) for v in bootstrap(hits, others, resamples=self.settings.resamples, seed=self.settings.seed)
        )
        return Claim(text, value, low, high, TARGET_TIMES, unit="times")

    def _difference(self, first: Row, second: Row) -> tuple[float, float, float]:
        both, low, high = paired_bootstrap(
            self.of(first), self.of(second), resamples=self.settings.resamples, seed=self.settings.seed
        )
        return float(both[1, 0] - both[0, 0]), float(low[0]), float(high[0])


def _same_heads(one: Row, other: Row) -> str:
    heads = [row.cases[0].heads for row in (one, other)]
    return "the same heads" if heads[0] is not None and set(heads[0]) == set(heads[1] or ()) else ""


# rank and quality


def rank_correlations(found: Found, settings: Settings) -> list[Correlation]:
    """Over the heads ever selected, and over those selected more often than an average head that may be.

    Below that, heads are selected by chance, and their order says nothing. The interval draws groups of samples with
    replacement.
    """
    counts, eligible = (
        found.selected.sum(0),
        found.selected[0].size - settings.logic.filter.first_layer * found.shape[1],
    )
    chance = counts.sum() / max(1, eligible)
    return [
        _correlation("ever selected", found, counts > 0, settings),
        _correlation("selected more often than the average head", found, counts > chance, settings),
    ]


def _correlation(over: str, found: Found, heads: Bool[np.ndarray, "layers heads"], settings: Settings) -> Correlation:
    if heads.sum() < 3:
        return Correlation(over, int(heads.sum()), np.nan, np.nan, np.nan)
    parts = [folds[:, heads].astype(float) for folds in (found.selected, found.iou)]  # [folds, heads] each
    folds = len(parts[0])
    draws = np.random.default_rng((settings.seed, 5)).multinomial(folds, np.full(folds, 1 / folds), settings.resamples)
    weights = np.concatenate([np.ones((1, folds)), draws])  # all samples first
    with np.errstate(invalid="ignore"):
        rho = _spearman(weights @ parts[0], weights @ parts[1])
    low, high = np.nanquantile(rho[1:], [0.025, 0.975])
    return Correlation(over, int(heads.sum()), float(rho[0]), float(low), float(high))


def _spearman(a: Float[np.ndarray, "draws heads"], b: Float[np.ndarray, "draws heads"]) -> Float[np.ndarray, " draws"]:
    a, b = (rankdata(values, axis=1) for values in (a, b))
    a, b = (values - values.mean(1, keepdims=True) for values in (a, b))
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


# trials


def trial_counts(found: Found, settings: Settings) -> tuple[Int[np.ndarray, "trials layers heads"], int]:
    """How often each head is selected in each of `logic.select.trials` random halves of the samples, and the samples in
    each.
    """
    picks = found.picks["both"][found.finding][:, : settings.logic.select.top_n]
    half = max(1, len(picks) // 2)
    return selection_trials(picks, found.shape, settings.logic.select.trials, half, settings.seed), half


def agreements(counts: Int[np.ndarray, "trials layers heads"], top_k: int) -> list[Agreement]:
    """For several numbers of heads. Empty for one trial."""
    found = []
    for k in sorted({*OVERLAPS, top_k}):
        heads = [set(first_heads(trial, k)) for trial in counts]
        shares = [len(a & b) / k for a, b in combinations(heads, 2)]
        if shares and min(map(len, heads)) == k:
            found.append(Agreement(k, float(np.mean(shares)), min(shares), max(shares)))
    return found
