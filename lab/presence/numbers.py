"""What the chosen heads tell of presence: a few numbers, each of which is higher when the thing is there.

    numbers = presence_numbers(maps, smoothed, "float32")     # {"look": 5.1, "agreement": 0.46, ...}

Pure functions over arrays. To add a number, write its function and its line in `NUMBERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# How near to 0 and 1 an attention sum is told, by the precision of its weights: what is nearer is rounding.
FINEST = {"float32": 1e-5, "float16": 1e-4, "bfloat16": 1e-3}
FLOOR = 1e-3  # of a head's share in a cell, as a part of an even share: one head alone cannot rule a cell out


@dataclass(frozen=True, eq=False)
class Looks:
    """What the heads of one sample look at. Float64."""

    sums: Float[np.ndarray, " heads"]  # attention to the image, 0 to 1, both excluded
    shares: Float[np.ndarray, "heads cells"]  # of each head's smoothed map, summing to 1
    heat: Float[np.ndarray, " cells"]  # shares of the summed smoothed maps


def presence_numbers(
    maps: Float[np.ndarray, "heads rows cols"], smoothed: Float[np.ndarray, "heads rows cols"], dtype: str
) -> dict[str, float]:
    """The numbers of `NUMBERS` for the heads' maps and the same smoothed.

    `dtype` is the precision of the weights. A head that does not look at the image at all counts as even.
    """
    finest = FINEST[dtype]
    sums = np.clip(maps.sum((1, 2), dtype=np.float64), finest, 1 - finest)
    cells = smoothed.reshape(len(smoothed), -1).astype(np.float64)
    looks = Looks(sums, _shares(cells), _shares(cells.sum(0, keepdims=True))[0])
    return {name: function(looks) for name, function in NUMBERS.items()}


def _shares(cells: Float[np.ndarray, "maps cells"]) -> Float[np.ndarray, "maps cells"]:
    sums = cells.sum(1, keepdims=True)
    return np.divide(cells, sums, out=np.full_like(cells, 1 / cells.shape[1]), where=sums > 0)


def concentration(shares: Float[np.ndarray, " cells"]) -> float:
    """1 minus the Shannon entropy of shares that sum to 1, as a part of the largest there is.

    0: even over all cells; 1: all in one cell, or there is but one.
    """
    if len(shares) < 2:
        return 1.0
    some = shares[shares > 0]
    return float(1 + (some * np.log(some)).sum() / np.log(len(shares)))


def look(looks: Looks) -> float:
    """The mean log-odds of the heads' attention sums: how surely they look at the image rather than at the text.

    Log-odds, since what tells is how little is left for the text: 0.999 against 0.99 as much as 0.5 against 0.09.
    """
    return float(np.mean(np.log(looks.sums / (1 - looks.sums))))


def focus(looks: Looks) -> float:
    """How concentrated the heat map is: minus its Shannon entropy, scaled to 0 to 1."""
    return concentration(looks.heat)


def agreement(looks: Looks) -> float:
    """How concentrated the geometric mean of the heads' maps is: high where all heads look at one and the same place.

    The sum of maps that look at different places is about as concentrated as each of them; their product is not.
    """
    floored = np.log(looks.shares + FLOOR / looks.shares.shape[1])
    return concentration(_shares(np.exp(floored.mean(0, keepdims=True)))[0])


def peak(looks: Looks) -> float:
    """The logarithm of the heat map's highest cell, in even shares."""
    return float(np.log(looks.heat.max() * len(looks.heat)))


NUMBERS: dict[str, Callable[[Looks], float]] = {"look": look, "focus": focus, "agreement": agreement, "peak": peak}
