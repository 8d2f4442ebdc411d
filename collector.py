"""One sample -> one record: how much each head of the last prompt token looks at each image token.

    loaded = load_llava("llava-hf/llava-1.5-7b-hf")
    record = collect(loaded, open_image("bird.jpg"), "the bird on the branch")

`record.attn` is [layers, heads, 1, image tokens].
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from jaxtyping import Float
from PIL import Image
from transformers import LlavaForConditionalGeneration

from conf.schema import ModelConfig
from lab.errors import UserError
from lab.records import Record
from lab.stations import positions
from llava.mm_utils import Prompt, build_prompt, pixel_values
from llava.model.loaded import LoadedModel

SCHEMA = 1  # of a record's meta
GENERIC_QUERY = "Write a general description of the image."  # asks for nothing in particular (arXiv 2502.17422)


def collect(
    loaded: LoadedModel,
    image: Image.Image,
    query: str,
    config: ModelConfig | None = None,
    *,
    image_file: str | None = None,
    generic: bool = False,
) -> Record:
    """Asks the model once and keeps the last prompt token's attention to the image.

    Args:
        loaded: the checkpoint.
        image: RGB.
        query: the expression, written into the template `config.conv_mode`.
        config: how to ask; of it conv_mode, drop_space_tokens, use_generate and the generation keys are read.
        image_file: where the image came from, for the record.
        generic: also asks GENERIC_QUERY in the same template, and keeps its attention as `Record.generic`.

    Returns:
        Weights after the softmax, [layers, heads, 1, image tokens], in the model's dtype, equal bit by bit to those of
        `output_attentions=True`; with `use_generate`, those of the step that predicts the first token of the answer.

    Raises:
        UserError: a query, template or setting that cannot be used, or a prompt longer than the model reads.
    """
    config = config or ModelConfig()
    if config.use_flash_attn:
        raise UserError("model.use_flash_attn=true cannot be used: flash attention never forms the weights that are collected here")
    prompt = _prompt(loaded, query, config)
    inputs = model_inputs(loaded, image, prompt)
    with torch.inference_mode(), last_rows(loaded.model) as rows:
        if config.use_generate:
            text = _generate(loaded, inputs, config)
        else:
            text = None
            loaded.model(**inputs, use_cache=False, logits_to_keep=1)
    meta = _meta(loaded, image, query, prompt, config, image_file, text)
    return Record.from_tensor(_to_image(rows, prompt), meta, _generic(loaded, image, config) if generic else None)


def _prompt(loaded: LoadedModel, query: str, config: ModelConfig) -> Prompt:
    drop = config.drop_space_tokens
    return build_prompt(query, config.conv_mode, loaded.tokenizer, loaded.image_tokens, drop_space_tokens=drop, context=loaded.context)


def _to_image(rows: list[torch.Tensor], prompt: Prompt) -> Float[torch.Tensor, "layers heads 1 vis"]:
    return torch.stack([row[0] for row in rows])[..., positions(prompt.stations, "image")]


def _generic(loaded: LoadedModel, image: Image.Image, config: ModelConfig) -> Float[torch.Tensor, "layers heads 1 vis"]:
    prompt = _prompt(loaded, GENERIC_QUERY, config)
    with torch.inference_mode(), last_rows(loaded.model) as rows:
        loaded.model(**model_inputs(loaded, image, prompt), use_cache=False, logits_to_keep=1)
    return _to_image(rows, prompt)


@contextmanager
def last_rows(model: LlavaForConditionalGeneration) -> Iterator[list[Float[torch.Tensor, "batch heads 1 keys"]]]:
    """Within the block, the first forward leaves the last query's attention weights here, layer by layer, on the CPU.

    Each layer's full map lives no longer than the layer. The last query is the last prompt token of every sample if the
    batch is padded on the left; `generate` reads the prompt in its first forward, so later ones change nothing.

    Raises:
        UserError: the language model's attention is not eager.
    """
    implementation = model.config.text_config._attn_implementation
    if implementation != "eager":
        raise UserError(f"The language model runs {implementation} attention, which gives no weights; load it with eager attention")
    layers = model.model.language_model.layers
    rows: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _args: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        if len(rows) < len(layers):
            rows.append(output[1][:, :, -1:].to("cpu", copy=True))  # a view would keep the whole map

    hooks = [layer.self_attn.register_forward_hook(keep) for layer in layers]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def model_inputs(loaded: LoadedModel, image: Image.Image, prompt: Prompt) -> dict[str, torch.Tensor]:
    """What the model's forward takes: a batch of one on the model's device, pixels in its dtype."""
    ids = torch.tensor([prompt.ids], device=loaded.device)
    pixels = pixel_values(image, loaded.image_processor, loaded.geometry)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels.to(loaded.device, loaded.dtype)}


def _generate(loaded: LoadedModel, inputs: dict[str, torch.Tensor], config: ModelConfig) -> str:
    length = inputs["input_ids"].shape[1]
    if length + config.max_new_tokens > loaded.context:
        raise UserError(
            f"A prompt of {length} tokens and model.max_new_tokens={config.max_new_tokens} exceed the {loaded.context} that the model reads"
        )
    sampling: dict[str, Any] = {"temperature": config.temperature, "top_p": config.top_p} if config.do_sample else {}
    output = loaded.model.generate(
        **inputs,
        max_new_tokens=config.max_new_tokens,
        do_sample=config.do_sample,
        num_beams=config.num_beams,
        **{key: value for key, value in sampling.items() if value is not None},
    )
    return loaded.tokenizer.decode(output[0, length:], skip_special_tokens=True).strip()


def _meta(
    loaded: LoadedModel, image: Image.Image, query: str, prompt: Prompt, config: ModelConfig, image_file: str | None, text: str | None
) -> dict[str, Any]:
    return {
        "image_file": image_file,
        "query": query,
        "model_name": loaded.name,
        "image_size": list(image.size),  # width, height
        "vis_len": loaded.geometry.tokens,
        "patch_size": loaded.geometry.side,  # the grid's, by its traditional name
        "num_layers": loaded.num_layers,
        "num_heads": loaded.num_heads,
        "generated_text": text,
        "grids": [loaded.geometry.grid(image.size).to_dict()],
        "stations": prompt.stations,
        "conv_mode": config.conv_mode,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "attn_implementation": "eager",
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "transformers": transformers.__version__},
        "schema": SCHEMA,
    }
