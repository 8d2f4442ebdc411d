"""Which keys the layers of a language model see: all before the query, or only the near ones."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from llava.prompt import Prompt

log = logging.getLogger(__name__)

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"  # transformers' names
CROSS, TEXT_ALONE = "cross_attention", "self_attention"  # of models that look at pictures in layers of their own


def kinds(config: Any) -> list[str]:
    """The kind of each layer of a text config."""
    crossing = getattr(config, "cross_attention_layers", None)
    if crossing:
        return [CROSS if layer in crossing else TEXT_ALONE for layer in range(config.num_hidden_layers)]
    own = SLIDING if getattr(config, "sliding_window", None) else FULL
    return list(getattr(config, "layer_types", None) or [own] * getattr(config, "num_hidden_layers", 1))


def reaches(config: Any) -> dict[str, int | None]:
    """The kinds of layers that a text config names, and how many tokens each reaches; None: all of them.

    A sliding layer sees keys less than so many tokens back, a chunked one those of its own chunk of so many. Kinds
    that form no map of the picture (linear attention, convolutions, attention to the text alone) have 0.
    """
    window, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    known = {FULL: None, CROSS: None, SLIDING: window, CHUNKED: chunk}
    return {kind: known.get(kind, 0) for kind in dict.fromkeys(kinds(config))}


def plain_causal(config: Any, context: int) -> bool:
    """Whether every layer lets a token see all tokens before it, in prompts of up to `context` tokens."""
    return all(reach is None or reach >= context for reach in reaches(config).values())


def seen_tokens(config: Any, prompt: Prompt) -> dict[str, int]:
    """How many of the prompt's image tokens its last token sees, in each kind of layer."""
    image, last = prompt.columns, len(prompt.ids) - 1

    def sees(kind: str, reach: int | None, place: int) -> bool:
        if not reach:
            return reach is None
        return place // reach == last // reach if kind == CHUNKED else last - place < reach

    return {kind: sum(sees(kind, reach, place) for place in image) for kind, reach in reaches(config).items()}


def warn_of_cut_pictures(name: str, config: Any, prompts: Sequence[Prompt]) -> None:
    """Says, once for each kind of layer, that the last token of a prompt does not see the whole picture there."""
    if plain_causal(config, max((len(prompt.ids) for prompt in prompts), default=0)):
        return
    for prompt in prompts:
        tokens = len(prompt.columns)
        for kind, seen in seen_tokens(config, prompt).items():
            if seen < tokens and reaches(config)[kind]:
                _say_cut(name, kind, near(kind, reaches(config)[kind]), "a part" if seen else "nothing")


def near(kind: str, reach: int | None) -> str:
    """What a layer of this kind sees, in words."""
    if reach is None:
        return "all tokens"
    return f"the chunk of {reach} tokens" if kind == CHUNKED else f"the last {reach} tokens" if reach else "no tokens"


@cache  # said once
def _say_cut(name: str, kind: str, seen: str, share: str) -> None:
    log.warning(
        "%s: layers of the kind %s see %s only, and so %s of the picture from the end of the prompt: what they do not "
        "see is 0 in their maps. Fewer image tokens or a shorter question bring it nearer",
        name, kind, seen, share,
    )  # fmt: skip
