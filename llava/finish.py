"""The parts of a checkpoint become one model, ready to be asked."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lab.base.errors import UserError
from llava.checkpoint.tower import drop_unread_layers
from llava.conversation import OWN_TEMPLATES
from llava.family import Family, Geometry, LoadedModel
from llava.prompt import ImageTokens

CONV_MODES = (  # part of a checkpoint's name -> the template it was trained with; the first that fits
    ("llama-2", "llava_llama_2"),
    ("mistral", "mistral_instruct"),
    ("v1", "vicuna_v1"),
    ("1.5", "vicuna_v1"),
    ("v0", "llava_v0"),
)


UNBOUNDED = 1 << 20  # tokens that a model may read if its configuration names no end


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
    limit = min(n for n in (getattr(text, "max_position_embeddings", None), context, UNBOUNDED) if n)
    if geometry.fewest >= limit:
        raise UserError(f"{name}: the image takes {geometry.fewest} tokens, but the model reads only {limit}")
    generation = model.generation_config
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    if generation.pad_token_id is None or generation.pad_token_id < 0:
        generation.pad_token_id = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
    own = family.own_conv_mode if family.own_conv_mode in OWN_TEMPLATES else None
    conv_mode = own or next((mode for part, mode in CONV_MODES if part in name.lower()), None)
    if family.own_conv_mode not in OWN_TEMPLATES and tokenizer("").input_ids != [tokenizer.bos_token_id]:
        notes = (*notes, "the tokenizer adds no beginning-of-sequence token")
    image_tokens = ImageTokens(image_token_id, geometry.tokens, marked)
    drop_unread_layers(model)
    checkpoint = family(tokenizer, processor, geometry, image_tokens, limit, family.shares(text, limit))
    return LoadedModel(name, layout, model.eval(), checkpoint, conv_mode, notes)
