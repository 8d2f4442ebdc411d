"""Heads that are changed while a model runs.

    with acting(model, act, wanted, layers):
        model(...)                          # act(layer, seen) gives the wanted queries' new outputs, or None

It stands where every family's attention passes through, transformers' attention interface: grouped queries, windows,
padding and packing are as the layer itself has them. Outside the block the model is what it was, whatever happened.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from transformers import AttentionInterface, PreTrainedModel

from lab.ablate.changes import Seen
from lab.attention.capture import (
    Wanted,
    attention_modules,
    attention_name,
    fused_attention,
    kept_of_map,
    wanted_weights,
)
from lab.base.errors import UserError

CHANGED = "localization_changed"  # its name among transformers' attention implementations

Act = Callable[[int, Seen], Float[torch.Tensor, "N H D"] | None]


@dataclass(frozen=True)
class Acting:
    """What a layer's attention does within the block."""

    layer: int  # as in records: the number among the layers that have attention
    act: Act | None  # None: nothing is wanted of this layer
    wanted: Wanted  # queries and image tokens of a batch of one
    plain: Callable[..., tuple[torch.Tensor, torch.Tensor | None]]  # the layer's attention as it is


@contextmanager
def acting(model: PreTrainedModel, act: Act, wanted: Wanted, layers: Collection[int] | None = None) -> Iterator[None]:
    """Within the block, `act` sees what the wanted queries do in these layers, or in all, and may change it.

    Raises:
        UserError: the language model's attention is neither eager nor fused.
    """
    name, modules = attention_name(model), attention_modules(model)
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    try:
        for layer, module in enumerate(modules):
            plain = fused_attention if name == "fused" else _eager(module)
            here = act if layers is None or layer in layers else None
            vars(module)["acting"] = Acting(layer, here, wanted, plain)
        config._attn_implementation = CHANGED
        yield
    finally:
        config._attn_implementation = before
        for module in modules:
            vars(module).pop("acting", None)


def _eager(module: torch.nn.Module) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """The function that transformers takes for eager attention: one in the file of each architecture."""
    found = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if found is None:
        lacking = f"{type(module).__name__} has no eager attention that can be changed"
        raise UserError(f"{lacking}; set model.attention=fused")
    return found


def changed_attention(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "1 H Q D"],
    key: Float[torch.Tensor, "1 K S D"],
    value: Float[torch.Tensor, "1 K S D"],
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Float[torch.Tensor, "1 Q H D"], torch.Tensor | None]:
    """transformers' interface for one layer."""
    acting: Acting = vars(module)["acting"]
    scaling = scaling or query.shape[-1] ** -0.5
    output, weights = acting.plain(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
    )
    if acting.act is None:
        return output, weights
    if weights is None:
        looked = wanted_weights(query, key, attention_mask, scaling, acting.wanted, options.get("softcap"))
    else:
        looked = kept_of_map(weights, acting.wanted)
    image, groups = _index(acting.wanted, key.device), query.shape[1] // key.shape[1]
    values = value[0][:, image].repeat_interleave(groups, dim=0)  # K V D -> H V D
    queries = acting.wanted.positions[0].to(output.device)
    seen = Seen(looked[0].transpose(0, 1).float(), values.float(), output[0, queries].float())  # H N V -> N H V
    new = acting.act(acting.layer, seen)
    if new is None:
        return output, weights
    return output.index_copy(1, queries, new[None].to(output.dtype)), weights


def _index(wanted: Wanted, device: torch.device) -> slice | Int[torch.Tensor, " V"]:
    columns = wanted.columns
    return columns if isinstance(columns, slice) else columns[0].to(device)


AttentionInterface.register(CHANGED, changed_attention)
