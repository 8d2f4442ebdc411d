"""The parts that every checkpoint has, and how they become one model: tokenizer, image processor, limits."""

import json
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from lab.base.errors import UserError
from llava.family import Family, Geometry, LoadedModel
from llava.model.tower import drop_unread_layers
from llava.model.weights import one_line_errors
from llava.prompt import ImageTokens

__all__ = ["LoadedModel", "finish", "load_image_processor", "load_tokenizer"]

CONV_MODES = (  # part of a checkpoint's name -> the template it was trained with; the first that fits
    ("llama-2", "llava_llama_2"),
    ("mistral", "mistral_instruct"),
    ("v1", "vicuna_v1"),
    ("1.5", "vicuna_v1"),
    ("v0", "llava_v0"),
)


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


def load_image_processor(folder: Path, kind: Any, **settings: Any) -> Any:
    """The preprocessing that the folder describes, as an image processor of the class `kind`; needs no torchvision.

    Raises:
        UserError: its file is missing or broken.
    """
    if not any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{folder} has no preprocessor_config.json, which says how pictures are resized and normalised")
    with one_line_errors(folder / "preprocessor_config.json"):
        return kind.from_pretrained(folder, **settings)


def finish(
    family: type[Family],
    name: str,
    layout: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    processor: Any,
    geometry: Geometry,
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
    text = model.config.get_text_config(decoder=True)
    limit = min(n for n in (text.max_position_embeddings, context) if n)
    if geometry.fewest >= limit:
        raise UserError(f"{name}: the image takes {geometry.fewest} tokens, but the model reads only {limit}")
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
    own = family(tokenizer, processor, geometry, image_tokens, limit, family.shares(text, limit))
    return LoadedModel(name, layout, model.eval(), own, conv_mode, notes)
