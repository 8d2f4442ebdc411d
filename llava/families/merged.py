"""Qwen2-VL to Qwen3.5 and GLM-4V: one grid as fine as the picture is large, merged m x m patches a token."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from llava.boxes import BRACKETS, POINTS, BoxRule
from llava.chat import ChatFamily, Layout, whole
from llava.family import Picture, Sharing

THOUSANDTHS = BoxRule(BRACKETS, 1000)
BOXES = {  # model_type -> how it writes boxes
    "qwen2_vl": BoxRule(POINTS, 1000),
    "qwen2_5_vl": BoxRule(BRACKETS, None),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "glm4v", "glm46v"), THOUSANDTHS),
}


class Merged(ChatFamily):
    """Tokens have two coordinates each (M-RoPE), so what follows is counted from the longer side of the grid."""

    model_types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm46v")
    special = (
        "one grid in the picture's own shape; its fineness follows min_pixels and max_pixels (or size); of qwen3_5 the "
        "linear layers form no map, and each expression is asked alone"
    )
    options = ("min_pixels", "max_pixels", "size")
    marks_image_tokens = "mm_token_type_ids"

    @classmethod
    def shares(cls, text_config: Any, context: int) -> Sharing:
        own = super().shares(text_config, context)
        return Sharing.CACHED if own is Sharing.PACKED else own  # a block mask would need coordinates of its own

    @property
    def box_rule(self) -> BoxRule | None:
        return BOXES.get(self.image_processor.kind)

    def resized(self, picture: Picture) -> tuple[float, float]:
        own, grid = self.image_processor.image_processor, picture.grids[0]
        cell = own.merge_size * own.patch_size
        return float(grid.cols * cell), float(grid.rows * cell)

    @property
    def image_options(self) -> dict[str, Any]:
        return {}  # the image processor has them; at a call, min_pixels and max_pixels are deprecated

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        merge = self.image_processor.image_processor.merge_size
        _, rows, cols = (int(count) for count in made["image_grid_thw"][0])
        rows, cols = rows // merge, cols // merge
        return Layout((whole(image, rows, cols),), shift=max(rows, cols) - rows * cols)
