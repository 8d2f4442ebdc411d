"""A SAM from a folder or the hub, by its model type, with the image processor of Pillow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, Sam2Model, Sam3TrackerModel, SamHQModel, SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from lab.base.errors import UserError
from lab.refine.frame import Frame
from llava.checkpoint.files import fetch, fetch_weights, read_json
from llava.checkpoint.weights import check_keys, one_line_errors, place

PADDED, STRETCHED = SamImageProcessorPil, ViTImageProcessorPil
KINDS: dict[str, tuple[type[PreTrainedModel], type]] = {
    "sam": (SamModel, PADDED),
    "sam_hq": (SamHQModel, PADDED),
    "sam2": (Sam2Model, STRETCHED),
    "sam2_video": (Sam2Model, STRETCHED),  # as the checkpoints of SAM 2 and 2.1 call themselves
    "sam3_tracker": (Sam3TrackerModel, STRETCHED),
    "sam3_video": (Sam3TrackerModel, STRETCHED),  # as the checkpoint of SAM 3 calls itself
}


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
    folder = fetch(name)
    model_type = read_json(folder / "config.json").get("model_type") if (folder / "config.json").exists() else None
    if model_type not in KINDS:
        found = f"its model_type is {model_type!r}" if model_type else "it has no config.json with a model_type"
        raise UserError(f"refine.checkpoint={name} is no SAM that is known: {found}; known are {', '.join(KINDS)}")
    kind, processor = KINDS[model_type]
    folder = fetch_weights(name)
    target = place(device, "float32")
    with one_line_errors(folder):
        # transformers' own choice of attention: no weights of it are read here
        model, info = kind.from_pretrained(folder, dtype=target.dtype, output_loading_info=True, weights_only=True)
        prepared = processor.from_pretrained(folder)  # type: ignore[attr-defined]
    check_keys(Path(folder), info, surplus=True)
    where = next(iter(target.device_map.values())) if isinstance(target.device_map, dict) else torch.device("cuda", 0)
    return Loaded(name, model.to(where).eval(), prepared, torch.device(where))
