"""PaliGemma, Gemma 3 and Gemma 4: the picture stretched to a square, or kept in its shape, and crops of a long one."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from PIL import Image

from llava.boxes import LOCATIONS, BoxRule
from llava.chat import ChatFamily, Layout, square, whole
from llava.family import Sharing
from llava.grid import Grid


class PaliGemma(ChatFamily):
    """The prompt is read in both directions, so that expressions cannot share a reading of the picture."""

    model_types = ("paligemma",)
    special = "one square grid; the prompt is read in both directions, so each expression is asked alone"

    @classmethod
    def shares(cls, text_config: Any, context: int) -> Sharing:
        return Sharing.ALONE

    def text_inputs(
        self, ids: Int[torch.Tensor, "batch length"], inputs: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        return {"token_type_ids": torch.zeros_like(ids)}  # all of it is the prompt

    @property
    def box_rule(self) -> BoxRule:
        return BoxRule(LOCATIONS, 1024, rows_first=True)

    def asked(self, text: str) -> str:
        before, after = text.rsplit(self.placeholder, 1)
        return f"{before}{self.placeholder}{self.tokenizer.bos_token}{after}\n"

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        return Layout((whole(image, square(tokens), square(tokens)),))


PAN_AND_SCAN = (
    "do_pan_and_scan",
    "pan_and_scan_min_crop_size",
    "pan_and_scan_max_num_crops",
    "pan_and_scan_min_ratio_to_activate",
)


class Gemma3(ChatFamily):
    """Image tokens see each other in both directions; pan-and-scan adds crops of a long picture behind the whole."""

    model_types = ("gemma3",)
    special = "16 x 16 of the whole picture; with do_pan_and_scan also of crops along its longer side"
    options = PAN_AND_SCAN
    marks_image_tokens = "token_type_ids"

    @classmethod
    def shares(cls, text_config: Any, context: int) -> Sharing:
        return Sharing.CACHED

    @property
    def placeholder(self) -> str:
        return self.image_processor.boi_token

    @property
    def image_options(self) -> dict[str, Any]:
        own = self.image_processor.image_processor
        scan = {key: value for key in PAN_AND_SCAN if (value := getattr(own, key, None)) is not None}
        return {**scan, **super().image_options}

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        crops = int(made["num_crops"][0])
        side = square(tokens // (crops + 1))
        grids, (width, height) = [whole(image, side, side)], image.size
        across, down = (math.ceil(width / crops), height) if crops and width >= height else (width, height)
        if crops and width < height:
            down = math.ceil(height / crops)
        for crop in range(crops):
            left, top = (crop * across, 0) if width >= height else (0, crop * down)
            extent = (left, top, min(left + across, width), min(top + down, height))
            box = tuple(float(edge) for edge in extent)
            grids.append(Grid((crop + 1) * side**2, side, side, box, kind="tile"))  # type: ignore[arg-type]
        return Layout(tuple(grids))


class Gemma4(ChatFamily):
    """The picture keeps its shape; its patches are pooled into at most a fixed number of tokens."""

    model_types = ("gemma4",)
    special = "one grid in the picture's own shape, of at most 280 tokens (max_soft_tokens)"
    options = ("max_soft_tokens",)
    fills: ClassVar[Mapping[str, int]] = {"image_position_ids": -1}
    marks_image_tokens = "mm_token_type_ids"

    @classmethod
    def shares(cls, text_config: Any, context: int) -> Sharing:
        return Sharing.CACHED

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        pooled = self.image_processor.image_processor.pooling_kernel_size
        cols, rows = (int(last) + 1 for last in made["image_position_ids"][0].max(0).values)
        return Layout((whole(image, rows // pooled, cols // pooled),))
