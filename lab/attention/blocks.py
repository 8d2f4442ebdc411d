"""Attention as plain matrix products, for half precision on a CPU, where torch's fused kernel is slow."""

import torch
from jaxtyping import Float

BLOCK = 192  # queries at a time: scores stay in the cache, and products are large enough for the machine's rate


def worthwhile(query: torch.Tensor) -> bool:
    """Whether the products alone are faster: in bfloat16 torch's kernel for CPUs works in float32 inside."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and not query.requires_grad


def attend(
    query: Float[torch.Tensor, "B H Q D"],
    key: Float[torch.Tensor, "B K S D"],
    value: Float[torch.Tensor, "B K S E"],
    scaling: float,
    *,
    causal: bool,
) -> Float[torch.Tensor, "B Q H E"]:
    """Each query attends to all keys, or to those up to its own place if `causal`, which needs Q = S.

    K divides H: that many heads share a key. Scores are rounded to the inputs' dtype before the softmax, as eager
    attention does; a softmax adds up in float32. Never more than `BLOCK` rows of a map exist.
    """
    shared, length = query.shape[1] // key.shape[1], query.shape[2]
    if shared > 1:
        key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
    key = key.transpose(2, 3)  # B H D S
    ahead = query.new_full((BLOCK, BLOCK), -torch.inf).triu(1)
    out = query.new_empty((*query.shape[:3], value.shape[3])).transpose(1, 2)
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        seen = end if causal else key.shape[3]
        scores = (query[:, :, begin:end] * scaling) @ key[..., :seen]
        if causal:
            scores[..., begin:] += ahead[: end - begin, : end - begin]
        out[:, begin:end] = (scores.softmax(-1) @ value[:, :, :seen]).transpose(1, 2)
    return out
