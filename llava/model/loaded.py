"""A checkpoint in memory, and the parts that every layout has: tokenizer, image processor, geometry."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaTokenizer, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lab.base.errors import UserError
from llava.mm_utils import ImageGeometry, ImageTokens
from llava.model.weights import one_line_errors

CONV_MODES = (  # part of a checkpoint's name -> the template it was trained with; the first that fits
    ("llama-2", "llava_llama_2"),
    ("mistral", "mistral_instruct"),
    ("v1", "vicuna_v1"),
    ("1.5", "vicuna_v1"),
    ("v0", "llava_v0"),
)


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory, in evaluation mode, with all that is needed to ask it."""

    name: str
    layout: str  # transformers | original | original, projector on a base | original, LoRA on a base
    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    image_processor: LlavaImageProcessorPil
    geometry: ImageGeometry
    image_tokens: ImageTokens
    context: int  # tokens that the model reads, image tokens included
    conv_mode: str | None  # template that the checkpoint was trained with, if its name tells
    notes: tuple[str, ...] = ()  # what had to be assumed

    @property
    def num_layers(self) -> int:
        return self.model.config.text_config.num_hidden_layers

    @property
    def num_heads(self) -> int:
        return self.model.config.text_config.num_attention_heads

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype


def load_tokenizer(folder: Path, *, prefer_sentencepiece: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder, from tokenizer.json or tokenizer.model.

    AutoTokenizer is not asked: for LLaVA's tokenizer.model it leaves out the space before the first word.

    Raises:
        UserError: its files are missing or broken.
    """
    names = ["tokenizer.json", "tokenizer.model"]
    found = [name for name in (reversed(names) if prefer_sentencepiece else names) if (folder / name).exists()]
    if not found:
        raise UserError(f"{folder} has no tokenizer; expected {' or '.join(names)}")
    with one_line_errors(folder / found[0]):
        if found[0] == "tokenizer.json":
            return PreTrainedTokenizerFast.from_pretrained(folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        unsaid = {"legacy": True, "add_bos_token": True}  # what was meant when these files did not say it
        return LlamaTokenizer.from_pretrained(
            folder, **{key: settings.get(key, value) for key, value in unsaid.items()}
        )


def load_image_processor(folder: Path, *, pad: bool) -> LlavaImageProcessorPil:
    """The CLIP preprocessing that the folder describes, with or without padding to a square first; needs no
    torchvision.

    Raises:
        UserError: its file is missing or broken.
    """
    if not any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{folder} has no preprocessor_config.json, which says how pictures are resized and normalised")
    with one_line_errors(folder / "preprocessor_config.json"):
        return LlavaImageProcessorPil.from_pretrained(folder, do_pad=pad)


def image_geometry(config: LlavaConfig, processor: LlavaImageProcessorPil, source: Path) -> ImageGeometry:
    """Where the image tokens lie in a picture, from the processor's sizes and the tower's.

    Raises:
        UserError: the two do not fit together.
    """
    size, crop, vision = dict(processor.size), dict(processor.crop_size), config.vision_config
    seen = vision.image_size
    resize_to = int(size.get("shortest_edge") or size.get("height") or 0)
    if (crop.get("height"), crop.get("width")) != (seen, seen) or (processor.do_pad and resize_to != seen):
        raise UserError(
            f"{source}: pictures are resized to {size} and cropped to {crop}, but the vision tower sees {seen} x {seen} pixels"
        )
    if seen % vision.patch_size:
        raise UserError(f"{source}: {seen} pixels are no whole number of {vision.patch_size}-pixel patches")
    layers, layer = vision.num_hidden_layers, config.vision_feature_layer
    if not all(-layers - 1 <= one <= layers for one in (layer if isinstance(layer, list) else [layer])):
        raise UserError(f"{source}: the vision tower has {layers} layers, but features of layer {layer} are asked for")
    side = seen // vision.patch_size
    start = 1 if config.vision_feature_select_strategy == "full" else 0
    return ImageGeometry(side, start, bool(processor.do_pad), resize_to, seen)


def finish(
    name: str,
    layout: str,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    processor: LlavaImageProcessorPil,
    geometry: ImageGeometry,
    *,
    image_token_id: int,
    marked: bool = False,
    context: int | None = None,
    notes: tuple[str, ...] = (),
) -> LoadedModel:
    """Puts the parts together; `context` is a limit below what the language model's positions allow.

    Raises:
        UserError: the image tokens leave no room for words.
    """
    limit = min(n for n in (model.config.text_config.max_position_embeddings, context) if n)
    if geometry.tokens >= limit:
        raise UserError(f"{name}: the image takes {geometry.tokens} tokens, but the model reads only {limit}")
    generation = model.generation_config
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    if generation.pad_token_id is None or generation.pad_token_id < 0:
        generation.pad_token_id = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
    conv_mode = next((mode for part, mode in CONV_MODES if part in name.lower()), None)
    if tokenizer("").input_ids != [tokenizer.bos_token_id]:
        notes = (*notes, "the tokenizer adds no beginning-of-sequence token")
    image_tokens = ImageTokens(image_token_id, geometry.tokens, marked)
    drop_unread_layers(model)
    return LoadedModel(
        name, layout, model.eval(), tokenizer, processor, geometry, image_tokens, limit, conv_mode, notes
    )


def drop_unread_layers(model: LlavaForConditionalGeneration) -> None:
    """Takes the vision tower's layers behind the last one that features are taken from out of the model: they cannot
    change anything.

    LLaVA-1.5 takes them from the last layer but one. The configuration then counts the layers that are left, and the
    features' from the front.
    """
    config, vision = model.config, model.config.vision_config
    layers, asked = vision.num_hidden_layers, config.vision_feature_layer
    from_front = [
        layer if layer >= 0 else layers + 1 + layer for layer in (asked if isinstance(asked, list) else [asked])
    ]
    left = max(1, *from_front)
    if left < layers:
        encoder = model.model.vision_tower.encoder
        encoder.layers = encoder.layers[:left]
        vision.num_hidden_layers = left
        config.vision_feature_layer = from_front if isinstance(asked, list) else from_front[0]
