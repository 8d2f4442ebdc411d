"""Kimi K2.5: one grid in the picture's own shape, padded at the right and below to whole tokens."""

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from llava.chat import ChatFamily, Layout
from llava.grid import Grid


class KimiK25(ChatFamily):
    """The picture is never enlarged."""

    model_types = ("kimi_k25",)
    special = "one grid in the picture's own shape (max_patches), padded at the right and below; needs torchvision"
    options = ("max_patches", "size")

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own, (width, height) = self.image_processor.image_processor, image.size
        step, most = own.merge_size * own.patch_size, own.size["max_height"] * own.patch_size  # pixels
        _, rows, cols = (int(count) // own.merge_size for count in made["image_grid_thw"][0])
        patches = max(1.0, height // own.patch_size) * max(1.0, width // own.patch_size)
        scale = min(1.0, math.sqrt(own.max_patches / patches), most / height, most / width)
        down, across = (size / min(max(1, int(size * scale)), most) for size in (height, width))
        return Layout((Grid(0, rows, cols, (0.0, 0.0, cols * step * across, rows * step * down)),))
