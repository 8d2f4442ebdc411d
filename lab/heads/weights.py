"""How much each head counts where the maps of several are summed: `logic.weights`.

    weights = head_weights(smoothed, sets, logic)       # [sets, heads], 1 on average; None: all heads count the same

Pure functions over arrays. To add a rule, write its function and its line in `RULES`, and its word in `conf/schema.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from analyze import Head
from conf.schema import LogicConfig, Weights
from lab.base.errors import UserError, shown

Maps = Float[np.ndarray, "sets heads rows cols"]
FREQUENCY = "frequency"  # of a file's heads, in what `logic.heads` is resolved to


def head_weights(
    smoothed: Maps, sets: Sequence[Sequence[Head]], logic: LogicConfig
) -> Float32[np.ndarray, "sets heads"] | None:
    """What each head of each set counts, by its smoothed map and its name; the mean of a set is 1.

    The sets have one number of heads, which is not 0. None if all heads count the same.
    """
    if logic.weights == Weights.none:
        return None
    weights = RULES[logic.weights](smoothed, sets, logic)
    return (weights / weights.mean(1, keepdims=True)).astype(np.float32)


def _by_frequency(_smoothed: Maps, sets: Sequence[Sequence[Head]], logic: LogicConfig) -> Float[np.ndarray, "sets k"]:
    """How often each was selected; a set with a head of which that is not known, such as a control, is not weighted."""
    known = frequencies(logic.heads)
    weights = np.array([[known.get(head, np.nan) for head in heads] for heads in sets], float)
    told = np.isfinite(weights).all(1) & (weights > 0).any(1)
    return np.where(told[:, None], weights, 1.0)


def _by_entropy(smoothed: Maps, _sets: Sequence[Sequence[Head]], _logic: LogicConfig) -> Float[np.ndarray, "sets k"]:
    """1 / (1 + Shannon's entropy of the smoothed map, in nats), 0 for a map of zeros."""
    entropy = shannon_entropy(smoothed)
    weights = np.where(np.isfinite(entropy), 1 / (1 + entropy), 0.0)
    return np.where((weights > 0).any(1, keepdims=True), weights, 1.0)


RULES: dict[Weights, Callable[[Maps, Sequence[Sequence[Head]], LogicConfig], np.ndarray]] = {
    Weights.frequency: _by_frequency,
    Weights.inverse_entropy: _by_entropy,
}


def shannon_entropy(maps: Float[np.ndarray, "*maps rows cols"]) -> Float[np.ndarray, "*maps"]:
    """Of the shares of each map, in nats, float64: 0 for one cell; inf for a map of zeros."""
    total = maps.sum((-2, -1), dtype=float, keepdims=True)
    share = np.divide(maps, total, out=np.zeros(maps.shape), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(total[..., 0, 0] > 0, -(share * logs).sum((-2, -1)), np.inf)


# Frequencies


def frequencies(heads: Any) -> dict[Head, float]:
    """How often each head of a file was selected, 0 to 1; `heads` is `logic.heads` as it is once resolved."""
    known = heads.get(FREQUENCY) if isinstance(heads, Mapping) else None
    return {} if known is None else {(pair[0], pair[1]): n for pair, n in zip(heads["heads"], known, strict=True)}


def with_frequencies(counted: Mapping[Head, float]) -> dict[str, Any]:
    """A setting of `logic.heads` that tells how often each head was selected, as `frequencies` reads it."""
    return {"heads": [list(head) for head in counted], FREQUENCY: list(counted.values())}


def check_weights(logic: LogicConfig, known: Sequence[float] | None) -> None:
    """Raises UserError if the heads are to be weighted by frequencies that nothing tells."""
    if logic.weights == Weights.frequency and not any(known or ()):
        given = logic.heads["file"] if isinstance(logic.heads, Mapping) and "file" in logic.heads else logic.heads
        needs = f"logic.weights=frequency needs how often each head was selected, which logic.heads={shown(given)}"
        raise UserError(f"{needs} does not tell: give it the localization_heads.json that stage=select writes")
