"""Which heads make the heat map: `logic.heads` in any of its forms, resolved once, before a stage runs.

choice = head_choice(config.logic, config.model)    # raises on what cannot be heads of any model
choice.fixed((32, 32))                              # [(14, 24), (14, 13), (14, 26)], or None: ranked per sample
choice.of((32, 32), ranking)                        # the heads of one sample
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyze import Head, HeadScore
from conf.presets import preset_with_heads
from conf.schema import PRESET, LogicConfig, ModelConfig
from lab.base.checkpoints import other_model, same_model
from lab.base.errors import UserError
from lab.base.numbers import many
from lab.heads.files import heads_file, read_heads
from lab.heads.weights import FREQUENCY, check_weights

log = logging.getLogger(__name__)

KEY, PRESET_KEY = "logic.heads", "model.localization_heads"


@dataclass(frozen=True)
class HeadChoice:
    """Fixed heads with where they come from, or the best of each sample's own ranking (`heads` is None)."""

    top_k: int
    heads: tuple[Head, ...] | None = None  # (layer, head), zero-based, best first
    source: str = KEY  # what names them: a key, or a file of stage=select
    whole: bool = True  # a list is taken whole; of a file the first top_k, of a preset as many or fewer
    model: str | None = None  # the one that they were found in, if known
    shape: tuple[int, int] | None = None  # (layers, heads) of that model
    found: str | None = None  # how they were found, in words, if a file tells
    frequency: tuple[float, ...] | None = None  # how often each was selected, 0 to 1, if a file tells

    @property
    def is_preset(self) -> bool:
        """Whether the model preset names the heads, which then belong to its own checkpoint only."""
        return self.source == PRESET_KEY

    @property
    def named(self) -> list[Head] | None:
        """The fixed heads, for a model of whatever shape; None: heads are ranked per sample."""
        return None if self.heads is None else list(self.heads[: self.number])

    @property
    def file(self) -> str | None:
        """The file of stage=select that names them, if one does."""
        return None if self.source in (KEY, PRESET_KEY) else self.source

    def fixed(self, shape: tuple[int, int]) -> list[Head] | None:
        """The fixed heads, for a model of (layers, heads); None: heads are ranked per sample.

        Raises UserError if one does not exist, if the file is of a model of another shape, or if `top_k` cannot be had.
        """
        if not 1 <= self.top_k <= shape[0] * shape[1]:
            most = f"1 to {shape[0] * shape[1]}, the number of heads in the model"
            raise UserError(f"logic.top_k is {self.top_k}; expected {most}")
        if self.heads is None:
            return None
        if self.shape not in (None, shape):
            of_model, here = (f"{layers} layers x {heads} heads" for layers, heads in (self.shape, shape))
            raise UserError(f"{self.source} is of a model of {of_model}; this one has {here}: {_its_own()}")
        for layer, head in self.heads:
            if layer >= shape[0] or head >= shape[1]:
                raise _not_a_head([layer, head], self.source, shape)
        if self.whole:
            return list(self.heads)
        if len(self.heads) < self.top_k and not self.is_preset:  # what a preset knows is few, and all of it good
            named = f"{self.source} names {many(len(self.heads), 'head')}"
            raise UserError(f"logic.top_k is {self.top_k}, but {named}; expected at most that many")
        return list(self.heads[: self.top_k])

    def of(self, shape: tuple[int, int], ranking: Sequence[HeadScore]) -> list[Head]:
        """The heads of one sample: the fixed ones, or the first `top_k` of its ranking (fewer if it is shorter)."""
        fixed = self.fixed(shape)
        return [(score.layer, score.head) for score in ranking[: self.top_k]] if fixed is None else fixed

    @property
    def as_setting(self) -> Any:
        """`logic.heads` as a saved configuration tells it: of a file what was in it, whatever becomes of the file."""
        if self.heads is None or self.is_preset:
            return None if self.heads is None else PRESET
        pairs = [list(head) for head in self.heads]
        if self.whole:
            return pairs
        shape = None if self.shape is None else list(self.shape)
        told: dict[str, Any] = {} if self.found is None else {"found": self.found}
        if self.frequency is not None:
            told[FREQUENCY] = list(self.frequency)
        return {"file": self.source, "model": self.model, "shape": shape, "heads": pairs, **told}

    @property
    def number(self) -> int:
        """How many heads make a heat map, at most."""
        return len(self.heads) if self.heads is not None and self.whole else self.top_k


def head_choice(logic: LogicConfig, model: ModelConfig) -> HeadChoice:
    """`logic.heads` as a choice.

    It is null | [[layer, head], ...] | preset | a file of stage=select, by its path or its name in conf/heads | what a
    saved configuration tells of such a file.

    Raises UserError if it is none of these, names a head twice, names a preset that has no heads, or does not tell the
    frequencies that `logic.weights` needs.
    """
    choice = _choice(logic, model)
    check_weights(logic, choice.frequency)
    return choice


def _choice(logic: LogicConfig, model: ModelConfig) -> HeadChoice:
    heads = logic.heads
    if heads is None:
        return HeadChoice(logic.top_k)
    if heads == PRESET:
        if not model.localization_heads:
            lacking = "logic.heads is preset, but the model preset names no localization_heads"
            raise UserError(f"{lacking}; set them, or logic.heads=null to rank")
        pairs = _pairs(model.localization_heads, PRESET_KEY)
        return HeadChoice(logic.top_k, pairs, PRESET_KEY, whole=False, model=model.name)
    if names_file(heads):
        heads = read_heads(heads_file(heads))
    if isinstance(heads, Mapping) and {"file", "shape", "heads"} <= heads.keys():
        shape = None if heads["shape"] is None else (heads["shape"][0], heads["shape"][1])
        pairs = _pairs(heads["heads"][: logic.top_k], heads["file"])
        about = {name: heads.get(name) for name in ("model", "found")}
        known = heads.get(FREQUENCY)
        frequency = None if known is None else tuple(known[: logic.top_k])
        return HeadChoice(logic.top_k, pairs, heads["file"], False, shape=shape, frequency=frequency, **about)
    return HeadChoice(logic.top_k, _pairs(heads, KEY))


def names_file(heads: Any) -> bool:
    """Whether `logic.heads` names a file."""
    return isinstance(heads, str) and heads != PRESET


def _pairs(given: Any, source: str) -> tuple[Head, ...]:
    heads: list[Head] = []
    for pair in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
        whole = isinstance(pair, Sequence) and len(pair) == 2 and all(type(n) is int and n >= 0 for n in pair)
        if not whole or tuple(pair) in heads:
            raise _not_a_head(pair, source)
        heads.append((pair[0], pair[1]))
    if not heads:
        raise UserError(f"{source} is empty; {_expected()}")
    return tuple(heads)


def _not_a_head(pair: Any, source: str, shape: tuple[int, int] | None = None) -> UserError:
    return UserError(f"{source}: {pair!r} is not a head of this model or is named twice; {_expected(shape)}")


def _expected(shape: tuple[int, int] | None = None) -> str:
    limits = f", layer < {shape[0]} and head < {shape[1]}" if shape else ""
    return f"expected [[layer, head], ...], zero-based, each once{limits}"


def warn_of_foreign_heads(of: str, name: str) -> None:
    """Says that the preset's heads are of the checkpoint `of`, not of the model `name`, and how to find its own."""
    find_its_own = f"python pipeline.py stage=select model.name={name} data.data_file=FILE data.process_all=true"
    log.warning(
        "the preset's heads are of %s, not of %s: heads are ranked for each sample; to find its own: %s",
        of,
        name,
        find_its_own,
    )


def tell_source(choice: HeadChoice) -> None:
    """Says how the heads were found, if that is known."""
    if choice.found is not None:
        log.info("the heads of %s were %s", choice.source, choice.found)


def check_owner(choice: HeadChoice, name: str | None, shape: tuple[int, int] | None = None) -> None:
    """Raises UserError if the heads are known to be of another model than `name`; warns if that cannot be told.

    `shape` is as for `refuse_foreign_heads`. Nothing is said of a list, which carries no model, nor where the model has
    no name, as in records of old.
    """
    refuse_foreign_heads(choice, name, shape)
    if choice.model and name and not choice.is_preset and not same_model(choice.model, name):
        log.warning("the heads of %s were found in %s, and this is %s", choice.source, choice.model, name)


def refuse_foreign_heads(choice: HeadChoice, name: str | None, shape: tuple[int, int] | None = None) -> None:
    """Raises UserError if the heads are known to be of another model than `name`.

    With the (layers, heads) of that model, heads that it lacks are told before whose they are: it could not use them.

    A preset's are of its checkpoint alone. Of a file's, two names of known checkpoints tell it.
    """
    if not choice.model or not name:
        return
    if choice.is_preset and not same_model(choice.model, name):
        whose = f"logic.heads=preset are the heads of {choice.model}, but the record is of {name}"
        raise UserError(f"{whose}: set model, or logic.heads=null")
    if shape is not None:
        choice.fixed(shape)
    if other_model(choice.model, name):
        pairs = ",".join(f"[{layer},{head}]" for layer, head in choice.named or ())
        whose = f"the heads of {choice.source} were found in {choice.model}, and this is {name}"
        raise UserError(f"{whose}: {_its_own(name)}; to try these all the same, logic.heads=[{pairs}]")


def _its_own(name: str | None = None) -> str:
    """How to get a model's own heads."""
    preset = None if name is None else preset_with_heads(name)
    if preset is not None:
        return f"for its own, set model={preset} logic.heads=preset"
    return "for its own, set logic.heads=null, which ranks them for each sample, or find them with stage=select"
