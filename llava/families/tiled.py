"""Families that see a picture in tiles and, small, as a whole: InternVL, Aya and Command A Vision, Idefics3, Ovis2."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from llava.boxes import BRACKETS, BoxRule
from llava.chat import ChatFamily, Layout, square, tiles, whole
from llava.family import Picture


class InternVL(ChatFamily):
    """Tiles of the stretched picture, row by row; the thumbnail comes last, if there is more than one tile."""

    model_types = ("internvl", "aya_vision", "cohere2_vision")
    special = "tiles row by row (min_patches, max_patches), the whole picture last; cohere2_vision needs torchvision"
    options = ("crop_to_patches", "min_patches", "max_patches")

    @property
    def box_rule(self) -> BoxRule | None:
        return BoxRule(BRACKETS, 1000) if self.image_processor.kind == "internvl" else None

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        count, own = int(made["num_patches"][0]), self.image_processor.image_processor
        side = square(tokens // count)
        if count == 1:
            return Layout((whole(image, side, side),))
        choose = sys.modules[type(own).__module__].get_optimal_tiled_canvas
        tile, (width, height) = own.size, image.size
        cols, rows = choose((height, width), (tile["height"], tile["width"]), own.min_patches, own.max_patches)
        grids = tiles(image, rows, cols, side)
        if count > rows * cols:
            grids.append(whole(image, side, side, start=rows * cols * side**2))
        return Layout(tuple(grids))


class Idefics3(ChatFamily):
    """Tiles of the stretched picture, row by row, then the whole picture; a small one is not split."""

    model_types = ("idefics3", "smolvlm")
    special = "tiles row by row (do_image_splitting), the whole picture last; smolvlm needs num2words"
    options = ("do_image_splitting", "size")

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        rows, cols = made["rows"][0][0], made["cols"][0][0]
        side = square(tokens // (rows * cols + 1))
        parts = tiles(image, rows, cols, side) if rows * cols else []
        return Layout((*parts, whole(image, side, side, start=rows * cols * side**2)))


class Ovis2(ChatFamily):
    """The whole picture first, then its tiles row by row, if there is more than one."""

    model_types = ("ovis2",)
    special = "the whole picture first, then tiles row by row (min_patches, max_patches)"
    options = ("crop_to_patches", "min_patches", "max_patches", "use_covering_area_grid")

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        rows, cols = (int(count) for count in made["grids"][0])
        count = rows * cols
        side = square(tokens // (count + 1 if count > 1 else 1))
        rest = tiles(image, rows, cols, side, start=side**2) if count > 1 else []
        return Layout((whole(image, side, side), *rest))


class PerceptionLM(ChatFamily):
    """The whole picture first, then tiles of the stretched picture, row by row."""

    model_types = ("perception_lm",)
    special = "the whole picture first, then tiles row by row (max_num_tiles); needs torchvision"
    options = ("max_num_tiles", "vision_input_type")

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own, count = self.image_processor.image_processor, len(made["pixel_values"][0])
        side = square(tokens // count)
        first = whole(image, side, side)
        if count == 1:
            return Layout((first,))
        cols, rows = (1, 1)
        if own.max_num_tiles > 1:
            cols, rows = next(
                found
                for choose in (own._fit_image_to_canvas, own._find_closest_aspect_ratio)
                if (found := choose(img_width=image.width, img_height=image.height, tile_size=own.tile_size))
            )
        return Layout((first, *tiles(image, rows, cols, side, start=side**2)))

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """All tiles one behind the other, for pictures may have unlike numbers of them."""
        return {"pixel_values": torch.cat([picture.inputs["pixel_values"] for picture in pictures], dim=1)}


class Lfm2Vl(ChatFamily):
    """Tiles of the stretched picture, row by row, then the whole picture in its own shape; a small one is not split."""

    model_types = ("lfm2_vl",)
    special = "tiles row by row (do_image_splitting), the whole picture in its own shape last; needs torchvision"
    options = ("do_image_splitting", "min_tiles", "max_tiles", "min_image_tokens", "max_image_tokens")

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own = self.image_processor.image_processor
        rows, cols = int(made["image_rows"][0]), int(made["image_cols"][0])
        step = own.encoder_patch_size * own.downsample_factor
        high, wide = (int(edge) // step for edge in made["image_sizes"][0])
        if rows * cols == 1:
            return Layout((whole(image, high, wide),))
        side = math.ceil(own.tile_size // own.encoder_patch_size / own.downsample_factor)
        found, start = tiles(image, rows, cols, side), rows * cols * side**2
        return Layout((*found, whole(image, high, wide, start=start)) if tokens > start else tuple(found))
