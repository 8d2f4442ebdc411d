"""Llama 3.2 Vision: layers of their own look at the picture (cross-attention), and the prompt holds none of it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from transformers import ProcessorMixin

from llava.chat import ChatFamily, Layout
from llava.grid import Grid


class Mllama(ChatFamily):
    """A tile's tokens are its class token, then its cells; tiles that stay empty come last, and are masked."""

    model_types = ("mllama",)
    special = (
        "tiles row by row (max_image_tiles), padded at the right or below; layers of cross-attention alone see them, "
        "the others form no map, and each expression is asked alone"
    )
    options = ("max_image_tiles",)

    @classmethod
    def processor_of(cls, folder: Path, config: Any, options: Mapping[str, Any]) -> ProcessorMixin:
        processor = super().processor_of(folder, config, options)
        processor.side = config.vision_config.image_size // config.vision_config.patch_size  # cells of a tile
        return processor

    def asked(self, text: str) -> str:
        written = sys.modules[type(self.image_processor).__module__].build_string_from_input
        return written(text, self.tokenizer.bos_token, self.placeholder)

    def counted(self, made: Mapping[str, Any], tokens: int) -> int:
        return int(made["num_tiles"][0][0]) * (1 + self.image_processor.side**2)

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own, side = self.image_processor.image_processor, self.image_processor.side
        rules, edge, (width, height) = sys.modules[type(own).__module__], own.size["height"], image.size
        down, across = (int(n) for n in rules.get_optimal_tiled_canvas(height, width, own.max_image_tiles, edge))
        resized_height, resized_width = rules.get_image_size_fit_to_canvas(height, width, down, across, edge)
        x, y = edge * width / int(resized_width), edge * height / int(resized_height)  # a tile, in the picture's pixels
        rows, cols, each = down // edge, across // edge, 1 + side**2
        kind = "tile" if rows * cols > 1 else "whole"
        grids = tuple(
            Grid((row * cols + col) * each + 1, side, side, (col * x, row * y, (col + 1) * x, (row + 1) * y), 0, kind)
            for row in range(rows)
            for col in range(cols)
        )
        return Layout(grids, tuple(range(0, tokens, each)), apart=True)

    def text_inputs(
        self, ids: Int[torch.Tensor, "batch length"], inputs: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What stands behind the picture's mark sees the tiles that are there."""
        behind = (ids == self.image_tokens.token_id).cumsum(1)  # batch length
        return {"cross_attention_mask": behind[:, :, None, None] * inputs["aspect_ratio_mask"][:, None]}
