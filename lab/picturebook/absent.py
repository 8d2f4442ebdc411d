"""Expressions about what is not in a scene, each beside its twin: the same words, but for what names the thing.

A model that is asked about both can tell them apart by the picture alone: nothing in the wording gives the absent one
away. There are seven kinds of absence, from nothing alike to everything there but never together.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from lab.base.errors import UserError
from lab.picturebook.expressions import CATEGORIES, Description, Expression, answer, choose, word
from lab.picturebook.things import COLOURS, KINDS, PATTERNS
from lab.picturebook.world import Scene

TRIES = 40  # at a description that a kind of absence can be made of
LETTERS = list("abcdefghijklmnoprstuvwyz")


@dataclass(frozen=True)
class Absence:
    """A kind of absence: what it says, in which categories it can be worded, and how a description becomes absent."""

    text: str
    names: frozenset[str]  # what a description must name
    change: Callable[[Scene, Description, np.random.Generator], Description | None]  # None: the scene allows none
    not_names: frozenset[str] = frozenset()  # and must not


def _one_of(values: Sequence[str], rng: np.random.Generator) -> str | None:
    return str(rng.choice(values)) if values else None


def _all_but(known: Collection[str], there: Collection[str]) -> list[str]:
    return [value for value in known if value not in there]


def _seen(scene: Scene, name: str, kind: str | None = None) -> list[str]:
    """The values of an attribute among all things, or among those of a kind, each once."""
    things = [thing for thing in scene.things if kind in (None, thing.kind)]
    return list(dict.fromkeys(map(attrgetter(name), things)))


def _other_kind(scene: Scene, said: Description, rng: np.random.Generator) -> Description | None:
    kind = _one_of(_all_but(KINDS, _seen(scene, "kind")), rng)
    return replace(said, kind=kind) if kind else None


def _other_colour(scene: Scene, said: Description, rng: np.random.Generator) -> Description | None:
    colour = _one_of(_all_but(COLOURS, _seen(scene, "colour")), rng)
    return replace(said, colour=colour) if colour else None


def _neither(scene: Scene, said: Description, rng: np.random.Generator) -> Description | None:
    changed = _other_kind(scene, said, rng)
    return _other_colour(scene, changed, rng) if changed else None


def _apart(scene: Scene, said: Description, rng: np.random.Generator) -> Description | None:
    colour = _one_of(_all_but(_seen(scene, "colour"), _seen(scene, "colour", said.kind)), rng)
    return replace(said, colour=colour) if colour else None


def _other_pattern(scene: Scene, said: Description, rng: np.random.Generator) -> Description | None:
    pattern = _one_of(_all_but(PATTERNS, _seen(scene, "pattern", said.kind)), rng)
    return replace(said, pattern=pattern) if pattern else None


def _no_word(_scene: Scene, said: Description, rng: np.random.Generator) -> Description:
    return replace(said, kind="".join(rng.choice(LETTERS, size=rng.integers(4, 8))))


_KIND, _BOTH = frozenset({"kind"}), frozenset({"kind", "colour"})

ABSENCES: dict[str, Absence] = {
    "kind": Absence("a kind that is not there", _KIND, _other_kind, frozenset({"colour"})),
    "neither": Absence("neither the kind nor the colour is there", _BOTH, _neither),
    "same_colour": Absence("something in this colour is there, but not this kind", _BOTH, _other_kind),
    "colour": Absence("the kind is there, the colour is not", _BOTH, _other_colour),
    "apart": Absence("the kind is there and the colour is there, but never together", _BOTH, _apart),
    "pattern": Absence("the kind is there, but not in this pattern", frozenset({"kind", "pattern"}), _other_pattern),
    "word": Absence("the kind is a word that the model has never read", _KIND, _no_word),
}


def chosen_absences(named: str | Sequence[str]) -> tuple[str, ...]:
    """`all`, one kind of absence, or several. Raises UserError naming those that do not exist."""
    names = tuple(ABSENCES) if named == "all" else (named,) if isinstance(named, str) else tuple(named)
    unknown = [name for name in names if name not in ABSENCES]
    if unknown or not names:
        found = ", ".join(map(str, unknown)) or "nothing"
        raise UserError(f"absent={found}: choose from all, {', '.join(ABSENCES)}, or [{','.join(list(ABSENCES)[:2])}]")
    return names


def twins(
    scene: Scene, absence: str, rng: np.random.Generator, *, asides: float = 0.12
) -> tuple[Expression, Expression] | None:
    """An expression about something in the scene, and the same about what is not there; None where none fits.

    The categories come in their shares as far as they can word the absence and the scene allows.
    """
    one = ABSENCES[absence]
    for _ in range(TRIES):
        category = str(rng.choice(list(CATEGORIES), p=list(CATEGORIES.values())))
        meant = choose(scene, rng, category)
        if meant is None or not one.names <= set(meant[0].attributes) or one.not_names & set(meant[0].attributes):
            continue
        there, targets = meant
        gone = one.change(scene, there, rng)
        if gone is not None:
            wording = int(rng.integers(2**32))  # the same draws for both
            texts = [word(said, np.random.default_rng(wording), asides) for said in (there, gone)]
            answers = tuple(answer(scene, there, [i]) for i in range(len(scene.things)))
            found = Expression(texts[0], answer(scene, there, targets), targets, category, answers)
            return found, Expression(texts[1], (), (), category)
    return None
