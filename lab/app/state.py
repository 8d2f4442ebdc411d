"""What a visitor has chosen, as a link and as the command line that does the same.

    state = State("bird.png", (Side("birds."),), {"logic.top_k": 2})
    as_query(state)                         # "picture=bird.png&expression=birds.&logic.top_k=2"
    of_query({"picture": "bird.png", ...}, {"bird.png": "a bird"})  # the same again
    command(state, 0, "a.jpg", ())          # python pipeline.py data.image_file=a.jpg data.query=birds. logic.top_k=2

All functions are pure. What a link says is checked as the command line is; a wrong one raises UserError.
"""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any
from urllib.parse import urlencode

from analyze import Head
from conf.schema import Choice, LogicConfig, keys
from lab.base.errors import UserError, shown

OWN, RANKED = "own", "ranked"  # heads: as the model was loaded with; ranked for this picture
SIDES = 2  # stand side by side at most
MOST_HEADS = 64  # that a visitor can choose
LONGEST = 300  # letters of an expression
HEAD = re.compile(r"L(\d{1,4})H(\d{1,4})")
COMMAND, DEFAULT = ("python", "pipeline.py"), ("model=picturebook", "device=auto")


@dataclass(frozen=True)
class Rule:
    """A key of the rules that the page shows: what it is called there, and from where to where a slider goes.

    `only` names another key and the value of it with which this one matters.
    """

    label: str
    low: float = 0.0
    high: float = 1.0
    step: float = 1.0
    only: tuple[str, str] | None = None


# To show another key of `logic`, add its line: words become a choice, numbers a slider.
RULES: dict[str, Rule] = {
    "logic.top_k": Rule("Heads (top k)", 1, 16),
    "logic.weights": Rule("Weights of the heads"),
    "logic.smoothing.power": Rule("Evening (power of the attention)", 0.1, 1, 0.1),
    "logic.smoothing.sigma": Rule("Smoothing (sigma, cells)", 0, 4, 0.1),
    "logic.threshold.method": Rule("Threshold of the attention sum"),
    "logic.threshold.value": Rule("Its value", 0, 1, 0.01, only=("logic.threshold.method", "value")),
    "logic.mask.method": Rule("Mask: where to cut"),
    **{
        f"logic.mask.{name}": Rule(f"Its {text}", 0.05, 0.99, 0.01, only=("logic.mask.method", name))
        for name, text in (("quantile", "quantile"), ("peak", "share of the peak"), ("mass", "share of the mass"))
    },
    "logic.mask.cuts": Rule("Finer cells", 1, 16),
    "logic.mask.power": Rule("Sharpening (power of the heat map)", 1, 4, 0.25),
    "logic.mask.resolution": Rule("Cut on"),
    "logic.box.region": Rule("Region"),
}
FIELDS = {name: one for name, one in keys() if name in RULES}


@dataclass(frozen=True)
class Side:
    """What is asked, and which heads answer: `OWN`, `RANKED`, or these."""

    expression: str
    heads: str | tuple[Head, ...] = OWN


@dataclass(frozen=True)
class State:
    """Everything that decides what the page shows."""

    picture: str  # the name of an example, or the key of an upload
    sides: tuple[Side, ...]  # one, or two to compare
    rules: Mapping[str, Any] = field(default_factory=dict)  # those that differ from the model's

    @property
    def unasked(self) -> "State":
        """The same picture, heads and rules, before anything was asked."""
        return replace(self, sides=tuple(replace(side, expression="") for side in self.sides))

    @property
    def is_asked(self) -> bool:
        """Whether there is something that the page can show."""
        return all(side.expression for side in self.sides)


# Rules


def words(key: str) -> list[str] | None:
    """What a key can be, if it is one of a few words."""
    kind = FIELDS[key].type
    return [str(one) for one in kind] if isinstance(kind, type) and issubclass(kind, Choice) else None


def matters(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a key changes anything while the others have these values."""
    only = RULES[key].only
    return only is None or values.get(only[0]) == only[1]


def value_of(logic: LogicConfig, key: str) -> Any:
    """The value of a key as the page shows it: a number, or a word."""
    value = attrgetter(key.removeprefix("logic."))(logic)
    return str(value) if isinstance(value, Choice) else value


def differing(logic: LogicConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are not the model's own."""
    return {key: value for key, value in values.items() if not _same(value, value_of(logic, key))}


def _same(value: Any, other: Any) -> bool:
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return math.isclose(value, other, abs_tol=1e-9) if numbers else value == other


def logic_of(logic: LogicConfig, state: State, side: int) -> LogicConfig:
    """The model's rules with what was chosen on one side. Raises UserError as the command line does."""
    for key, value in state.rules.items():
        logic = _with(logic, key.removeprefix("logic.").split("."), _typed(key, value))
    heads = state.sides[side].heads
    if heads == OWN:
        return logic
    return replace(logic, heads=None if heads == RANKED else [list(head) for head in heads])


def _with(group: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    return replace(group, **{name: _with(getattr(group, name), rest, value) if rest else value})


def _typed(key: str, value: Any) -> Any:
    """A value of the page or of a link as the key has it. Raises UserError if it is none."""
    if words(key) is not None:
        return str(value)
    whole = FIELDS[key].type is int
    try:
        number = float(value)
        if whole and not number.is_integer():
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"{key}={shown(value)}: expected a {'whole ' if whole else ''}number") from None
    return int(number) if whole else number


# Links


def as_query(state: State) -> str:
    """The part of a link behind the `?`."""
    pairs = [("picture", state.picture)]
    for number, side in enumerate(state.sides):
        pairs += [(_numbered("expression", number), side.expression)]
        pairs += [] if side.heads == OWN else [(_numbered("heads", number), heads_text(side.heads))]
    return urlencode([*pairs, *((key, _plain(value)) for key, value in state.rules.items())])


def of_query(query: Mapping[str, str], examples: Mapping[str, str]) -> State:
    """The state that a link asks for. Raises UserError for what no page ever linked to.

    `examples`: picture -> what is asked of it. A link without a picture means the first one; one without an expression
    asks an example for its own.
    """
    if unknown := [key for key in query if key.startswith("logic.") and key not in RULES]:
        raise UserError(f"{shown(unknown[0])}: the page has no such rule; choose from {', '.join(RULES)}")
    rules = {key: _typed(key, value) for key, value in query.items() if key in RULES}
    kept = kept_of_query(query, examples)
    heads = [heads_of(query.get(_numbered("heads", number), OWN)) for number in range(len(kept.sides))]
    sides = (Side(checked(side.expression), own) for side, own in zip(kept.sides, heads, strict=True))
    return State(kept.picture, tuple(sides), rules)


def kept_of_query(query: Mapping[str, str], examples: Mapping[str, str]) -> State:
    """Of a link that cannot be followed: its picture and what it asks for, as it stands, otherwise as `of_query`."""
    picture = query.get("picture") or next(iter(examples))
    first, second = (query.get(_numbered("expression", number), "") for number in range(SIDES))
    asked = (first or examples.get(picture, ""), second)
    return State(picture, tuple(Side(text) for text in asked[: 1 + bool(second)]))


def checked(expression: str) -> str:
    """Without the space around it. Raises UserError if nothing is left, or if it is too long."""
    text = " ".join(expression.split())
    if not text:
        raise UserError("Type what to look for, for example: the bird on the branch")
    if len(text) > LONGEST:
        raise UserError(f"The expression has {len(text)} letters; write at most {LONGEST}")
    return text


def heads_text(heads: str | Sequence[Head]) -> str:
    """`L1H5,L2H4`; a word stays as it is."""
    return heads if isinstance(heads, str) else ",".join(f"L{layer}H{head}" for layer, head in heads)


def heads_of(text: str) -> str | tuple[Head, ...]:
    """The same back. Raises UserError if it is neither a word nor heads."""
    if text in (OWN, RANKED):
        return text
    found = [HEAD.fullmatch(part) for part in text.split(",")]
    heads = tuple((int(one[1]), int(one[2])) for one in found if one)
    if len(heads) < len(found) or len(set(heads)) < len(heads) or len(heads) > MOST_HEADS:
        expected = f"expected {OWN}, {RANKED}, or 1 to {MOST_HEADS} heads as L1H5,L2H4, each once"
        raise UserError(f"heads={shown(text)}: {expected}")
    return heads


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name}{number + 1}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# Command lines


def command(state: State, side: int, file: str, options: Sequence[str]) -> str:
    """What to type for the same result in files. `options` are those that the page's model was loaded with."""
    here = state.sides[side]
    heads = [] if here.heads == OWN else [f"logic.heads={_heads_option(here.heads)}"]
    rules = [f"{key}={_plain(value)}" for key, value in state.rules.items()]
    asked = [f"data.image_file={file}", f"data.query={here.expression}"]
    return shlex.join([*COMMAND, *(one for one in options if one not in DEFAULT), *asked, *rules, *heads])


def _heads_option(heads: str | Sequence[Head]) -> str:
    return "null" if isinstance(heads, str) else "[" + ",".join(f"[{layer},{head}]" for layer, head in heads) + "]"
