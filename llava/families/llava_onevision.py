"""LLaVA-OneVision: as LLaVA-NeXT sees a picture, with the tiles' features shrunk where they would be too many."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from lab.base.errors import UserError
from llava.chat import ChatFamily, Layout, square, whole
from llava.tiles import TileGeometry


class LlavaOnevision(ChatFamily):
    """The whole picture, then its tiles without their padding and with a newline token behind each row."""

    model_types = ("llava_onevision",)
    special = "the whole picture, then up to 9 times as many tokens of its tiles, a newline token behind each row"

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        if config.vision_feature_select_strategy != "full":
            raise UserError(f"{name}: vision_feature_select_strategy must be full, as this family was published")
        if not re.fullmatch(r"anyres_max_\d+", config.vision_aspect_ratio):
            raise UserError(
                f"{name}: vision_aspect_ratio {config.vision_aspect_ratio!r} is not known, only anyres_max_N"
            )

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        processor, own = self.image_processor, self.image_processor.image_processor
        side, pixels = square(processor.num_image_tokens), int(made["pixel_values"].shape[-1])
        most = int(processor.vision_aspect_ratio.removeprefix("anyres_max_"))
        found = TileGeometry(side, pixels, tuple(tuple(pair) for pair in own.image_grid_pinpoints)).tiles(image.size)
        if found is None:
            return Layout((whole(image, side, side),))
        ratio = math.sqrt(found.rows * found.cols / (most * side**2))
        if ratio > 1.1:
            rows, cols = int(found.rows // ratio), int(found.cols // ratio)
            found = replace(found, rows=rows, cols=cols, stride=cols + 1)
        newlines = tuple(range(found.start + found.cols, found.tokens.stop + 1, found.stride))
        return Layout((whole(image, side, side), found), newlines)
