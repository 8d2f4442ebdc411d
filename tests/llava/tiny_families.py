"""Tiny checkpoints of every family, with random weights, in exactly the format that the hub's have.

Eight by eight tokens to a side, so that a wrong geometry shows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaNextConfig, LlavaNextForConditionalGeneration

from tests.llava.tiny_llava import MEAN, PATCH, STD, TEXT, VISION, VOCAB, write_json, write_tokenizer_json

PIXELS, ROWS = 8 * PATCH, 448  # of the tower; of the embedding
CANVASES = [[PIXELS * rows, PIXELS * cols] for rows, cols in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
TOKENS = {"max_position_embeddings": 1024, "vocab_size": ROWS}
LLAMA: dict[str, Any] = {**TEXT, **TOKENS, "model_type": "llama"}
MISTRAL: dict[str, Any] = {**TEXT, **TOKENS, "model_type": "mistral", "sliding_window": None}
PROCESSOR = {
    "crop_size": {"height": PIXELS, "width": PIXELS}, "size": {"shortest_edge": PIXELS}, "resample": 3,
    "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "rescale_factor": 1 / 255, "image_mean": MEAN, "image_std": STD,
}  # fmt: skip


def write_llava(folder: Path, text: dict[str, Any] = LLAMA, **config: object) -> Path:
    """As llava-hf/llava-1.5-7b-hf."""
    _write_processor(folder, "LlavaProcessor", image_processor_type="CLIPImageProcessor")
    config = {"image_seq_length": 64, **config}
    return _write(folder, text, "llava", LlavaConfig, LlavaForConditionalGeneration, **config)


def write_llava_next(folder: Path, text: dict[str, Any] = MISTRAL, **config: object) -> Path:
    """As llava-hf/llava-v1.6-mistral-7b-hf."""
    _write_processor(
        folder, "LlavaNextProcessor", image_processor_type="LlavaNextImageProcessor", image_grid_pinpoints=CANVASES,
        aspect_ratio_setting="anyres",
    )  # fmt: skip
    config = {"image_grid_pinpoints": CANVASES, "use_image_newline_parameter": True, "image_seq_length": 64, **config}
    return _write(folder, text, "llava_next", LlavaNextConfig, LlavaNextForConditionalGeneration, **config)


def _write_processor(folder: Path, processor: str, **config: object) -> None:
    write_tokenizer_json(folder)
    write_json(folder / "preprocessor_config.json", {**PROCESSOR, "processor_class": processor, **config})
    own = {"patch_size": PATCH, "processor_class": processor, "vision_feature_select_strategy": "default"}
    write_json(folder / "processor_config.json", own)


def _write(
    folder: Path, text: dict[str, Any], kind: str, config_class: Any, model_class: Any, **config: object
) -> Path:
    """config.json and model.safetensors."""
    content = {
        "architectures": [model_class.__name__], "model_type": kind, "image_token_index": VOCAB, "ignore_index": -100,
        "pad_token_id": VOCAB + 1, "projector_hidden_act": "gelu", "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "text_config": text, "vision_config": {**VISION, "image_size": PIXELS, "model_type": "clip_vision_model"},
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": ROWS, **config,
    }  # fmt: skip
    write_json(folder / "config.json", content)
    with torch.device("meta"):
        model = model_class(config_class.from_pretrained(folder))
    save_file({_hub_name(name): value for name, value in draw(model).items()}, folder / "model.safetensors")
    return folder


GEMMA_NORMS = ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm")


def draw(model: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random values for a model's parameters, large enough for attention far from uniform."""
    generator = torch.Generator().manual_seed(seed)

    from_one = {  # norms of Gemma count their weight from one
        f"{name}.weight" for name, module in model.named_modules() if type(module).__name__ in GEMMA_NORMS
    }

    def values(name: str, shape: torch.Size) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            return (name not in from_one) + 0.1 * drawn
        return drawn * (0.1 if len(shape) == 1 else 1.2 * shape[1:].numel() ** -0.5)

    return {name: values(name, parameter.shape) for name, parameter in model.named_parameters()}


def _hub_name(name: str) -> str:
    """A parameter's name in the files on the hub, which are older than transformers' names of today."""
    name = name.removeprefix("model.")
    for new, old in (
        ("language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("vision_tower.", "vision_tower.vision_model."),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


FAMILIES: dict[str, Callable[..., Path]] = {
    "llava": write_llava,
    "llava_next": write_llava_next,
}
