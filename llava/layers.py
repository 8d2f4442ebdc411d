"""Which keys the layers of a language model see: all before the query, or only the near ones."""

from typing import Any

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"  # transformers' names


def reaches(config: Any) -> dict[str, int | None]:
    """The kinds of layers that a text config names, and how many tokens each reaches; None: all of them.

    A sliding layer sees keys less than so many tokens back, a chunked one those of its own chunk of so many. Kinds
    that form no attention map (linear attention, convolutions) have 0.
    """
    window, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    kinds = getattr(config, "layer_types", None) or [SLIDING if window else FULL]
    known = {FULL: None, SLIDING: window, CHUNKED: chunk}
    return {kind: known.get(kind, 0) for kind in kinds}


def plain_causal(config: Any, context: int) -> bool:
    """Whether every layer lets a token see all tokens before it, in prompts of up to `context` tokens."""
    return all(reach is None or reach >= context for reach in reaches(config).values())
