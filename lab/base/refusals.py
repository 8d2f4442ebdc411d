"""What Hydra and OmegaConf refuse, in one line that says what would be right; words that are close to a mistyped one.

refusal(error)                                    # "logic.top_k=x: a whole number is expected"
meant("bach", ["batch", "select"])                # "; did you mean batch?"
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from enum import EnumMeta
from typing import Any, get_type_hints

from hydra.errors import OverrideParseException
from omegaconf.errors import MissingMandatoryValue

from lab.base.errors import shown

NOISE = (
    "object_type",
    "full_key",
    "reference_type",
    "Set the environment",
    "Config search path",
    "set_struct",
    "To append",
)  # of Hydra's errors

# How OmegaConf refuses a word that is not among those of a key.
WRONG_WORD = re.compile(r"Invalid value '(?P<value>.*?)', expected one of \[(?P<words>.*?)\]\s+full_key: (?P<key>\S+)")
NULL = "is not Optional"  # how it refuses null for a key that has a value always
WRONG_KIND = re.compile(
    r"Value '(?P<value>.*?)' (?:of type '.*?' could not be converted to (?P<kind>\w+)|is not a valid (?P<valid>\w+))",
    re.DOTALL,
)
NO_PRESET = re.compile(
    r"Could not find '(?P<group>[\w/]+)/(?P<name>.*?)'\s+Available options in '.*?':\s(?P<there>.*)", re.DOTALL
)
KINDS = {
    "Integer": "a whole number is expected",
    "Float": "a number is expected",
    "Boolean": "choose from true, false",
    "bool": "choose from true, false",
}
TAKEN: dict[Any, str] = {int: KINDS["Integer"], float: KINDS["Float"]}
LISTS = "python pipeline.py --help lists the keys"
HELP = "it needs a value; python pipeline.py --help tells which"
CLOSE = 0.6  # of 1: how alike two words are that may have been mixed up
MOST = 1000  # characters of an error of Hydra, which may repeat what was given


def meant(word: str, words: Iterable[str]) -> str:
    """The words that are close to a mistyped one, as the end of a message; nothing if none is."""
    found = get_close_matches(word, list(words), 3, CLOSE)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def refusal(error: Exception) -> str:
    """What is wrong and what would be right, of an error of Hydra or OmegaConf and its cause."""
    for known in (wrong_word, _wrong_key, _wrong_kind, _no_preset):
        if told := known(error):
            return told
    if isinstance(error, OverrideParseException):
        return unread(error.override)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value: set {error.full_key}=..."
    lines = [line.strip() for text in (error, error.__cause__ or "") for line in str(text).splitlines()]
    kept = dict.fromkeys(line for line in lines if line and not line.startswith(NOISE) and "path=" not in line)
    text = shown(" ".join(kept), MOST)
    if "is not a ListConfig" in text:
        return f"{text.partition(' Invalid value')[0]}: expected a list, [A,B]"
    return text


def unread(option: str) -> str:
    """What would be right, of an option that Hydra cannot read."""
    if "=" not in option:
        return f"{shown(option)}: expected key=value, such as logic.top_k=5"
    return f"{shown(option)}: expected a number, a word, a list, [A,B], or a text in quotes, \"key='the text'\""


def wrong_word(error: Exception) -> str | None:
    """What is wrong and what would be right, if the error is about a word that is not among those of its key, or about
    null for a key that always has a value.
    """
    found = WRONG_WORD.search(f"{error}\n{error.__cause__ or ''}")
    if not found:
        return _wrong_null(error)
    hint = meant(found["value"], found["words"].split(", "))
    return f"{found['key']}={found['value']}: choose from {found['words']}{hint}"


def wrong_kind(error: BaseException) -> str | None:
    """What kind of value is expected, if the error is about one of another kind."""
    found = WRONG_KIND.search(str(error))
    return KINDS.get(found["kind"] or found["valid"]) if found else None


def _wrong_kind(error: Exception) -> str | None:
    cause = error.__cause__ or error
    key, text = getattr(cause, "full_key", None), str(cause)
    if not key:
        return None
    if "is not a subclass of" in text:
        return f"{key} is a group of keys, which are set one by one: {key}.KEY=... ({LISTS})"
    found, expected = WRONG_KIND.search(text), wrong_kind(cause)
    return f"{key}={shown(found['value'])}: {expected}" if found and expected else None


def _wrong_null(error: Exception) -> str | None:
    cause = error.__cause__ or error
    key, group = getattr(cause, "full_key", None), getattr(cause, "object_type", None)
    if NULL not in str(cause) or not key or not is_dataclass(group):
        return None
    kind = get_type_hints(group).get(key.rpartition(".")[2])
    words = ["true", "false"] if kind is bool else list(kind) if isinstance(kind, EnumMeta) else []
    choices = f"choose from {', '.join(map(str, words))}"
    return f"{key}=null: {choices if words else TAKEN.get(kind, HELP)}"


def _wrong_key(error: Exception) -> str | None:
    """Of a key that there is not, with those that are written much like it."""
    cause = error.__cause__ or error
    key, group = getattr(cause, "full_key", None), getattr(cause, "object_type", None)
    if not key or not is_dataclass(group) or not ("not in '" in str(cause) or "not in struct" in str(cause)):
        return None
    above, _, own = str(key).rpartition(".")
    names = {name: f"{above}.{name}" if above else name for name in _names(group)}
    close = get_close_matches(own, names, 3, CLOSE) or [name for name in names if name.rpartition(".")[2] == own]
    hint = f"; did you mean {' or '.join(names[name] for name in close)}?" if close else ""
    return f"{shown(key)}: there is no such key ({LISTS}){hint}"


def _names(group: Any, above: str = "") -> Iterator[str]:
    """The names of all keys of a group, those of the groups in it behind their names."""
    kinds = get_type_hints(group)
    for one in fields(group):
        yield above + one.name
        if is_dataclass(kinds[one.name]):
            yield from _names(kinds[one.name], f"{above}{one.name}.")


def _no_preset(error: Exception) -> str | None:
    found = NO_PRESET.search(str(error).partition("Config search path")[0])
    if not found:
        return None
    there = found["there"].split()
    hint = meant(found["name"], there) or ";"  # in front: there are many presets
    return f"{found['group']}={shown(found['name'])}: there is no such preset{hint} choose from {', '.join(there)}"
