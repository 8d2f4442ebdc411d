"""Expressions about a scene: what they say, which thing they mean, how they are worded, and what the answer is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.picturebook.things import COLOURS, KINDS, PATTERNS
from lab.picturebook.world import SIZES, Scene, Thing

ATTRIBUTES = ("colour", "kind", "pattern", "size")  # also the order in which an answer lists them
PLACES = ("left", "right", "top", "bottom")
RELATIONS = ("left of", "right of", "above", "below")
CATEGORIES: dict[str, float] = {
    "kind": 0.14,
    "colour": 0.07,
    "pattern": 0.04,
    "colour kind": 0.20,
    "pattern kind": 0.13,
    "colour pattern": 0.07,
    "size kind": 0.08,
    "place": 0.13,
    "relation": 0.10,
    "plural": 0.04,
}

# what people add and the picture cannot confirm
ASIDES = (
    "on the branch", "on the floor", "on the ground", "on the wall", "on a table", "in the grass", "in the air",
    "in the picture",
    "in the water", "in the garden", "wearing a collar", "wearing a scarf", "with a ribbon", "with long whiskers",
    "with a shadow",
    "looking at us", "looking away", "near the window", "near the door", "that you can see", "of the story",
    "from the book",
)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """The meaning of an expression: the attributes it names, then at most one of place and relation."""

    kind: str | None = None
    colour: str | None = None
    pattern: str | None = None
    size: str | None = None
    place: str | None = None
    relation: tuple[str, str] | None = None  # one of RELATIONS, kind of the anchor
    plural: bool = False

    @property
    def attributes(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ATTRIBUTES if getattr(self, name) is not None}


@dataclass(frozen=True)
class Expression:
    """A worded description of `targets` (indices into the scene's things) and the answer a good listener gives."""

    text: str
    answer: tuple[str, ...]
    targets: tuple[int, ...]
    category: str
    answers: tuple[tuple[str, ...], ...] = ()  # of every thing of the scene: the answer, were it the one that is meant


def referents(scene: Scene, description: Description) -> tuple[int, ...] | None:
    """The things that a description means, or None when a careful person could not be sure.

    A place means the outermost of the things named, by a clear margin and in that half of the picture. A relation
    needs exactly one anchor, a target clearly on the named side of it and every rival clearly on the other.
    """
    found = [i for i, t in enumerate(scene.things) if _has(t, description.attributes)]
    margin = 0.08 * scene.longer_side

    if description.place is not None:
        axis, sign = (
            (0 if description.place in ("left", "right") else 1),
            (1 if description.place in ("left", "top") else -1),
        )
        found.sort(key=lambda i: sign * scene.things[i].centre[axis])
        if not found:
            return None
        first = scene.things[found[0]].centre[axis]
        middle = (scene.width, scene.height)[axis] / 2
        if sign * (middle - first) < margin / 2:
            return None
        if len(found) > 1 and abs(scene.things[found[1]].centre[axis] - first) < margin:
            return None
        found = found[:1]

    if description.relation is not None:
        word, anchor_kind = description.relation
        anchors = [t for t in scene.things if t.kind == anchor_kind]
        if len(anchors) != 1:
            return None
        axis, sign = (0 if word in ("left of", "right of") else 1), (1 if word in ("left of", "above") else -1)
        related = []
        for i in found:
            ahead = sign * (anchors[0].centre[axis] - scene.things[i].centre[axis])
            aside = abs(anchors[0].centre[1 - axis] - scene.things[i].centre[1 - axis])
            if ahead > max(margin, 0.7 * aside):
                related.append(i)
            elif ahead > -margin / 2:
                return None
        found = related

    if description.plural:
        shared = {scene.things[i].colour for i in found}
        return tuple(found) if len(shared) == 1 else None
    return tuple(found) if len(found) == 1 else None


def _has(thing: Thing, attributes: dict[str, str]) -> bool:
    return all(getattr(thing, name) == value for name, value in attributes.items())


def answer(scene: Scene, description: Description, targets: Sequence[int]) -> tuple[str, ...]:
    """The attributes that the description leaves out, in a fixed order, then where the thing is if that is clear."""
    things = [scene.things[i] for i in targets]
    missing = [name for name in ATTRIBUTES if name not in description.attributes]
    if description.plural:
        return (things[0].colour,)
    words = [getattr(things[0], name) for name in missing][:3]
    if description.place is None and (place := _clear_place(scene, things[0])):
        words.append(place)
    return tuple(words)


def _clear_place(scene: Scene, thing: Thing) -> str | None:
    """The one word for where a thing is in the picture, or None when two words would do equally well."""
    x, y = thing.centre[0] / scene.width - 0.5, thing.centre[1] / scene.height - 0.5
    if max(abs(x), abs(y)) < 0.1:
        return "middle"
    if max(abs(x), abs(y)) < 0.18 or abs(abs(x) - abs(y)) < 0.06:
        return None
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def describe(
    scene: Scene, rng: np.random.Generator, *, category: str | None = None, asides: float = 0.12
) -> Expression | None:
    """A random unambiguous expression about a random thing, or None when the category does not fit the scene.

    Args:
        category: one of `CATEGORIES`; drawn by their weights if None.
        asides: share of expressions that carry harmless unknown words.
    """
    category = category or str(rng.choice(list(CATEGORIES), p=list(CATEGORIES.values())))
    meant = choose(scene, rng, category)
    if meant is None:
        return None
    description, targets = meant
    answers = tuple(answer(scene, description, [i]) for i in range(len(scene.things)))
    text = word(description, rng, asides)
    return Expression(text, answer(scene, description, targets), targets, category, answers)


def choose(scene: Scene, rng: np.random.Generator, category: str) -> tuple[Description, tuple[int, ...]] | None:
    """A random unambiguous description of a category and what it means, or None when the category does not fit."""
    for _ in range(10):
        target = int(rng.integers(len(scene.things)))
        description = _description(scene, scene.things[target], category, rng)
        targets = referents(scene, description)
        if targets is None or target not in targets or (_says_too_much(scene, description) and rng.random() < 0.7):
            continue
        return description, targets
    return None


def _says_too_much(scene: Scene, description: Description) -> bool:
    """Whether the kind alone would have done, so that nothing in the picture is a real distractor."""
    if description.kind is None or description.plural:
        return False
    kind_only = Description(kind=description.kind)
    return description != kind_only and referents(scene, kind_only) is not None


def _description(scene: Scene, thing: Thing, category: str, rng: np.random.Generator) -> Description:
    if category == "plural":
        return Description(kind=thing.kind, plural=True)
    if category == "place":
        colour = thing.colour if rng.random() < 0.25 else None
        return Description(kind=thing.kind, colour=colour, place=str(rng.choice(PLACES)))
    if category == "relation":
        anchor = scene.things[rng.integers(len(scene.things))]
        colour = thing.colour if rng.random() < 0.25 else None
        return Description(kind=thing.kind, colour=colour, relation=(str(rng.choice(RELATIONS)), anchor.kind))
    named = {name: getattr(thing, name) if name in category.split() else None for name in ATTRIBUTES}
    return Description(named["kind"], named["colour"], named["pattern"], named["size"])


def word(description: Description, rng: np.random.Generator, asides: float = 0.0) -> str:
    """Puts a description into words: several word orders, articles or none, sometimes an aside or a final period."""
    noun = description.kind or str(rng.choice(["thing", "one"]))
    adjectives = [w for w in (description.size, description.pattern, description.colour) if w is not None]
    article = str(rng.choice(["the", "a", ""], p=[0.5, 0.15, 0.35]))
    where = _where(description, rng)

    style = rng.random()
    if description.plural:
        text = f"{'the' if article == 'the' else ''} {plural(noun)}"
    elif style < 0.6 or not adjectives:  # the small red bird on the left
        text = f"{article} {' '.join(adjectives)} {noun} {where}"
    elif style < 0.8:  # the bird on the left that is red
        tail = [f"that is {' and '.join(rng.permutation(adjectives))}", where]
        text = f"{article} {noun} {' '.join(rng.permutation(tail))}"
    else:  # bird left red
        telegraph = [*adjectives, *([description.kind] if description.kind else []), *([where] if where else [])]
        text = " ".join(rng.permutation(telegraph))

    if rng.random() < asides:
        text = f"{text} {_aside(rng)}"
    text = " ".join(text.split())
    if text.startswith("a ") and text[2] in "aeiou":
        text = "an " + text[2:]
    return text + ("." if rng.random() < 0.35 else "")


def _where(description: Description, rng: np.random.Generator) -> str:
    if description.place is not None:
        long = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
        return long[description.place] if rng.random() < 0.7 else description.place
    if description.relation is not None:
        relation, anchor = description.relation
        if relation == "below" and rng.random() < 0.3:
            relation = "under"
        prefix = "to the " if relation.endswith(" of") and rng.random() < 0.3 else ""
        return f"{prefix}{relation} the {anchor}"
    return ""


def _aside(rng: np.random.Generator) -> str:
    if rng.random() < 0.6:
        return str(rng.choice(ASIDES))
    letters = "".join(rng.choice(list("abcdefghijklmnoprstuvwyz"), size=rng.integers(4, 8)))
    return f"{rng.choice(['on the', 'with a', 'wearing a', 'in the', 'near a'])} {letters}"


def plural(kind: str) -> str:
    """The plural of a kind."""
    return {"fish": "fish", "butterfly": "butterflies"}.get(kind, kind + "s")


def lexicon() -> list[str]:
    """Every word that an expression or an answer can hold, sorted; the tokenizer has one piece for each."""
    words = {*KINDS, *(plural(k) for k in KINDS), *COLOURS, *PATTERNS, *SIZES, *PLACES, "middle"}
    words.update(" ".join((*RELATIONS, *ASIDES)).split())
    words.update(
        [
            "the",
            "a",
            "an",
            "thing",
            "one",
            "that",
            "is",
            "and",
            "on",
            "at",
            "in",
            "to",
            "of",
            "under",
            "with",
            "near",
            "wearing",
        ]
    )
    return sorted(words)
