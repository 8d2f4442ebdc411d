"""LLaVA-1.5 and its like: one square grid over the picture, in transformers' layout and in the original's."""

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lab.base.errors import UserError
from llava.boxes import BRACKETS, Box, BoxRule
from llava.checkpoint.files import fetch_weights
from llava.checkpoint.parts import load_image_processor, load_tokenizer
from llava.checkpoint.tower import check_clip
from llava.checkpoint.weights import load_weights, one_line_errors
from llava.families.original import LANGUAGE_MODELS, load_original
from llava.family import Family, LoadedModel, Picture, Request
from llava.finish import finish
from llava.square import image_geometry, pixel_values


class Llava(Family):
    """`geometry` is an ImageGeometry: the picture is padded to a square, or its middle is cropped out."""

    model_types = tuple(LANGUAGE_MODELS)
    special = "one square grid; the picture is padded to a square, or its middle is cropped out (image_aspect_ratio)"

    @classmethod
    def load(cls, request: Request, folder: Path, raw: dict[str, Any]) -> LoadedModel:
        if not (raw["model_type"] == "llava" and "vision_config" in raw and "text_config" in raw):
            if not raw.get("mm_vision_tower"):
                raise UserError(
                    f"{request.name}: config.json names no vision tower; expected mm_vision_tower (original layout) "
                    "or vision_config (transformers layout)"
                )
            return load_original(cls, request, folder, raw)
        request.refuse_base()
        request.refuse_options()
        with one_line_errors(folder):
            config = LlavaConfig.from_pretrained(folder)
        check_clip(request.name, config)
        tokenizer = load_tokenizer(folder)
        processor = load_image_processor(folder, LlavaImageProcessorPil, do_pad=request.pad is not False)
        geometry = image_geometry(config, processor, folder)
        weights = fetch_weights(request.name, request.cache_dir)
        model, _ = load_weights(LlavaForConditionalGeneration, weights, config, request.placement)
        return finish(
            cls,
            request.name,
            "transformers",
            model,
            tokenizer,
            processor,
            geometry,
            image_token_id=config.image_token_id,
        )

    @property
    def box_rule(self) -> BoxRule:
        return BoxRule(BRACKETS, 1.0)  # shares of the square that the model sees

    def frame(self, picture: Picture, image_size: tuple[int, int]) -> Box:
        return picture.grids[0].extent_xyxy

    def picture(self, image: Image.Image) -> Picture:
        pixels = pixel_values(image, self.image_processor, self.geometry)
        grid = self.geometry.grid(image.size)
        return Picture({"pixel_values": pixels}, self.geometry.tokens, (grid,), beside=tuple(range(grid.start)))
