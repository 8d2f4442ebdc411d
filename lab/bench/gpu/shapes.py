"""Models of real shapes with random weights, made on the device: nothing is loaded, and little is written."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, PretrainedConfig, PreTrainedModel

from lab import smoke
from llava.family import LoadedModel
from llava.model.builder import load_model

SMALL = "1/8"  # of which only the tokenizer and the treatment of pictures are taken


@dataclass(frozen=True)
class Shape:
    """A model's class and configuration, and what writes a small checkpoint that treats prompts and pictures alike."""

    model: type[PreTrainedModel]
    config: Callable[[], PretrainedConfig]
    write_small: Callable[[Path], None]


def _llava(size: str) -> Shape:
    return Shape(
        LlavaForConditionalGeneration,
        lambda: smoke.llava_config(size),
        lambda folder: smoke.write_checkpoint(folder, SMALL),
    )


SHAPES: dict[str, Shape] = {
    "llava15-7b": _llava("7b"),
    "llava15-1/8": _llava(SMALL),
}


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """The model on the device, ready to be asked."""
    with tempfile.TemporaryDirectory() as folder:
        shape.write_small(Path(folder))
        small = load_model(folder, device="cpu")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = shape.model._from_config(shape.config(), attn_implementation="eager")
    finally:
        torch.set_default_dtype(before)
    return replace(small, model=model.eval())
