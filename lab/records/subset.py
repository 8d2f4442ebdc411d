"""Which heads' maps a record keeps: all of them (`AllHeads`), or some or none (`HeadSubset`).

A record with all maps has its scores measured whenever they are asked for. A record with some maps stores the scores of
every head, without regard to a threshold, so that rankings can be made again with another threshold or filter. What
only a map can tell, such as its spatial entropy with other settings, cannot be measured again. Both classes answer the
same questions, so that nobody has to ask which of them a record has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Bool, Float, Int

from conf.schema import Choice, EntropyConfig
from lab.base.errors import UserError, in_words
from lab.base.numbers import whole

SCHEMA = 1  # of what a file holds of a HeadSubset
MAX_HEADS_OF_MODEL = 2**20  # layers x heads; bounds what a wrong file can ask for

SCORES = ("attn_sum", "spatial_entropy", "num_components", "bottom_row_max")
SINKS = "filter.sinks"
OF_LOGIC = ("grids", "token", SINKS)  # settings of scores that are not of logic.entropy


Sums = Float[np.ndarray, "layers heads"]
Scores = tuple[Float[np.ndarray, " wanted"], Int[np.ndarray, " wanted"], Float[np.ndarray, " wanted"]]


class NotKept(UserError):
    """A record was asked for a map or a score that it does not keep."""


@dataclass(frozen=True)
class AllHeads:
    """The record keeps the map of every head, and scores are measured from the maps."""

    def holds(self, heads: Sequence[tuple[int, int]]) -> bool:
        """Whether the maps of all of `heads` are kept."""
        return True

    def need(self, heads: Sequence[tuple[int, int]]) -> None:
        """Raises NotKept naming a head of `heads` whose map is not kept."""

    def need_all(self) -> None:
        """Raises NotKept if the map of any head is missing."""

    def attention_sums(self, settings: Mapping[str, Any], measure: Callable[[], Sums]) -> Sums:
        """Each head's weight on all image tokens, with `settings["digits"]`; `measure` computes it from the maps.

        Raises NotKept if it was stored with other settings.
        """
        return measure()

    def has_scores_by(self, settings: Mapping[str, Any]) -> bool:
        """Whether `scores` can answer for these settings of logic.entropy."""
        return True

    def scores(
        self, wanted: Bool[np.ndarray, "layers heads"], settings: Mapping[str, Any], measure: Callable[[], Scores]
    ) -> Scores:
        """Entropy, number of components and largest weight of the last grid row of the wanted heads.

        `measure` computes them from the maps. Raises NotKept if `has_scores_by(settings)` is false.
        """
        return measure()

    def of_every_head(self, measure: Callable[[], Sums]) -> Sums | None:
        """What `measure` computes from the maps of all heads; None if some are not kept."""
        return measure()

    def left_out(self, settings: Mapping[str, Any], measure: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """The image tokens that are sinks by `settings`; `measure` finds them in the maps of all heads.

        Raises NotKept if they were found with other settings.
        """
        return measure()

    def kept(self, weights: Float[np.ndarray, "layers heads read vis"]) -> Float[np.ndarray, "*heads read vis"]:
        """The part of a record's `attn` or `generic` that is kept, as its file stores it."""
        return weights

    def is_blank(self, weights: Float[np.ndarray, "layers heads read vis"]) -> bool:
        """Whether `weights`, a record's `attn` or `generic`, are zero where some head must look at the picture."""
        return not weights.any()

    def in_file(self) -> dict[str, Any]:
        """What a record's file holds beside the weights and meta."""
        return {}


ALL_HEADS = AllHeads()


@dataclass(frozen=True, eq=False)
class HeadSubset:
    """The record keeps the maps of `heads` only, and the scores of every head as `analyze.measure_heads` gives them.

    The methods are those of `AllHeads`.
    """

    heads: tuple[tuple[int, int], ...]  # (layer, head), zero-based: those whose maps are kept
    attn_sum: Float[np.ndarray, "layers heads"]  # float32, a value of the record's precision
    spatial_entropy: Float[np.ndarray, "layers heads"]  # nats
    num_components: Int[np.ndarray, "layers heads"]
    bottom_row_max: Float[np.ndarray, "layers heads"]  # the largest weight of the last grid row
    entropy: Mapping[str, Any]  # the settings of logic.entropy behind spatial_entropy and num_components
    sinks: tuple[int, ...] = ()  # image tokens that were left out of the scores
    where: str = "this record"  # the file, for messages

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads) of the model."""
        return self.attn_sum.shape

    def holds(self, heads: Sequence[tuple[int, int]]) -> bool:
        return set(heads) <= set(self.heads)

    def need(self, heads: Sequence[tuple[int, int]]) -> None:
        for layer, head in heads:
            if (layer, head) not in self.heads:
                self._refuse(f"but not that of layer {layer} head {head}")

    def need_all(self) -> None:
        self._refuse("but all are needed")

    def _refuse(self, wanted: str) -> NoReturn:
        there = f"the maps of {len(self.heads)} of {self.shape[0] * self.shape[1]} heads"
        raise NotKept(f"{self.where} holds {there}, {wanted}: collect with data.save_attention=all")

    def attention_sums(self, settings: Mapping[str, Any], measure: Callable[[], Sums]) -> Sums:
        self._need_settings(settings)
        sums, digits = self.attn_sum.astype(np.float64), settings["digits"]
        return sums if digits is None else sums.round(digits)

    def has_scores_by(self, settings: Mapping[str, Any]) -> bool:
        return dict(self.entropy) == dict(settings)

    def scores(
        self, wanted: Bool[np.ndarray, "layers heads"], settings: Mapping[str, Any], measure: Callable[[], Scores]
    ) -> Scores:
        self._need_settings(settings)
        return self.spatial_entropy[wanted], self.num_components[wanted], self.bottom_row_max[wanted]

    def left_out(self, settings: Mapping[str, Any], measure: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        self._need_settings(settings)
        return self.sinks

    def _need_settings(self, settings: Mapping[str, Any]) -> None:
        for key in dict.fromkeys((*settings, SINKS)):  # which no setting names if all cells count
            value = settings.get(key)
            if self.entropy.get(key) != value:
                name = f"logic.{key}" if key in OF_LOGIC else f"logic.entropy.{key}"
                then, now = ("null" if given is None else given for given in (self.entropy.get(key), value))
                raise NotKept(
                    f"{self.where} keeps scores measured with {name}={then}, not {now}: set it so, or collect with "
                    "data.save_attention=all"
                )

    def of_every_head(self, measure: Callable[[], Sums]) -> Sums | None:
        return None

    def kept(self, weights: Float[np.ndarray, "layers heads read vis"]) -> Float[np.ndarray, "*heads read vis"]:
        return weights[head_index(self.heads)]

    def is_blank(self, weights: Float[np.ndarray, "layers heads read vis"]) -> bool:
        return False  # the few that are kept may be blind to the picture

    def in_file(self) -> dict[str, Any]:
        return {"partial": self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers, for a file."""
        import torch

        scores = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in SCORES}
        sinks = {"sinks": list(self.sinks)} if SINKS in self.entropy else {}
        heads = [list(head) for head in self.heads]
        return {"schema": SCHEMA, "heads": heads, "entropy": dict(self.entropy), **scores, **sinks}

    @classmethod
    def from_dict(cls, plain: Any, where: str) -> "HeadSubset":
        """The inverse of `to_dict`. Raises UserError naming the file if anything is missing or impossible."""
        try:
            if plain["schema"] != SCHEMA:
                raise ValueError(f"schema {plain['schema']!r}, and this version knows {SCHEMA}")
            scores = {name: np.array(plain[name]) for name in SCORES}
            heads = tuple((whole(layer), whole(head)) for layer, head in plain["heads"])
            sinks = tuple(whole(token) for token in plain.get("sinks", ()))
            found = cls(heads, **scores, entropy=dict(plain["entropy"]), sinks=sinks, where=where)
            found.check()
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            expected = "expected heads and scores as data.save_attention=selected or none writes them"
            raise UserError(f"{where}: malformed ({in_words(error)}); {expected}") from error
        return found

    def check(self) -> None:
        """Raises ValueError if the scores cannot be those of a sample, or a head is named twice or does not exist."""
        layers, heads = self.shape
        if not 1 <= layers * heads <= MAX_HEADS_OF_MODEL:
            raise ValueError(f"scores of {layers} x {heads} heads")
        for name in SCORES:
            column = getattr(self, name)
            if column.shape != self.shape or column.dtype.kind not in "fiu" or np.isnan(column).any():
                raise ValueError(f"{name} of shape {list(column.shape)} and type {column.dtype}, or with NaN")
        if len(set(self.heads)) < len(self.heads) or not all(0 <= i < layers and 0 <= j < heads for i, j in self.heads):
            raise ValueError(f"heads {list(self.heads)} of {layers} layers x {heads}")


def head_index(heads: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """(layer, head) pairs as an index into arrays of [layers, heads, ...]."""
    return [layer for layer, _ in heads], [head for _, head in heads]


def settings_of(config: EntropyConfig) -> dict[str, Any]:
    """The settings of `logic.entropy` by name, as plain values that a file can hold.

    `digits` only if they are limited: files from before they could be know of none.
    """
    values = {key.name: getattr(config, key.name) for key in fields(EntropyConfig)}
    if config.digits is None:
        del values["digits"]
    return {name: str(value) if isinstance(value, Choice) else value for name, value in values.items()}
