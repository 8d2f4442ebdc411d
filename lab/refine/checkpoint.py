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

from lab.base.errors import UserError
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
    _check_side(prepared, model.config.prompt_encoder_config.image_size, name)
    where = next(iter(target.device_map.values())) if isinstance(target.device_map, dict) else torch.device("cuda", 0)
    return Loaded(name, model.to(where).eval(), prepared, torch.device(where))


def _check_side(processor: Any, side: int, name: str) -> None:
    """Raises UserError unless pictures become squares of so many pixels, as the model takes them."""
    sizes = [dict(size) for size in (processor.size, getattr(processor, "pad_size", None)) if size]
    sides = sorted({pixels for size in sizes for pixels in size.values() if pixels})
    switches = [switch for switch in ("do_resize", "do_pad") if getattr(processor, switch, True) is False]
    if sides == [side] and not switches:
        return
    found = f"{switches[0]}=false" if switches else f"pictures of {' and '.join(map(str, sides))} pixels"
    raise UserError(
        f"{name}: preprocessor_config.json or processor_config.json makes {found}, but its model takes {side} x {side} "
        "pixels; take the file that belongs to the weights"
    )
