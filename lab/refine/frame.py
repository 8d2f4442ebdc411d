"""How a picture lies in the square that SAM sees.

SAM and SAM-HQ fit the longer side and pad below or at the right; SAM 2 and SAM 3 stretch the picture over the square.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from llava.grid import Grid

OUTSIDE = -10.0  # logit of a coarse mask where its cells do not reach


@dataclass(frozen=True)
class Frame:
    """A picture of `image_size` (width, height) that covers `used` (width, height) of a square of `side` pixels."""

    image_size: tuple[int, int]
    side: int
    used: tuple[int, int]

    def place(self, xy: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Pixels of the picture -> pixels of the square, as the model takes them, float32."""
        scale = np.array(self.used) / np.array(self.image_size)
        return (np.asarray(xy) * scale).astype(np.float32)

    def on_picture(self, masks: Float[Tensor, "n m m"]) -> Float[Tensor, "n height width"]:
        """Masks of the square, of any resolution -> masks of the picture: bilinear, without the padding."""
        width, height = self.image_size
        if self.used != (self.side, self.side):
            masks = _resized(masks, self.side, self.side)[..., : self.used[1], : self.used[0]]
        return _resized(masks, height, width)

    def heat(self, heat: Float[np.ndarray, "rows cols"], grid: Grid, size: int, outside: float = 0.0) -> np.ndarray:
        """A map of cells over the picture -> float32 [size, size] over the square, bilinear between the cells' centres.

        `outside`: what stands where the square shows no picture, or the cells do not reach.
        """
        centres = (np.arange(size) + 0.5) * self.side / size
        x, y = (centres * whole / used for whole, used in zip(self.image_size, self.used, strict=True))
        x0, y0, x1, y1 = grid.extent_xyxy
        col, row = (x - x0) * grid.cols / (x1 - x0), (y - y0) * grid.rows / (y1 - y0)
        down, across = np.meshgrid(row - 0.5, col - 0.5, indexing="ij")
        found = ndimage.map_coordinates(np.asarray(heat, np.float32), [down, across], order=1, mode="nearest")
        reached = ((row >= 0) & (row <= grid.rows) & (y < self.image_size[1]))[:, None]
        return np.where(reached & ((col >= 0) & (col <= grid.cols) & (x < self.image_size[0])), found, outside)


def _resized(masks: Float[Tensor, "n h w"], height: int, width: int) -> Float[Tensor, "n height width"]:
    if masks.shape[-2:] == torch.Size((height, width)):
        return masks
    return F.interpolate(masks[:, None].float(), (height, width), mode="bilinear", align_corners=False)[:, 0]
