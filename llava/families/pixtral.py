"""Pixtral, Mistral 3 and LightOnOCR: one grid in the picture's own shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from transformers import ProcessorMixin

from llava.chat import ChatFamily, Layout, whole
from llava.checkpoint.processor import load_processor


class RowsMarked(ProcessorMixin):
    """What transformers' PixtralProcessor does, which needs torchvision: a token ends each row, another the last."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **_: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.effective_patch_size = patch_size * spatial_merge_size
        self.image_token, self.image_break_token, self.image_end_token = image_token, image_break_token, image_end_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        height, width = (int(edge) // self.effective_patch_size for edge in image_inputs["image_sizes"][image_idx])
        return self.image_break_token.join([self.image_token * width] * height) + self.image_end_token


class Pixtral(ChatFamily):
    """Rows end with a token of another id."""

    model_types: ClassVar[tuple[str, ...]] = ("mistral3", "pixtral")
    special = "one grid in the picture's own shape, up to `longest_edge`; Pixtral-12B calls itself llava"
    options = ("size",)

    @classmethod
    def processor_of(cls, folder: Path, config: Any, options: Mapping[str, Any]) -> ProcessorMixin:
        step = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
        return load_processor(folder, config.model_type, {"patch_size": step, **options}, RowsMarked)

    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        step = self.image_processor.effective_patch_size
        rows, cols = (int(edge) // step for edge in made["image_sizes"][0])
        return Layout((whole(image, rows, cols),))


class LightOnOcr(Pixtral):
    """No tokens between the rows."""

    model_types = ("lighton_ocr",)
    special = "one grid in the picture's own shape, up to `longest_edge`"

    @classmethod
    def processor_of(cls, folder: Path, config: Any, options: Mapping[str, Any]) -> ProcessorMixin:
        return load_processor(folder, config.model_type, options)
