"""DeepSeek-VL and Janus: the picture in a square, its margins filled."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from llava.chat import ChatFamily, Layout, square
from llava.grid import Grid


class DeepseekVL(ChatFamily):
    """The longer side is resized to the tower's, the shorter one to at least `min_size` pixels; then margins."""

    model_types = ("deepseek_vl", "deepseek_vl_hybrid", "janus")
    special = "one square grid over the picture and its margins"

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own, side = self.image_processor.image_processor, square(tokens)
        pixels, (width, height) = own.size["height"], image.size
        scale = pixels / max(image.size)
        sizes = [max(round(edge * scale), own.min_size) for edge in image.size]
        left, top = ((pixels - size) // 2 for size in sizes)
        across, down = width / sizes[0], height / sizes[1]  # original pixels per resized pixel
        extent = (-left * across, -top * down, (pixels - left) * across, (pixels - top) * down)
        return Layout((Grid(0, side, side, extent),))
