"""LLaVA-NeXT (LLaVA-1.6) in transformers' layout: the whole picture, then its tiles with a newline token per row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from llava.checkpoint.files import fetch_weights
from llava.checkpoint.parts import load_image_processor, load_tokenizer
from llava.checkpoint.tower import check_clip
from llava.checkpoint.weights import load_weights, one_line_errors
from llava.family import Family, LoadedModel, Picture, Request
from llava.finish import finish
from llava.grid import Grid
from llava.tiles import tile_geometry


class LlavaNext(Family):
    """`geometry` is a TileGeometry; the number of image tokens depends on the picture's shape."""

    model_types = ("llava_next",)
    special = "the whole picture, then its tiles without their padding, a newline token behind each row"

    @classmethod
    def load(cls, request: Request, folder: Path, raw: dict[str, Any]) -> LoadedModel:
        request.refuse_base()
        request.refuse_options()
        request.refuse_aspect_ratio("the model sees a picture whole and in tiles")
        with one_line_errors(folder):
            config = LlavaNextConfig.from_pretrained(folder)
        check_clip(request.name, config)
        tokenizer = load_tokenizer(folder)
        processor = load_image_processor(folder, LlavaNextImageProcessorPil)
        geometry = tile_geometry(config, processor, folder)
        weights = fetch_weights(request.name, request.cache_dir)
        model, _ = load_weights(LlavaNextForConditionalGeneration, weights, config, request.placement)
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

    def picture(self, image: Image.Image) -> Picture:
        inputs = self.image_processor(image, return_tensors="pt")
        side = self.geometry.side
        whole, tiles = Grid.stretched(side, side, image.size), self.geometry.tiles(image.size)
        inputs = {"pixel_values": inputs["pixel_values"], "image_sizes": inputs["image_sizes"]}
        if tiles is None:
            return Picture(inputs, whole.tokens.stop, (whole,))
        newlines = tuple(range(tiles.start + tiles.cols, tiles.tokens.stop + 1, tiles.stride))
        return Picture(inputs, tiles.tokens.stop + 1, (whole, tiles), newlines)

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """Pictures of fewer tiles are filled up with black ones, which the model leaves out again."""
        pixels = pad_sequence([picture.inputs["pixel_values"][0] for picture in pictures], batch_first=True)
        return {"pixel_values": pixels, "image_sizes": torch.cat([p.inputs["image_sizes"] for p in pictures])}
