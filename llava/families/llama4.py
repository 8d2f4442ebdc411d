"""Llama 4: tiles of a canvas that holds the picture in its upper left corner, then the whole picture."""

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from llava.chat import ChatFamily, Layout, square, whole
from llava.grid import Grid


class Llama4(ChatFamily):
    """The picture keeps its shape; what is left of the canvas, at the right or below, is padding."""

    model_types = ("llama4",)
    beams = False  # its image features are not repeated for them
    special = "tiles row by row (max_patches), padded at the right or below, the whole picture last; needs torchvision"
    options = ("max_patches", "resize_to_max_canvas")

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own = self.image_processor.image_processor
        rows, cols = (int(count) for count in made["aspect_ratios"][0])
        count, pixels, (width, height) = rows * cols, own.size["height"], image.size
        side = square(tokens // (count + 1 if count > 1 else 1))
        limits = [
            edge if own.resize_to_max_canvas else min(max(size, pixels), edge)
            for size, edge in ((height, rows * pixels), (width, cols * pixels))
        ]
        down, across = (size / new for size, new in zip((height, width), _fitted((height, width), limits), strict=True))
        grids, beside = list[Grid](), list[int]()
        for number in range(count):
            row, col = divmod(number, cols)
            left, top = col * pixels * across, row * pixels * down
            start = number * side**2
            if left >= width or top >= height:  # padding alone
                beside += range(start, start + side**2)
                continue
            extent = (left, top, left + pixels * across, top + pixels * down)
            grids.append(Grid(start, side, side, extent, kind="tile" if count > 1 else "whole"))
        if count > 1:
            grids.append(whole(image, side, side, start=count * side**2))
        return Layout(tuple(grids), tuple(beside))


def _fitted(size: tuple[int, int], limits: list[int]) -> tuple[int, int]:
    """(height, width) of a picture that is enlarged or shrunk until it fills the limits in one direction."""
    height, width = size
    if limits[1] / width < limits[0] / height:
        return max(1, min(math.floor(height * (limits[1] / width)), limits[0])), limits[1]
    return limits[0], max(1, min(math.floor(width * (limits[0] / height)), limits[1]))
