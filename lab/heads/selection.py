"""Over many samples: how often each head is among the best of a sample, and in how many random draws of them.

Of each sample only its best (layer, head) pairs stay in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from analyze import Head, selection_trials
from conf.schema import SelectConfig
from lab.base.errors import UserError


@dataclass(frozen=True, eq=False)
class Picks:
    """The best heads of every sample, and the model that they belong to as far as the files tell."""

    heads: Int[np.ndarray, "samples top_n 2"]  # (layer, head), best first; -1 where a sample has fewer
    shape: tuple[int, int] | None = None  # (layers, heads) of the model
    model: str | None = None
    unreadable: Mapping[Path, str] = field(default_factory=dict)  # files that were left out, and why

    @property
    def seen_shape(self) -> tuple[int, int]:
        """The model's shape or, where it is not known, the smallest that holds every head."""
        layers, heads = self.shape or (self.heads.reshape(-1, 2).max(0) + 1).tolist()
        return layers, heads


@dataclass(frozen=True, eq=False)
class Selection:
    """How often each head is selected."""

    count: Int[np.ndarray, "layers heads"]  # of all samples
    frequency: Float[np.ndarray, "layers heads"]  # share of the samples of a trial, mean over the trials
    std: Float[np.ndarray, "layers heads"]  # its standard deviation over the trials (0 for one trial)
    samples: int  # in all
    trials: int
    samples_per_trial: int

    def ranked(self) -> list[Head]:
        """Every head, the most frequent first; ties by count, then in (layer, head) order."""
        order = np.lexsort((-self.count.ravel(), -self.frequency.ravel()))
        return [divmod(index, self.count.shape[1]) for index in order.tolist()]


# counting


def count_selections(picks: Picks, config: SelectConfig, seed: int) -> Selection:
    """How often each head is among the best, over random subsets of the samples. Raises UserError if none ever is."""
    if not np.any(picks.heads >= 0):
        raise UserError("no head was selected in any sample: loosen logic.threshold, logic.entropy or logic.filter")
    total = len(picks.heads)
    trials, samples = (1, total) if config.samples is None else (config.trials, config.samples)
    shape = picks.seen_shape
    share = selection_trials(picks.heads, shape, trials, samples, seed) / samples
    count = selection_trials(picks.heads, shape, 1, total, seed)[0]
    return Selection(count, share.mean(0), share.std(0), total, trials, samples)
