"""Records that keep the maps of some heads only, or of none: what they have in place of the others.

The scores of every head are there, without regard to a threshold, so that rankings can be made again, also by another
threshold or filter. What a map alone can tell, such as its spatial entropy by other rules, cannot be had again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, Int

from conf.schema import Choice, EntropyConfig
from lab.base.errors import UserError

SCHEMA = 1  # of what a file holds of a HeadSubset
MAX_HEADS_OF_MODEL = 2**20  # layers x heads; bounds what a wrong file can ask for

SCORES = ("attn_sum", "spatial_entropy", "num_components", "bottom_row_max")


@dataclass(frozen=True, eq=False)
class HeadSubset:
    """Whose maps a record keeps, and the scores of every head of the sample, as `analyze.score_heads` measures them."""

    heads: tuple[tuple[int, int], ...]  # (layer, head), zero-based: those whose maps are kept
    attn_sum: Float[np.ndarray, "layers heads"]  # float32, a value of the record's precision
    spatial_entropy: Float[np.ndarray, "layers heads"]  # nats
    num_components: Int[np.ndarray, "layers heads"]
    bottom_row_max: Float[np.ndarray, "layers heads"]  # the largest weight of the last grid row
    entropy: Mapping[str, Any]  # the settings of logic.entropy behind spatial_entropy and num_components
    where: str = "this record"  # the file, for messages

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads) of the model."""
        return self.attn_sum.shape

    def refuse(self, wanted: str) -> NoReturn:
        """Raises the UserError of whoever wants maps that are not kept."""
        there = f"the maps of {len(self.heads)} of {self.shape[0] * self.shape[1]} heads"
        raise UserError(f"{self.where} holds {there}, {wanted}: collect with data.save_attention=all")

    def need(self, heads: Sequence[tuple[int, int]]) -> None:
        """Raises UserError naming a head of `heads` whose map is not kept."""
        for layer, head in heads:
            if (layer, head) not in self.heads:
                self.refuse(f"but not that of layer {layer} head {head}")

    def need_entropy(self, settings: Mapping[str, Any]) -> None:
        """Raises UserError unless the scores were measured by these settings of logic.entropy."""
        for key, value in settings.items():
            if self.entropy.get(key) != value:
                measured = f"measured with logic.entropy.{key}={self.entropy.get(key)}, not {value}"
                raise UserError(
                    f"{self.where} keeps scores {measured}: set it so, or collect with data.save_attention=all"
                )

    def to_dict(self) -> dict[str, Any]:
        """Arrays and plain containers, for a file; a tensor would take 1.3 kB more than its values."""
        scores = {name: np.ascontiguousarray(getattr(self, name)) for name in SCORES}
        return {"schema": SCHEMA, "heads": [list(head) for head in self.heads], "entropy": dict(self.entropy), **scores}

    @classmethod
    def from_dict(cls, plain: Any, where: str) -> "HeadSubset":
        """The inverse of `to_dict`. Raises UserError naming the file if anything is missing or impossible."""
        try:
            if plain["schema"] != SCHEMA:
                raise ValueError(f"schema {plain['schema']!r}, and this version knows {SCHEMA}")
            scores = {name: np.array(plain[name]) for name in SCORES}
            heads = tuple((_whole(layer), _whole(head)) for layer, head in plain["heads"])
            found = cls(heads, **scores, entropy=dict(plain["entropy"]), where=where)
            found.check()
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            expected = "expected heads and scores as data.save_attention=selected or none writes them"
            raise UserError(f"{where}: malformed ({type(error).__name__}: {error}); {expected}") from error
        return found

    def check(self) -> None:
        """Raises ValueError if the scores cannot be those of a sample, or a head is named twice or does not exist."""
        layers, heads = self.shape
        if not 1 <= layers * heads <= MAX_HEADS_OF_MODEL:
            raise ValueError(f"scores of {layers} x {heads} heads")
        for name in SCORES:
            column = getattr(self, name)
            if column.shape != self.shape or column.dtype.kind not in "fi" or np.isnan(column).any():
                raise ValueError(f"{name} of shape {list(column.shape)} and type {column.dtype}, or with NaN")
        if len(set(self.heads)) < len(self.heads) or not all(0 <= i < layers and 0 <= j < heads for i, j in self.heads):
            raise ValueError(f"heads {list(self.heads)} of {layers} layers x {heads}")


def _whole(number: Any) -> int:
    if isinstance(number, bool) or int(number) != number:
        raise ValueError(f"{number!r} is not a whole number")
    return int(number)


def settings_of(config: EntropyConfig) -> dict[str, Any]:
    """The settings of `logic.entropy` by name, as plain values that a file can hold."""
    values = {key.name: getattr(config, key.name) for key in fields(EntropyConfig)}
    return {name: str(value) if isinstance(value, Choice) else value for name, value in values.items()}
