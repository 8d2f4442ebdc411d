"""Molmo 2: the whole picture, then the picture in overlapping crops whose tokens are put together again."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from llava.chat import ChatFamily, Layout
from llava.family import Picture, Sharing
from llava.grid import Grid


class Molmo2(ChatFamily):
    """Both grids are stretched; patches are pooled, and where a pool has too few, it reaches beyond the picture."""

    model_types = ("molmo2",)
    special = "the whole picture first, then one finer grid over it (max_crops); needs torchvision"
    options = ("max_crops",)
    marks_image_tokens = "mm_token_type_ids"

    @classmethod
    def shares(cls, text_config: Any, context: int) -> Sharing:
        return Sharing.CACHED  # image tokens see each other in both directions

    def asked(self, text: str) -> str:
        start = self.tokenizer.bos_token or self.tokenizer.eos_token
        return text if text.startswith(start) else start + text

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own = self.image_processor.image_processor
        geometry, crop = sys.modules[type(own).__module__].compute_crop_geometry, own.size["height"]
        _, _, *canvas = geometry(image.height, image.width, own.max_crops, own.overlap_margins, crop, own.patch_size)
        rows, cols, fine_rows, fine_cols = (int(count) for count in made["image_grids"][0])
        coarse = _pooled(image, [crop, crop], own.patch_size, own.pooling_size, (rows, cols))
        fine = _pooled(image, canvas, own.patch_size, own.pooling_size, (fine_rows, fine_cols), start=rows * cols)
        return Layout((coarse, fine))

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """The pools count patches from the first picture's first on."""
        joined = super().inputs(pictures)
        patches = [picture.inputs["pixel_values"].shape[:2].numel() for picture in pictures]
        starts = [sum(patches[:number]) for number in range(len(pictures))]
        pools = [picture.inputs["image_token_pooling"] for picture in pictures]
        joined["image_token_pooling"] = torch.cat(
            [torch.where(pool < 0, pool, pool + start) for pool, start in zip(pools, starts, strict=True)]
        )
        return joined


def _pooled(
    image: Image.Image,
    canvas: Sequence[int],
    patch: int,
    pooling: Sequence[int],
    shape: tuple[int, int],
    start: int = 0,
) -> Grid:
    """A grid over pools of patches of a canvas, (height, width) pixels; patches that pools lack lie outside it."""
    low, high = list[float](), list[float]()
    for size, edge, pool, count in zip((image.height, image.width), canvas, pooling, shape, strict=True):
        patches = edge // patch
        before = (count * pool - patches) // 2
        low.append(-before * size / patches)
        high.append((count * pool - before) * size / patches)
    return Grid(start, *shape, (low[1], low[0], high[1], high[0]), kind="tile" if start else "whole")
