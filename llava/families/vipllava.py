"""ViP-LLaVA: LLaVA whose projector reads several layers of the tower; the middle of the picture is cropped out."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from lab.base.errors import UserError
from llava.chat import ChatFamily, Layout, square
from llava.grid import Grid


class VipLlava(ChatFamily):
    """The shorter side is resized to the tower's, then the longer one is cut."""

    model_types = ("vipllava",)
    special = "one square grid over the middle of the picture; what a crop cuts off is not seen"

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        own = self.image_processor.image_processor
        if not (own.do_resize and own.do_center_crop):
            raise UserError("its image processor must resize and crop, for the tower sees one square")
        resized, cropped = own.size["shortest_edge"], own.crop_size["height"]
        return Layout((Grid.centre_crop(square(tokens), image.size, resized, cropped),))
