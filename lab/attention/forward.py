"""Packed prompts through a model, up to its last attention: what the read tokens of each look at.

rows = image_rows(loaded, loaded.family.inputs(pictures), pack(prompts))    # [layers, batch, heads, queries, vis]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from transformers import DynamicCache

from lab.attention.capture import attention_modules, attention_name, kept_rows, until_last_attention
from lab.attention.packing import Packed, pack, pack_behind
from lab.attention.tokens import with_answer
from llava.family import LoadedModel, Sharing
from llava.layers import reaches
from llava.prompt import Prompt

Rows = Float[torch.Tensor, "layers batch heads queries vis"]


def image_rows(loaded: LoadedModel, inputs: Mapping[str, torch.Tensor], packed: Packed) -> Rows:
    """The attention of the read tokens of every prompt to the image tokens, on the device.

    The queries are the prompts' read tokens one prompt after the other, as many of each; of most, its last token alone.

    `inputs` are those of the pictures, on any device; floating-point ones are turned into the model's precision.
    Several expressions share their picture in the way of `loaded.family.sharing`; one is an ordinary forward.
    """
    packed = packed.to(loaded.device)
    inputs = to_model(loaded, inputs)
    if packed.single or loaded.family.sharing is Sharing.PACKED:
        return _at_once(loaded, inputs, packed)
    if loaded.family.sharing is Sharing.CACHED:
        return _behind_cache(loaded, inputs, packed)
    raise ValueError(f"{type(loaded.family).__name__} cannot share a picture: ask one expression at a time")


def answer_rows(loaded: LoadedModel, inputs: Mapping[str, torch.Tensor], prompt: Prompt, answer: Sequence[int]) -> Rows:
    """The attention of every token of an answer to the image tokens: the prompt is read, and the answer behind it.

    A model with layers that keep a state, and so nothing that a cache could be cut to, reads both at once.
    """
    answer = tuple(answer)
    if 0 in reaches(loaded.text_config).values():
        return image_rows(loaded, inputs, pack([[with_answer(prompt, answer)]]))
    return _behind_cache(loaded, to_model(loaded, inputs), pack_behind(prompt, answer).to(loaded.device))


def to_model(loaded: LoadedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A picture's inputs on the model's device and, if they are floating-point, in its precision."""
    return {
        key: value.to(loaded.device).to(loaded.dtype) if value.is_floating_point() else value.to(loaded.device)
        for key, value in inputs.items()
    }


def body(loaded: LoadedModel) -> Callable[..., Any]:
    """The model below the output layer, as transformers names it; where it has no such name, the whole model."""
    return getattr(loaded.model, "model", loaded.model)


def in_all_layers(loaded: LoadedModel, rows: Rows) -> Rows:
    """The rows at the numbers of their layers; those of layers without attention (convolutions, ...) are 0."""
    own = [int(module.layer_idx) for module in attention_modules(loaded.model)]  # type: ignore[arg-type]
    if len(own) == loaded.num_layers:
        return rows
    spread = rows.new_zeros((loaded.num_layers, *rows.shape[1:]))
    spread[own] = rows
    return spread


def stacked(rows: Sequence[torch.Tensor]) -> Rows:
    """The layers' rows on one device, also of a model that is spread over several."""
    return torch.stack([row.to(rows[0].device) for row in rows])


def _at_once(loaded: LoadedModel, inputs: Mapping[str, torch.Tensor], packed: Packed) -> Rows:
    text = packed.inputs(attention_name(loaded.model), loaded.dtype)
    if loaded.family.sharing is Sharing.ALONE:  # a prompt that is read in both directions must not see its padding
        text["attention_mask"] = packed.own.long()
    with torch.inference_mode(), kept_rows(loaded.model, packed.wanted(), stop=True) as rows:
        # the model below the output layer: no text is asked for
        body(loaded)(**text, **inputs, **loaded.family.text_inputs(packed.ids, inputs), use_cache=False)
    with torch.inference_mode():
        return stacked(rows)


def _behind_cache(loaded: LoadedModel, inputs: Mapping[str, torch.Tensor], packed: Packed) -> Rows:
    cache = DynamicCache()  # without a config: with one, layers with a window would forget keys that later tokens need
    text = packed.inputs_behind(reaches(loaded.text_config), attention_name(loaded.model), loaded.dtype)
    with torch.inference_mode(), until_last_attention(loaded.model):
        prefix = packed.ids[:, : packed.start]
        of_tokens = loaded.family.text_inputs(prefix, inputs)
        body(loaded)(input_ids=prefix, **inputs, **of_tokens, past_key_values=cache, use_cache=True)
    if loaded.family.sharing is Sharing.ALONE:  # it knows best which masks and places its own way of reading needs
        text = {"input_ids": text["input_ids"]}
    with torch.inference_mode(), kept_rows(loaded.model, packed.wanted_behind(), stop=True) as rows:
        body(loaded)(**text, past_key_values=cache, use_cache=True)
    with torch.inference_mode():
        return stacked(rows)
