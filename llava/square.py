"""One square grid over a picture that is padded to a square or cropped to its middle, as LLaVA sees it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from transformers import LlavaConfig

from lab.base.errors import UserError
from llava.checkpoint.tower import tower_side
from llava.grid import Grid

MAX_CROP_RATIO = 50  # longer edge / shorter edge; beyond it, cropping first blows the picture up without bound


@dataclass(frozen=True)
class ImageGeometry:
    """What happens to a picture on its way to the image tokens, and so where each token lies in it."""

    side: int  # tokens per row and per column
    start: int  # index of the first patch among the image tokens: 1 if the tower's class token is kept, else 0
    pad: bool  # centred in a square first; otherwise the middle is cropped out
    resize_to: int  # pixels of the shorter edge
    crop_to: int  # pixels of the square that the tower sees

    @property
    def tokens(self) -> int:
        """Image tokens of one picture, V."""
        return self.start + self.side * self.side

    @property
    def fewest(self) -> int:
        """The same: every picture has as many."""
        return self.tokens

    def describe(self) -> dict[str, str]:
        """What happens to a picture, in words."""
        aspect = "padded to a square" if self.pad else "its middle cropped to a square"
        return {
            "image": f"{aspect}, {self.crop_to} pixels",
            "grid": f"{self.side} x {self.side} of {self.tokens} image tokens, the first at {self.start}",
        }

    def grid(self, image_size: tuple[int, int]) -> Grid:
        """The grid of a picture of (width, height) pixels."""
        if self.pad:
            return Grid.padded_square(self.side, image_size, self.start)
        return Grid.centre_crop(self.side, image_size, self.resize_to, self.crop_to, self.start)


def pixel_values(image: Image.Image, processor: Any, geometry: ImageGeometry) -> Float[torch.Tensor, "1 3 side side"]:
    """The RGB picture as the vision tower takes it: padded or cropped, resized, normalised; float32.

    Raises:
        UserError: the picture is so narrow that cropping its middle makes no sense.
    """
    if not geometry.pad and max(image.size) > MAX_CROP_RATIO * min(image.size):
        width, height = image.size
        raise UserError(
            f"The image is {width} x {height} pixels, too narrow to crop a square out of; "
            "set model.image_aspect_ratio=pad"
        )
    return processor(image, return_tensors="pt")["pixel_values"]


def image_geometry(config: LlavaConfig, processor: Any, source: Path) -> ImageGeometry:
    """Where the image tokens lie in a picture, from the processor's sizes and the tower's.

    Raises:
        UserError: the two do not fit together.
    """
    for step in ("do_resize", *(() if processor.do_pad else ("do_center_crop",))):
        if not getattr(processor, step):
            raise UserError(f"{source}: its image processor says {step}: false, so pictures have no grid that is known")
    size, crop, seen = dict(processor.size), dict(processor.crop_size), config.vision_config.image_size
    resize_to = int(size.get("shortest_edge") or size.get("height") or 0)
    if (crop.get("height"), crop.get("width")) != (seen, seen) or (processor.do_pad and resize_to != seen):
        raise UserError(
            f"{source}: pictures are resized to {size} and cropped to {crop}, "
            f"but the vision tower sees {seen} x {seen} pixels"
        )
    side = tower_side(config, source)
    start = 1 if config.vision_feature_select_strategy == "full" else 0
    return ImageGeometry(side, start, bool(processor.do_pad), resize_to, seen)
