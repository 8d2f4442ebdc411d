"""Records on disk: the attention of one sample, read without trusting the file and written whole or not at all.

    record = load_record("outputs/records/bird.pkl")    # .pkl, .pkl.gz, .safetensors, also if they hold only a tensor
    record.attn                                         # [layers, heads, read tokens, image tokens]
    record.maps                                         # [layers, heads, rows, cols], see lab/records/canvas.py
    record.maps_of([(14, 24), (14, 13)])                # [2, rows, cols], also if only the maps of these are kept
    save_record("copy.safetensors", record)

What is in a file: {attn: tensor [layers, heads, read tokens, image tokens], meta: dict} and, where a generic prompt was
asked too, generic: the same of that prompt. One token is read, the prompt's last, unless `model.read` asks for others;
meta["tokens"] then tells which. A record that keeps some heads' maps only has partial: heads, scores and their settings
(lab/records/subset.py), and attn and generic are [kept heads, read tokens, image tokens] in the order of partial's
heads.

Wrong files end in a UserError that names them. Reading does not import torch; writing does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from conf.schema import MEAN, EntropyConfig, Grids, LogicConfig
from lab.base.arrays import StoredTensor
from lab.base.chunks import cast
from lab.base.errors import UserError
from lab.records.canvas import Canvas, choose_grids
from lab.records.sinks import sinks, without
from lab.records.subset import ALL_HEADS, SINKS, AllHeads, HeadSubset, head_index, settings_of
from llava.grid import Grid

if TYPE_CHECKING:
    import torch


PRECISIONS = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, eq=False)
class Record:
    """The attention of one sample's last prompt token, or of other tokens of its prompt or answer.

    `attn` holds the weights as float32, [layers, heads, read tokens, image tokens], non-negative, a row summing to at
    most 1. Everything that is measured or drawn is that of `weights`, which makes one token of several.
    `dtype` names the precision that they were computed and are stored in (float16, bfloat16, float32); widening to
    float32 changes no value. `meta` is a plain dict: image_file, query, model_name, image_size [W, H], grids, ...
    `generic` holds the same weights for a prompt that asks for nothing in particular, if they were collected; it may
    have another number of read tokens. `subset`
    says whose maps are kept: those of all heads, or of some. In the latter case the others are zero in `attn` and
    `generic`, and whatever needs one of them raises UserError.
    """

    attn: Float32[np.ndarray, "layers heads read vis"]
    meta: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    generic: Float32[np.ndarray, "layers heads read vis"] | None = None
    subset: AllHeads | HeadSubset = ALL_HEADS
    counted: Grids = Grids.joined  # which of the picture's grids make the maps; not in the file
    token: str | int = MEAN  # which of the read tokens counts; not in the file
    sinks: float | None = None  # share of the heads from which on a token is left out; not in the file

    @classmethod
    def from_tensor(
        cls,
        weights: "torch.Tensor | StoredTensor | np.ndarray",
        meta: Mapping[str, Any] | None = None,
        generic: "torch.Tensor | StoredTensor | np.ndarray | None" = None,
    ) -> "Record":
        """From tensors or arrays in any of the known precisions; float64 is narrowed to float32.

        Raises UserError on others.
        """
        attn, dtype = _widened(weights)
        return cls(attn, dict(meta or {}), dtype, None if generic is None else _widened(generic)[0])

    def tensor(self) -> "torch.Tensor":
        """The weights as a CPU tensor in their own precision, [layers, heads, read tokens, image tokens].

        float32 shares `attn`'s memory.
        """
        import torch

        self.subset.need_all()
        return cast(torch.from_numpy(self.attn), getattr(torch, self.dtype))

    @property
    def read(self) -> str:
        """The `model.read` that it was collected with."""
        return str(self.meta.get("read", "last"))

    @property
    def num_layers(self) -> int:
        return self.attn.shape[0]

    @property
    def num_heads(self) -> int:
        return self.attn.shape[1]

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(width, height) of the original image in pixels, if the record knows it."""
        size = self.meta.get("image_size")
        return None if size is None else (int(size[0]), int(size[1]))

    @property
    def made_by(self) -> str | None:
        """The name of the model that was asked, if the record knows it."""
        return str(self.meta["model_name"]) if self.meta.get("model_name") else None

    def with_image_size(self, image_size: tuple[int, int]) -> "Record":
        """The same record for an image of (width, height) pixels."""
        return replace(self, meta={**self.meta, "image_size": list(image_size)})

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """The grids of meta["grids"].

        Without them, one square grid stretched over the image (over unit cells if its size is unknown).
        """
        if self.meta.get("grids"):
            return tuple(Grid.from_dict(plain) for plain in self.meta["grids"])
        vis = self.attn.shape[-1]
        side = math.isqrt(vis)
        if side * side != vis:
            raise UserError(
                f"{vis} image tokens are no square grid and meta has no grids; expected side x side tokens "
                "or meta['grids']"
            )
        return (Grid.stretched(side, side, self.image_size or (side, side)),)

    def under(self, logic: LogicConfig) -> "Record":
        """The same record with the maps of `logic.grids`, the read token of `logic.token`, and without the image tokens
        that `logic.filter.sinks` leaves out.
        """
        return replace(self, counted=logic.grids, token=logic.token, sinks=logic.filter.sinks)

    @cached_property
    def weights(self) -> Float32[np.ndarray, "layers heads vis"]:
        """The weights of the token that counts: the only one, one of several, or the mean of all (`logic.token`).

        What is left out is 0. A view of `attn` unless it is a mean, or something is left out. Raises UserError if the
        record has no such token.
        """
        return without(of_token(self.attn, self.token), self.left_out)

    @cached_property
    def left_out(self) -> tuple[int, ...]:
        """The image tokens that are left out of sums, entropies and maps (`logic.filter.sinks`), ascending."""
        return self.subset.left_out(self._sink_settings, self._sinks)

    def _sinks(self) -> tuple[int, ...]:
        if self.sinks is None:
            return ()
        maps = [of_token(self.attn, self.token)]
        if self.generic is not None:
            maps.append(of_token(self.generic, self._generic_token))
        return tuple(sinks(maps, self.sinks).tolist())

    @property
    def _sink_settings(self) -> dict[str, Any]:
        return {} if self.sinks is None else {SINKS: self.sinks}

    @property
    def _generic_token(self) -> str | int:
        """The token that counts of the generic prompt: its text is another, and may be shorter."""
        if self.generic is None or isinstance(self.token, str):
            return self.token
        return min(self.token, self.generic.shape[2] - 1)

    def sum_settings(self, digits: int | None) -> dict[str, Any]:
        """What the attention sums of heads depend on: the digits, which of several read tokens counts, and what is left
        out.
        """
        return {"digits": digits} | ({"token": self.token} if self.attn.shape[2] > 1 else {}) | self._sink_settings

    def score_settings(self, config: EntropyConfig) -> dict[str, Any]:
        """What the scores of heads depend on: the settings of logic.entropy, where there are several grids or read
        tokens which of them count, and what is left out.
        """
        grids = {"grids": str(self.counted)} if len(self.grids) > 1 else {}
        token = {"token": self.token} if self.attn.shape[2] > 1 else {}
        return settings_of(config) | grids | token | self._sink_settings

    @cached_property
    def canvas(self) -> Canvas:
        """The cells of all maps: those of the picture's grid, or a canvas that joins several."""
        return Canvas.over(choose_grids(self.grids, self.counted))

    @property
    def grid(self) -> Grid:
        """Where the maps lie in the picture."""
        return self.canvas.grid

    @property
    def maps(self) -> Float32[np.ndarray, "layers heads rows cols"]:
        """Every head's weights on the canvas; a view of `weights` if one grid makes it.

        Raises UserError if the record keeps those of some heads only.
        """
        self.subset.need_all()
        return self.canvas.maps(self.weights)

    def maps_of(self, heads: Sequence[tuple[int, int]]) -> Float32[np.ndarray, "heads rows cols"]:
        """The weights of some (layer, head) on the canvas.

        Raises UserError naming a head whose map the record does not keep.
        """
        self.subset.need(heads)
        return self.canvas.maps(self.weights[head_index(heads)])

    def generic_maps_of(self, heads: Sequence[tuple[int, int]]) -> Float32[np.ndarray, "heads rows cols"]:
        """The same of the generic prompt. Raises UserError if the record does not hold it."""
        if self.generic is None:
            wanted = "the record holds no attention of the generic prompt, which logic.contrast needs"
            raise UserError(f"{wanted}: collect it again with data.save_generic=true, or set logic.contrast=none")
        self.subset.need(heads)
        weights = of_token(self.generic, self._generic_token)[head_index(heads)]
        return self.canvas.maps(without(weights, self.left_out))


def of_token(
    attn: Float32[np.ndarray, "layers heads read vis"], token: str | int
) -> Float32[np.ndarray, "layers heads vis"]:
    """The weights of one of the read tokens, `first`, `last` or a number from 0, or the `mean` of all.

    Raises UserError if there is no token of the number.
    """
    number = attn.shape[2]
    if token == MEAN and number > 1:
        return attn.mean(2)
    place = {MEAN: 0, "first": 0, "last": number - 1}.get(token, token) if isinstance(token, str) else token
    if not isinstance(place, int) or not 0 <= place < number:
        raise UserError(f"logic.token={token}: the record holds {number} read tokens, numbered from 0")
    return attn[:, :, place]


def _widened(weights: "torch.Tensor | StoredTensor | np.ndarray") -> tuple[Float32[np.ndarray, "*shape"], str]:
    """As float32, and the precision that it had."""
    dtype = str(weights.dtype).removeprefix("torch.")
    if dtype not in (*PRECISIONS, "float64"):
        raise UserError(f"attention of type {dtype}; expected one of {', '.join(PRECISIONS)}")
    if isinstance(weights, StoredTensor):
        weights = weights.values
    if not isinstance(weights, np.ndarray):
        import torch

        weights = cast(weights.detach().cpu(), torch.float32).numpy()
    return np.require(weights, np.float32, ["C", "W"]), dtype if dtype in PRECISIONS else "float32"
