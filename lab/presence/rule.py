"""From the numbers of a sample to the probability that the described thing is there: a monotone logistic rule.

rule = fit(numbers, present)        # weights, none of them negative
rule.probability(numbers_of_one)    # 0 to 1, at even odds
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

PENALTY = 0.01  # on the squared weights of standardised numbers, beside a mean loss in nats


@dataclass(frozen=True)
class Rule:
    """log-odds = intercept + sum of weight * number; no weight is negative, so that every number speaks for presence.

    The probability is that at even odds: of as many expressions about what is there as about what is not.
    """

    intercept: float
    weights: Mapping[str, float]  # by the name of the number

    def log_odds(self, numbers: Mapping[str, float]) -> float:
        """Of presence, for the numbers of one sample."""
        return self.intercept + sum(weight * numbers[name] for name, weight in self.weights.items())

    def probability(self, numbers: Mapping[str, float]) -> float:
        """0 to 1."""
        return float(_probability(self.log_odds(numbers)))


def _probability(log_odds: np.ndarray | float) -> np.ndarray:
    return (1 + np.tanh(np.asarray(log_odds) / 2)) / 2  # without overflow


def fit(
    numbers: Sequence[Mapping[str, float]], present: Bool[np.ndarray, " samples"], *, penalty: float = PENALTY
) -> Rule:
    """The rule with the least mean log-loss, both sides counting the same, plus the penalty. Deterministic.

    Raises ValueError unless there are samples of both sides.
    """
    from scipy.optimize import minimize  # a tenth of a second, which stages without a fit do without

    if present.all() or not present.any():
        raise ValueError("a rule needs samples of what is there and of what is not")
    names = list(numbers[0])
    values = np.array([[one[name] for name in names] for one in numbers], float)
    mean, scale = values.mean(0), values.std(0)
    told = np.divide(values - mean, scale, out=np.zeros_like(values), where=scale > 0)
    share = np.where(present, 0.5 / present.sum(), 0.5 / (~present).sum())
    sign = np.where(present, 1.0, -1.0)

    def loss(point: Float[np.ndarray, " weights_and_intercept"]) -> tuple[float, np.ndarray]:
        weights, margin = point[:-1], sign * (told @ point[:-1] + point[-1])
        value = (share * np.logaddexp(0, -margin)).sum() + penalty / 2 * (weights**2).sum()
        slope = -share * sign * _probability(-margin)
        return float(value), np.append(told.T @ slope + penalty * weights, slope.sum())

    bounds = [(0.0, None)] * len(names) + [(None, None)]
    point = minimize(loss, np.zeros(len(names) + 1), jac=True, bounds=bounds, method="L-BFGS-B").x
    weights = np.divide(point[:-1], scale, out=np.zeros(len(names)), where=scale > 0)
    intercept = float(point[-1] - weights @ mean)
    return Rule(intercept, dict(zip(names, weights.tolist(), strict=True)))
