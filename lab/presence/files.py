"""Calibrations: the rule of a set of heads, in presence.json, read and checked, and the one that fits the heads in use.

    python pipeline.py stage=calibrate data.data_file=samples.jsonl     # writes one

A calibration belongs to its heads, its model and the way of reading a record; for others there is none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analyze import Head
from conf.schema import Config, LogicConfig, ModelConfig, SmoothingConfig
from lab.base.checkpoints import same_model
from lab.base.errors import UserError, in_words
from lab.base.files import check_pointer, read_json
from lab.base.numbers import text_or_none, whole
from lab.base.paths import exists, find
from lab.presence.numbers import NUMBERS
from lab.presence.rule import Rule

NAME = "presence.json"
KEY = "logic.presence.file"
HOW = "python pipeline.py stage=calibrate data.data_file=FILE"


@dataclass(frozen=True)
class Calibration:
    """The rule of some heads, and how their maps are read for it."""

    rule: Rule
    heads: tuple[Head, ...]
    smoothing: SmoothingConfig
    read: Mapping[str, Any]  # the keys of `logic` that say what counts of a record, and their values
    model: str | None  # that it was calibrated on
    tokens: str = "last"  # the `model.read` of its records

    @classmethod
    def of(cls, rule: Rule, heads: Sequence[Head], logic: LogicConfig, model: ModelConfig) -> "Calibration":
        """Of heads whose records are collected as `model` says, and read as `logic` says."""
        return cls(rule, tuple(heads), logic.smoothing, _read(logic), model.name, model.read)

    def misfit(self, heads: Sequence[Head] | None, logic: LogicConfig, model: ModelConfig) -> str | None:
        """Why it is no calibration of these heads, or None.

        `model.read=last`, the default, says nothing of saved records: each is asked by itself (`bbox.presence`).
        """
        if heads is None:
            return "is of fixed heads, but heads are ranked for each sample (logic.heads=null)"
        if set(heads) != set(self.heads):
            return f"is of heads {_names(self.heads)}, not of {_names(heads)}"
        if self.model is not None and not same_model(self.model, model.name):
            return f"is of model {self.model}, not of {model.name}"
        if model.read not in ("last", self.tokens):
            return f"was made with model.read={self.tokens}, not {model.read}"
        now = _read(logic)
        others = [
            f"logic.{key}={value}, not {now.get(key)}" for key, value in self.read.items() if now.get(key) != value
        ]
        return f"was made with {'; '.join(others)}" if others else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file and in a saved configuration."""
        return {
            "model": self.model,
            "heads": [list(head) for head in self.heads],
            "rule": {"intercept": self.rule.intercept, "weights": dict(self.rule.weights)},
            "smoothing": asdict(self.smoothing),
            "read": dict(self.read),
            "model.read": self.tokens,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], source: str) -> "Calibration":
        """Raises UserError naming the source if it is malformed."""
        try:
            rule = plain["rule"]
            weights = {str(name): float(weight) for name, weight in rule["weights"].items()}
            intercept, heads = float(rule["intercept"]), tuple((whole(a), whole(b)) for a, b in plain["heads"])
            smoothing, read = _smoothing(plain["smoothing"]), dict(plain["read"])
            model, tokens = (text_or_none(plain, key) for key in ("model", "model.read"))
        except UserError as error:  # a number that no smoothing has
            raise UserError(f"{source}: {error}; {_expected()}") from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{source}: malformed ({in_words(error)}); {_expected()}") from None
        unknown = [name for name in weights if name not in NUMBERS]
        if unknown or not heads or not all(math.isfinite(value) for value in (intercept, *weights.values())):
            what = f"weighs {', '.join(unknown)}, which nothing measures" if unknown else "holds no heads or no numbers"
            raise UserError(f"{source} {what}; {_expected()}")
        return cls(Rule(intercept, weights), heads, smoothing, read, model, tokens or "last")


def read_calibration(path: Path) -> Calibration:
    """The calibration of a file. Raises UserError if it cannot be read or is malformed."""
    try:
        content = read_json(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {_expected()}") from None
    except ValueError as error:
        check_pointer(path)
        raise UserError(f"{path}: not JSON ({error}); {_expected()}") from None
    return Calibration.from_dict(content if isinstance(content, dict) else {}, str(path))


def calibration_of(config: Config, heads: Sequence[Head] | None, file_of_heads: str | None) -> Calibration | None:
    """That which `logic.presence.file` names or, if it names none, that of the heads in use, if there is one.

    That of the model's preset stands in `model.presence`, that of a file of heads in `presence.json` beside it.

    Raises UserError if the one that is named does not fit, or if there is none and `logic.presence.threshold` needs it.
    """
    named, logic, model = config.logic.presence.file, config.logic, config.model
    found: Calibration | None
    if isinstance(named, Mapping):  # as a saved configuration tells it
        found, source = Calibration.from_dict(named, KEY), KEY
    elif named is not None:
        found, source = read_calibration(find(named)), f"{KEY}={named}"
    else:
        found, source = _of_heads(config, heads, file_of_heads)
    why = found.misfit(heads, logic, model) if found else "there is none"
    if why is None:
        return found
    why = f"{source} {why}".strip()
    if named is not None:
        raise UserError(f"{why}; make one of these heads: {HOW}")
    if logic.presence.threshold is not None:
        needs = f"logic.presence.threshold={logic.presence.threshold:g} needs a calibration of the chosen heads"
        how = "fix them with logic.heads" if heads is None else f"make one with {HOW}"
        raise UserError(f"{needs}, but {why}: {how}")
    return None


def _of_heads(
    config: Config, heads: Sequence[Head] | None, file_of_heads: str | None
) -> tuple[Calibration | None, str]:
    """That beside the file of heads or of the model's preset, whichever is of these heads; else the first of them."""
    beside = None if file_of_heads is None else find(file_of_heads).parent / NAME
    files = [(beside, str(beside))] if beside is not None and exists(beside) else []
    if config.model.presence is not None:
        files.append((find(config.model.presence), config.model.presence))
    known = [(read_calibration(path), source) for path, source in files]
    fitting = (one for one in known if one[0].misfit(heads, config.logic, config.model) is None)
    return next(fitting, known[0] if known else (None, ""))


def calibrated(config: Config, heads: Sequence[Head] | None, file_of_heads: str | None) -> LogicConfig:
    """The rules with what is in that calibration in place of its path, or null without one. Raises UserError alike."""
    found = calibration_of(config, heads, file_of_heads)
    presence = replace(config.logic.presence, file=found and found.to_dict())
    return replace(config.logic, presence=presence)


def _read(logic: LogicConfig) -> dict[str, Any]:
    return {"token": logic.token, "grids": str(logic.grids), "filter.sinks": logic.filter.sinks}


def _smoothing(plain: Mapping[str, Any]) -> SmoothingConfig:
    """Raises TypeError or ValueError if a value is no number, UserError if it is none that a smoothing has."""
    numbers: dict[str, Any] = {name: float(plain[name]) for name in ("sigma", "power") if name in plain}
    cells: dict[str, Any] = {name: plain[name] and whole(plain[name]) for name in ("kernel", "per_cells")}
    if unknown := plain.keys() - numbers.keys() - cells.keys():
        raise ValueError(f"smoothing.{min(unknown)}")
    return SmoothingConfig(**numbers, **cells)


def _names(heads: Sequence[Head]) -> str:
    return " ".join(f"L{layer}H{head}" for layer, head in heads)


def _expected() -> str:
    return f"expected a {NAME} as stage=calibrate writes it"
