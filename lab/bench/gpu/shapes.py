"""Models of real shapes with random weights, made on the device: nothing is loaded, and little is written."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
)

from lab import smoke
from lab.bench import families
from llava.family import LoadedModel
from llava.model.builder import load_model

SMALL = "1/8"  # of which only the tokenizer and the treatment of pictures are taken
QWEN25_VL_7B: Mapping[str, Mapping[str, Any]] = {  # its config.json, where it differs from the small one
    "text_config": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model's class and configuration, and what writes a small checkpoint that treats prompts and pictures alike."""

    model: type[PreTrainedModel]
    config: Callable[[Path], PretrainedConfig]  # from the folder of the small checkpoint
    write_small: Callable[[Path], None]


def _llava(size: str) -> Shape:
    return Shape(
        LlavaForConditionalGeneration,
        lambda _: smoke.llava_config(size),
        lambda folder: smoke.write_checkpoint(folder, SMALL),
    )


def _qwen25_vl(larger: Mapping[str, Mapping[str, Any]]) -> Shape:
    def config(folder: Path) -> PretrainedConfig:
        small = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        parts = {part: {**small[part], "layer_types": None, **values} for part, values in larger.items()}
        return AutoConfig.for_model(**small | parts)

    kind = families.KINDS["Qwen2.5-VL"]
    return Shape(Qwen2_5_VLForConditionalGeneration, config, lambda folder: families.write_checkpoint(folder, kind))


SHAPES: dict[str, Shape] = {
    "llava15-7b": _llava("7b"),
    "llava15-1/8": _llava(SMALL),
    "qwen2.5-vl-7b": _qwen25_vl(QWEN25_VL_7B),
    "qwen2.5-vl-1/8": _qwen25_vl({}),
}


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """The model on the device, ready to be asked."""
    with tempfile.TemporaryDirectory() as folder:
        shape.write_small(Path(folder))
        small, config = load_model(folder, device="cpu"), shape.config(Path(folder))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = shape.model._from_config(config, attn_implementation="eager")
    finally:
        torch.set_default_dtype(before)
    return replace(small, model=model.eval())
