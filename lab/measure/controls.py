"""The rows of stage=evaluate.

The chosen heads, and controls that tell whether it is these heads that make the boxes good.

Each control is blind to the truth but for the oracle:

    random        other heads of the same layers: every set if there are few, else `evaluate.draws` of them
    all           all heads of the model together
    sum_only      the heads with the largest attention sums on average: the first criterion alone
    entropy_only  the heads selected most often by low entropy, whatever they look at: the second criterion alone
    greedy        picked anew for each sample by both criteria
    oracle        the head, and the `top_k` heads, whose own boxes are best by the truth
    centre        no heads: a box in the middle, half as wide and as high as the image
    said          no heads: the first box that the model wrote in its answer (model.use_generate=true)

Most are known before any record is read. The others wait for what all records tell.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain, combinations, product

import numpy as np

from analyze import Head, most_selected
from conf.schema import LogicConfig
from lab.base.errors import UserError
from lab.measure.glance import allowed
from lab.measure.intervals import Estimate
from lab.measure.overview import Overview
from lab.measure.sets import HeadSet

log = logging.getLogger(__name__)

MOST_SETS = 128  # of random heads, that are all measured instead of drawn
RANDOM = "random, same layers"  # the row that the sets of random heads become


class PerSample(Enum):
    """What a row takes anew from each sample."""

    RANKED = "the best heads of its own ranking"
    MIDDLE = "no heads, but the box in the middle"
    SAID = "no heads, but the box that the model wrote itself"


Rows = dict[str, HeadSet | PerSample]  # name of a row, and its heads


@dataclass(frozen=True)
class Setting:
    """What a control may know of the run."""

    shape: tuple[int, int]  # (layers, heads) of the model
    logic: LogicConfig
    fixed: list[Head] | None  # the chosen heads, if they are the same for all samples
    draws: int = 20  # of random heads
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


def chosen(on: Setting) -> Rows:
    """The row of the chosen heads."""
    return {"chosen": PerSample.RANKED if on.fixed is None else tuple(on.fixed)}


def _random(on: Setting) -> Rows:
    if on.fixed is None:
        log.warning("no random control: logic.heads fixes no heads whose layers they could share")
        return {}
    sets = sets_of_same_layers(on.fixed, on.shape[1], on.draws, on.rng).sets
    return {f"random {i}": heads for i, heads in enumerate(sets)}


def _all(on: Setting) -> Rows:
    return {"all heads": tuple(np.ndindex(*on.shape))}


def _greedy(on: Setting) -> Rows:
    return {"picked per sample": PerSample.RANKED}


def _centre(on: Setting) -> Rows:
    return {"centre box": PerSample.MIDDLE}


def _said(on: Setting) -> Rows:
    return {"what the model says itself": PerSample.SAID}


def _sum_only(on: Setting, view: Overview) -> Rows:
    return {"attention sum only": tuple(most_selected(allowed(view.sums, on.logic), on.logic.top_k))}


def _entropy_only(on: Setting, view: Overview) -> Rows:
    return {"entropy only": tuple(most_selected(view.by_entropy, on.logic.top_k))}


def _oracle(on: Setting, view: Overview) -> Rows:
    k = on.logic.top_k
    order = np.argsort(-view.head_iou, axis=None, kind="stable")[:k].tolist()
    best = tuple(divmod(index, on.shape[1]) for index in order)
    return {"oracle, best head": best[:1], f"oracle, best {k} heads": best}


KNOWN: dict[str, Callable[[Setting], Rows]] = {
    "random": _random,
    "all": _all,
    "greedy": _greedy,
    "centre": _centre,
    "said": _said,
}
AFTER_ALL: dict[str, Callable[[Setting, Overview], Rows]] = {
    "sum_only": _sum_only,
    "entropy_only": _entropy_only,
    "oracle": _oracle,
}


def check_controls(names: Sequence[str]) -> None:
    """Raises UserError naming those that do not exist."""
    choices = (*KNOWN, *AFTER_ALL)
    unknown = [name for name in names if name not in choices]
    if unknown:
        raise UserError(f"evaluate.controls names {', '.join(unknown)}; choose from {', '.join(choices)}")


def merge_draws(rows: dict[str, list[Estimate]]) -> dict[str, list[Estimate]]:
    """Puts the mean of the random draws, with the range that holds 95 % of them, in the place of the draws."""
    draws = [estimates for name, estimates in rows.items() if is_draw(name)]
    merged: dict[str, list[Estimate]] = {}
    for name, estimates in rows.items():
        if not is_draw(name):
            merged[name] = estimates
        elif RANDOM not in merged:
            merged[RANDOM] = [_mean_of(same) for same in zip(*draws, strict=True)]
    return merged


def is_draw(row: str) -> bool:
    """Whether a row is one of the sets of random heads."""
    return row.startswith("random ")


def _mean_of(draws: Iterable[Estimate]) -> Estimate:
    found = list(draws)
    values = [one.value for one in found]
    low, high = np.quantile(values, [0.025, 0.975])
    return replace(found[0], value=float(np.mean(values)), low=float(low), high=float(high))


@dataclass(frozen=True)
class RandomSets:
    """Sets of heads that share their layers with given heads and, if these leave enough, none of the heads."""

    sets: tuple[tuple[Head, ...], ...]
    total: int  # there are so many in all
    apart: bool = True  # whether none of the given heads is among them

    @property
    def all(self) -> bool:
        """Whether these are all that there are."""
        return len(self.sets) == self.total

    @property
    def note(self) -> str:
        """What they are, in words."""
        of = "other heads of the same layers"
        if not self.apart:
            of = "heads of the same layers, among them chosen ones, since a layer has too few others"
        if self.all:
            return f"all {self.total} sets of {of}"
        return f"{len(self.sets)} of the {self.total:,} sets of {of}, drawn at random"


def sets_of_same_layers(
    heads: Sequence[Head], num_heads: int, draws: int, rng: np.random.Generator, most: int = MOST_SETS
) -> RandomSets:
    """Every set of as many other heads of the same layers if there are at most `most`, else `draws` of them.

    No head is among `heads` unless a layer has too few others; then all of that layer's heads may be.
    """
    wanted = {layer: sum(head[0] == layer for head in heads) for layer in dict.fromkeys(head[0] for head in heads)}
    free = {}
    for layer, number in wanted.items():
        others = [(layer, head) for head in range(num_heads) if (layer, head) not in heads]
        free[layer] = others if len(others) >= number else [(layer, head) for head in range(num_heads)]
    apart = not any(head in heads for others in free.values() for head in others)
    total = math.prod(math.comb(len(free[layer]), number) for layer, number in wanted.items())
    if total <= most:
        parts = product(*(combinations(free[layer], number) for layer, number in wanted.items()))
        return RandomSets(tuple(tuple(chain.from_iterable(part)) for part in parts), total, apart)
    drawn: dict[tuple[Head, ...], None] = {}  # a set that is drawn twice counts once
    while len(drawn) < min(draws, total):
        picks = [sorted(rng.choice(len(free[layer]), number, replace=False)) for layer, number in wanted.items()]
        drawn[tuple(free[layer][i] for layer, pick in zip(wanted, picks, strict=True) for i in pick)] = None
    return RandomSets(tuple(drawn), total, apart)
