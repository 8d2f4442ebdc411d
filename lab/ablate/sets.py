"""The sets of heads that are changed: the chosen ones, parts of them, and controls.

| kind | sets |
|---|---|
| `chosen` | the heads of `logic.heads` or, if it fixes none, the ones selected most often here |
| `alone` | each of them by itself |
| `best` | the 1, 2, 3, ... heads selected most often here |
| `random` | as many other heads of the same layers: every set if there are few, else `ablate.draws` of them |
| `any` | as many other heads of any layers |
| `matched` | for each chosen head one of the three whose mean attention sums are nearest to its own |
| `others` | all other heads of these layers |
| `all` | all heads; where all but a set are changed, `none` instead: no head is spared |
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from analyze import Head
from lab.base.errors import UserError
from lab.measure.controls import sets_of_same_layers

log = logging.getLogger(__name__)

UNTOUCHED, CHOSEN = "untouched", "chosen"
KINDS = ("alone", "best", "random", "any", "matched", "others", "all")  # beside the chosen
DRAWN = ("random", "any", "matched")  # several sets each, one of which is as good as another
NEAR = 3  # heads that a matched one is drawn from
TRIES = 20  # at a set that was not drawn yet, for each that is wanted


@dataclass(frozen=True)
class HeadSet:
    """Some heads, and what they are."""

    name: str
    heads: tuple[Head, ...]

    def mask(self, shape: tuple[int, int], *, others: bool) -> Bool[np.ndarray, "layers heads"] | None:
        """Which heads are changed; None if the set says nothing where all `others` are."""
        if self.name in (("all",) if others else ("none",)):
            return None
        mask = np.zeros(shape, bool)
        for head in self.heads:
            mask[head] = True
        return ~mask if others and self.name != UNTOUCHED else mask


def head_sets(
    kinds: Sequence[str],
    chosen: Sequence[Head],
    ranked: Sequence[Head],
    sums: Float[np.ndarray, "layers heads"],
    *,
    best: Sequence[int],
    draws: int,
    rng: np.random.Generator,
) -> tuple[list[HeadSet], str]:
    """The untouched model, the chosen heads, and the sets of every kind, in the order of `KINDS`; and in words which
    the random sets are.

    `ranked` holds all heads, the one selected most often first; `sums` their attention sums.
    """
    every = list(np.ndindex(*sums.shape))
    if "best" in kinds and (more := [k for k in best if k > len(ranked)]):
        log.warning("left out: the best %s heads (ablate.best), for there are %d", more, len(ranked))
    random = sets_of_same_layers(chosen, sums.shape[1], draws, rng, most=draws)
    drawn: dict[str, Callable[[], tuple[Head, ...]]] = {
        "any": lambda: _any(every, chosen, rng),
        "matched": lambda: _matched(every, chosen, sums, rng),
    }
    layers = {layer for layer, _ in chosen}
    made = {
        "alone": [HeadSet(head_name(head), (head,)) for head in chosen] if len(chosen) > 1 else [],
        "best": [HeadSet(f"best {k}", tuple(ranked[:k])) for k in best if k <= len(ranked)],
        "random": [HeadSet("random", heads) for heads in random.sets],
        **{name: [HeadSet(name, heads) for heads in _distinct(one, draws)] for name, one in drawn.items()},
        "others": [HeadSet("others", tuple(h for h in every if h[0] in layers and h not in chosen))],
        "all": [HeadSet("all", tuple(every)), HeadSet("none", ())],
    }
    sets = [one for kind in KINDS if kind in kinds for one in made[kind] if one.heads or one.name == "none"]
    note = random.note if "random" in kinds else ""
    return [HeadSet(UNTOUCHED, ()), HeadSet(CHOSEN, tuple(chosen)), *sets], note


def head_name(head: Head) -> str:
    """`L14 H24`"""
    return f"L{head[0]} H{head[1]}"


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises UserError naming those that do not exist."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"ablate.sets names {', '.join(unknown)}; choose from {', '.join(KINDS)}")


def _any(every: Sequence[Head], chosen: Sequence[Head], rng: np.random.Generator) -> tuple[Head, ...]:
    free = [head for head in every if head not in chosen]
    picks = rng.choice(len(free), min(len(chosen), len(free)), replace=False)
    return tuple(free[i] for i in sorted(picks.tolist()))


def _matched(
    every: Sequence[Head], chosen: Sequence[Head], sums: Float[np.ndarray, "layers heads"], rng: np.random.Generator
) -> tuple[Head, ...]:
    picked: list[Head] = []
    for head in chosen:
        free = [one for one in every if one not in chosen and one not in picked]
        near = sorted(free, key=lambda one: abs(sums[one] - sums[head]))[:NEAR]
        if near:
            picked.append(near[int(rng.integers(len(near)))])
    return tuple(sorted(picked))


def _distinct(draw: Callable[[], tuple[Head, ...]], number: int) -> list[tuple[Head, ...]]:
    """So many different sets or, if there are not enough, those that were found."""
    found: dict[tuple[Head, ...], None] = {}
    for _ in range(TRIES * number):
        if len(found) == number:
            break
        found[draw()] = None
    return list(found)
