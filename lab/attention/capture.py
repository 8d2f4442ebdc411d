"""What some queries of a forward look at, kept layer by layer while the model runs.

    use_attention(model, "fused")
    with torch.inference_mode(), kept_rows(model, Wanted(positions, columns)) as rows:
        model.model(...)                    # no output layer is needed for it
    torch.stack(rows)                       # [layers, batch, heads, queries, columns]

Two ways to run a layer. `eager` forms every weight and keeps a few, exactly those of `output_attentions=True`. `fused`
runs the layer through scaled_dot_product_attention, which never forms them, and computes the wanted queries' weights
beside it in float32.

Letters in shape comments: B batch, H heads, K key-value heads, N wanted queries, S sequence, D width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lab.attention import blocks
from lab.base.errors import UserError

FUSED = "localization_fused"  # its name among transformers' attention implementations
TOWER = "localization_tower"  # that of vision towers where torch's own is slow
IMPLEMENTATIONS = {"eager": ("eager", "eager"), "fused": (FUSED, "sdpa")}  # of the language model, of vision towers
UNSUPPORTED = ("s_aux", "sinks", "position_bias", "cache")  # what a layer may ask for that the fused rows do not know
SLICE = 256  # queries of a layer with a soft cap that are worked on at once


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which weights to keep: those of the queries at `positions` on the keys in `columns`.

    `columns` is a range for all rows, or each row's own.

    `prefix` tells the fused implementation that the first `prefix` positions see each other causally and nothing else,
    so that its mask needs rows only for those behind it.
    """

    positions: Int[torch.Tensor, "batch queries"]
    columns: slice | Int[torch.Tensor, "batch columns"] = field(default_factory=lambda: slice(None))
    prefix: int = 0


def use_attention(model: PreTrainedModel, name: str) -> None:
    """Switches the model to `eager` or `fused`."""
    if name not in IMPLEMENTATIONS:
        raise UserError(f"model.attention={name}: choose from {', '.join(IMPLEMENTATIONS)}")
    own, tower = IMPLEMENTATIONS[name]
    if tower == "sdpa" and blocks.worthwhile(next(model.parameters()).detach()):
        tower = TOWER
    text = model.config.get_text_config(decoder=True)
    parts = {key: getattr(model.config, key, None) for key in getattr(model.config, "sub_configs", {})}
    for key, part in parts.items():
        if part is text:
            model.set_attn_implementation({key: own})
        elif part is not None:
            with suppress(ValueError):  # a tower without attention, or with one kind of it only, stays as it is
                model.set_attn_implementation({key: tower})


def attention_name(model: PreTrainedModel) -> str:
    """`eager` or `fused`. Raises UserError if the language model runs anything else, which gives no weights."""
    implementation = model.config.get_text_config(decoder=True)._attn_implementation
    for name, (own, _) in IMPLEMENTATIONS.items():
        if own == implementation:
            return name
    raise UserError(
        f"The language model runs {implementation} attention, which gives no weights; load it with eager attention"
    )


def attention_modules(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The attention modules of the language model, layer by layer; those of vision towers have another config.

    Where layers of their own look at the picture (cross-attention), those.
    """
    config = model.config.get_text_config(decoder=True)
    crossing = getattr(config, "cross_attention_layers", None)
    return [
        module
        for module in model.modules()
        if hasattr(module, "layer_idx")
        and (crossing is None or module.layer_idx in crossing)
        and getattr(module, "config", None) is config
        and type(module).__name__.endswith("Attention")  # convolutions and linear layers form no map
    ]


class _Enough(Exception):
    """Ends a forward whose last wanted weights are kept."""


class _Kept:
    """The rows of one forward, one per layer."""

    def __init__(self, layers: int, wanted: Wanted | None, stop: bool) -> None:
        self.rows: list[torch.Tensor] = []
        self.layers, self.wanted, self.stop = layers, wanted, stop

    @property
    def complete(self) -> bool:
        return len(self.rows) == self.layers

    def add(self, row: torch.Tensor) -> None:
        self.rows.append(row)
        if self.stop and self.complete:
            raise _Enough


@contextmanager
def until_last_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, a forward ends, and the block with it, when the last layer's attention is done."""

    def end(*_: Any) -> None:
        raise _Enough

    hook = attention_modules(model)[-1].register_forward_hook(end)
    try:
        yield
    except _Enough:
        pass
    finally:
        hook.remove()


@contextmanager
def kept_rows(
    model: PreTrainedModel, wanted: Wanted | None = None, *, stop: bool = False
) -> Iterator[list[Float[torch.Tensor, "batch heads queries columns"]]]:
    """Within the block, the first forward leaves the wanted weights here, layer by layer, each on its layer's device.

    No full map outlives its layer. `wanted` None means the last position and all keys: the last prompt token if the
    batch is padded on the left. `generate` reads the prompt in its first forward, so later ones change nothing. With
    eager attention the weights are in the model's dtype, with fused attention in float32. `stop` leaves the block as
    soon as they are complete: nothing that the last layer does after its attention can change them.

    Raises:
        UserError: the language model's attention is neither eager nor fused.
    """
    name = attention_name(model)
    modules = attention_modules(model)
    kept = _Kept(len(modules), wanted, stop)

    def keep_eager(_module: torch.nn.Module, _args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        if not kept.complete:
            kept.add(kept_of_map(output[1], wanted))

    def arm(module: torch.nn.Module, _args: Any) -> None:
        vars(module)["kept"] = None if kept.complete else kept

    hooks = []
    try:
        for module in modules:
            hooks.append(
                module.register_forward_hook(keep_eager) if name == "eager" else module.register_forward_pre_hook(arm)
            )
        yield kept.rows
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
        for module in modules:
            vars(module).pop("kept", None)


def kept_of_map(weights: Float[torch.Tensor, "B H Q S"], wanted: Wanted | None) -> Float[torch.Tensor, "B H N C"]:
    """A copy: a view would keep the whole map."""
    if wanted is None:
        return weights[:, :, -1:].clone()
    return _on(_at(weights, wanted.positions), wanted.columns)


def _at(values: Float[torch.Tensor, "B H Q D"], positions: Int[torch.Tensor, "B N"]) -> Float[torch.Tensor, "B H N D"]:
    index = positions.to(values.device)[:, None, :, None]
    return values.gather(2, index.expand(len(values), values.shape[1], -1, values.shape[3]))  # beams share one position


def _on(
    rows: Float[torch.Tensor, "B H N S"], columns: slice | Int[torch.Tensor, "B C"]
) -> Float[torch.Tensor, "B H N C"]:
    if isinstance(columns, slice):
        return rows[..., columns].contiguous()
    index = columns.to(rows.device)[:, None, None, :]
    return rows.gather(3, index.expand(*rows.shape[:3], -1))  # beams share one index


def fused_attention(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "B H Q D"],
    key: Float[torch.Tensor, "B K S D"],
    value: Float[torch.Tensor, "B K S D"],
    attention_mask: Bool[torch.Tensor, "B 1 rows S"] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Float[torch.Tensor, "B Q H D"], None]:
    """transformers' interface for one layer; the weights that `kept_rows` wants are computed beside it.

    `attention_mask` is True where a query sees a key, and None for plain causal attention, or for attention to
    everything if the layer is not causal. Behind a prefix (see
    `Wanted`) it has rows only for the queries after it. `softcap` bounds the scores, as in Gemma 2.
    """
    unknown = [name for name in UNSUPPORTED if options.get(name) is not None]
    if unknown:
        raise UserError(
            f"model.attention=fused does not know this model's {', '.join(unknown)}; set model.attention=eager"
        )
    kept: _Kept | None = vars(module).get("kept")
    if attention_mask is None and not getattr(module, "is_causal", True):
        attention_mask = query.new_ones((1, 1, 1, 1), dtype=torch.bool).expand(
            len(query), 1, query.shape[2], key.shape[2]
        )
    scaling, softcap = scaling or query.shape[-1] ** -0.5, options.get("softcap")
    if kept is not None:
        kept.add(wanted_weights(query, key, attention_mask, scaling, kept.wanted, softcap))
    prefix = kept.wanted.prefix if kept and kept.wanted else 0
    if softcap:
        return _capped_attention(query, key, value, attention_mask, scaling, softcap), None
    if attention_mask is None:
        return _causal(module, query, key, value, scaling, dropout), None
    if prefix == 0:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling)
    head = _causal(module, query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], scaling, dropout)
    tail = sdpa_attention_forward(module, query[:, :, prefix:], key, value, attention_mask, dropout, scaling)[0]
    return torch.cat([head, tail], dim=1), None


def _causal(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "B H Q D"],
    key: Float[torch.Tensor, "B K S D"],
    value: Float[torch.Tensor, "B K S D"],
    scaling: float,
    dropout: float,
) -> Float[torch.Tensor, "B Q H D"]:
    if blocks.worthwhile(query) and query.shape[2] == key.shape[2] and not dropout:
        return blocks.attend(query, key, value, scaling, causal=True)
    return sdpa_attention_forward(module, query, key, value, None, dropout, scaling)[0]


def tower_attention(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "B H Q D"],
    key: Float[torch.Tensor, "B K S D"],
    value: Float[torch.Tensor, "B K S D"],
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Float[torch.Tensor, "B Q H D"], None]:
    """transformers' interface for one layer of a vision tower; what has no mask and no bias goes in blocks."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    biased = any(options.get(name) is not None for name in (*UNSUPPORTED, "softcap"))
    if causal or biased or dropout or attention_mask is not None or not blocks.worthwhile(query):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    return blocks.attend(query, key, value, scaling or query.shape[-1] ** -0.5, causal=False), None


def _capped_attention(
    query: Float[torch.Tensor, "B H Q D"],
    key: Float[torch.Tensor, "B K S D"],
    value: Float[torch.Tensor, "B K S D"],
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float,
) -> Float[torch.Tensor, "B Q H D"]:
    """Attention with bounded scores, which torch's own does not know, a slice of the queries at a time."""
    length, out = query.shape[2], []
    positions = torch.arange(length, device=query.device).expand(len(query), -1)
    spread = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)  # B K S D -> B H S D
    for part in positions.split(SLICE, dim=1):
        rows = wanted_weights(query, key, mask, scaling, Wanted(part), softcap)
        out.append((rows.to(value.dtype) @ spread).transpose(1, 2))
    return torch.cat(out, dim=1)


def wanted_weights(
    query: Float[torch.Tensor, "B H Q D"],
    key: Float[torch.Tensor, "B K S D"],
    mask: torch.Tensor | None,
    scaling: float,
    wanted: Wanted | None,
    softcap: float | None = None,
) -> Float[torch.Tensor, "B H N C"]:
    """The softmax weights of some queries, computed in float32 whatever the model's dtype."""
    batch, heads, length, width = query.shape
    last = torch.full((batch, 1), length - 1, device=query.device)
    positions = last if wanted is None else wanted.positions.to(query.device)
    rows = _at(query, positions).float().reshape(batch, key.shape[1], -1, width)  # B H N D -> B K H/K*N D
    scores = (rows @ key.float().transpose(2, 3) * scaling).reshape(batch, heads, -1, key.shape[2])  # -> B H N S
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        before = key.shape[2] - length  # keys in a cache
        seen = torch.arange(key.shape[2], device=key.device) <= positions[:, None, :, None] + before
    else:
        seen = _at(mask, positions - (wanted.prefix if wanted else 0))
    # the smallest number, not -inf: a row of padding that sees nothing must not become NaN
    scores = scores.masked_fill(~seen, torch.finfo(torch.float32).min) if seen.dtype == torch.bool else scores + seen
    weights = scores.softmax(-1)  # the denominator counts every key
    return _on(weights, wanted.columns if wanted else slice(None))


AttentionInterface.register(FUSED, fused_attention)
AttentionInterface.register(TOWER, tower_attention)
AttentionMaskInterface.register(TOWER, sdpa_mask)
AttentionMaskInterface.register(FUSED, sdpa_mask)  # without it, padding would leak
