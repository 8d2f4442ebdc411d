"""A SAM from a folder or the hub, by its model type, with the image processor of Pillow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from lab.refine.frame import Frame
from lab.refine.kinds import kind_of
from llava.checkpoint.files import fetch_weights
from llava.checkpoint.weights import check_keys, one_line_errors, place

PROCESSORS = {True: ViTImageProcessorPil, False: SamImageProcessorPil}  # by whether pictures are stretched


@dataclass(frozen=True)
class Loaded:
    """A SAM, and what prepares its pictures."""

    name: str
    model: Any
    processor: Any
    device: torch.device

    def prepare(self, image: Image.Image) -> tuple[Tensor, Frame]:
        """Pixel values [1, 3, side, side], and where the picture lies in them."""
        pixels = self.processor(image.convert("RGB"), return_tensors="pt")
        values: Tensor = pixels["pixel_values"]
        side = values.shape[-1]
        height, width = (
            map(int, pixels["reshaped_input_sizes"][0]) if "reshaped_input_sizes" in pixels else (side, side)
        )
        return values.to(self.device), Frame(image.size, side, (width, height))


def load(name: str, device: str = "auto") -> Loaded:
    """The SAM in a folder, or of that name on the hub.

    Raises UserError if it is none, or if its files are missing or damaged.
    """
    kind, folder = kind_of(name), fetch_weights(name)
    model_class, processor = getattr(transformers, kind.model), PROCESSORS[kind.stretched]
    target = place(device, "float32")
    with one_line_errors(folder):
        # transformers' own choice of attention: no weights of it are read here
        model, info = model_class.from_pretrained(
            folder, dtype=target.dtype, output_loading_info=True, weights_only=True
        )
        prepared = processor.from_pretrained(folder)
    check_keys(Path(folder), info, surplus=True)
    where = next(iter(target.device_map.values())) if isinstance(target.device_map, dict) else torch.device("cuda", 0)
    return Loaded(name, model.to(where).eval(), prepared, torch.device(where))
