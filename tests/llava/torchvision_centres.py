"""Prints, as JSON, which place of a picture each image token is made of, and where its family says that it lies.

The real image processors prepare a picture whose red grows to the right and whose green grows downwards, so that a
token's mean colour is the place of its middle. Blue is 255 in the picture and 0 in padding. Run by test_torchvision,
with the stand-in for torchvision on the path.
"""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from llava.families import FAMILIES

PLAIN = {"do_normalize": False, "do_rescale": True}
TILES = {"size": {"height": 64, "width": 64}, **PLAIN}
Means = torch.Tensor  # [tokens, 3]


def of_pixels(side: int) -> Callable[[Any, Any], Means]:
    """Tiles of pixels, [..., 3, height, width], with side x side tokens each."""

    def means(made: Any, own: Any) -> Means:
        tiles = made["pixel_values"].flatten(0, -4).float()
        pooled = torch.nn.functional.adaptive_avg_pool2d(tiles, side)
        return pooled.flatten(2).transpose(1, 2).flatten(0, 1)

    return means


def merged(patches: torch.Tensor, rows: int, cols: int, merge: int) -> Means:
    """Patches [rows * cols, 3] whose squares of merge x merge are one token."""
    grid = patches.reshape(rows // merge, merge, cols // merge, merge, 3)
    return grid.mean(dim=(1, 3)).flatten(0, 1)


def of_lfm2(made: Any, own: Any) -> Means:
    shapes = made["spatial_shapes"].tolist()
    found = []
    for patches, (rows, cols) in zip(made["pixel_values"], shapes, strict=True):
        colours = patches[: rows * cols].reshape(rows * cols, -1, 3).mean(1)
        found.append(merged(colours, rows, cols, own.downsample_factor))
    return torch.cat(found)


def of_molmo(made: Any, own: Any) -> Means:
    patches = made["pixel_values"].reshape(-1, own.patch_size**2, 3).mean(1)  # of all crops
    pools = made["image_token_pooling"]
    held = (pools >= 0)[..., None]
    return (patches[pools.clamp(min=0)] * held).sum(1) / held.sum(1)


def of_kimi(made: Any, own: Any) -> Means:
    _, rows, cols = made["image_grid_thw"][0].tolist()
    return merged(made["pixel_values"].flatten(2).mean(2), rows, cols, own.merge_size)


CASES: dict[str, tuple[str, dict[str, Any], Callable[[Any, Any], Means]]] = {
    "llama4": ("Llama4ImageProcessor", {**TILES, "max_patches": 6}, of_pixels(8)),
    "llama4, largest canvas": (
        "Llama4ImageProcessor",
        {**TILES, "max_patches": 6, "resize_to_max_canvas": True},
        of_pixels(8),
    ),
    "perception_lm": ("PerceptionLMImageProcessor", {**PLAIN, "tile_size": 64, "max_num_tiles": 6}, of_pixels(8)),
    "perception_lm, whole": ("PerceptionLMImageProcessor", {**PLAIN, "vision_input_type": "whole"}, of_pixels(8)),
    "cohere2_vision": ("Cohere2VisionImageProcessor", {**TILES, "max_patches": 6}, of_pixels(8)),
    "lfm2_vl": (
        "Lfm2VlImageProcessor",
        {
            **PLAIN, "tile_size": 64, "encoder_patch_size": 4, "min_image_tokens": 16, "max_image_tokens": 64,
            "max_tiles": 6,
        },
        of_lfm2,
    ),
    "molmo2": (
        "Molmo2ImageProcessor",
        {**PLAIN, "size": {"height": 60, "width": 60}, "patch_size": 4, "overlap_margins": [2, 2], "max_crops": 6},
        of_molmo,
    ),
    "kimi_k25": (
        "Kimi_K25ImageProcessor",
        {**PLAIN, "patch_size": 4, "max_patches": 1024, "size": {"max_height": 64, "max_width": 64}},
        of_kimi,
    ),
}  # fmt: skip


def ramp(width: int, height: int) -> Image.Image:
    """Red is 255 * x / width, green 255 * y / height, blue 255."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    places = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0), axis=-1)
    return Image.fromarray(np.rint(255 * places).astype(np.uint8))


def seen(case: str, width: int, height: int) -> dict[str, Any]:
    """The middles of a picture's tokens as shares of width and height, None for padding; its grids; what is beside."""
    name, options, means = CASES[case]
    own = getattr(transformers, name)(**options)
    image = ramp(width, height)
    more = {"return_row_col_info": True} if case.startswith("lfm2") else {}
    made = own([image], return_tensors="pt", **more)
    colours = means(made, own)
    family = SimpleNamespace(image_processor=SimpleNamespace(image_processor=own))
    layout = FAMILIES[case.split(",")[0]].layout(family, image, made, len(colours))  # type: ignore[arg-type]
    middles = [colour[:2] if colour[2] > 0.999 else None for colour in colours.tolist()]
    return {"middles": middles, "grids": [grid.to_dict() for grid in layout.grids], "beside": layout.beside}


if __name__ == "__main__":
    print(json.dumps({f"{case}, {size}": seen(case, *size) for case in CASES for size in json.loads(sys.argv[1])}))
