"""Stage 2: projector and language model learn from text alone. Given the expression, answer what it leaves out.

All questions about an image are packed behind one copy of its tokens, and a question sees the prompt, the image and
itself, never its neighbours: exactly what it sees when it is asked alone. Three regularisers, all blind to where the
described thing is, make several heads look it up at the last token of the expression:

- image-token dropout: each step shows a random subset of the image tokens, the same number for every image;
- blinded expressions: in a share of the questions, the tokens before the last one cannot see the image;
- head dropout: for each image, a share of the attention heads is silent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, LlavaForConditionalGeneration

CPU_ATTENTION = "float32_math_on_cpu"


@dataclass
class Packed:
    """B images, each with its questions, padded to S tokens."""

    tokens: Tensor  # int64 [B, S]; image positions hold 0
    positions: Tensor  # int64 [B, S]: the position each token has when its question is asked alone
    allowed: Tensor  # bool [B, 1, S, S]: query token (row) may see key token (column)
    image: tuple[int, int]  # first and last + 1 position of the image tokens, the same for every row
    kept: Tensor  # int64 [B, kept]: which image tokens are shown
    targets: Tensor  # int64 [B, S]: the next token where the answer is predicted, else -100
    first: Tensor  # bool [B, S]: the position that predicts an answer's first word


def pack(
    ids: np.ndarray,
    spans: np.ndarray,
    prefix: list[int],
    num_image_tokens: int,
    rng: np.random.Generator,
    *,
    kept_share: float = 1.0,
    blind_share: float = 0.0,
) -> Packed:
    """Lays out questions int16 [B, Q, T] behind their images.

    `spans` are uint8 [B, Q, 2]: tokens before the answer, and in all.
    """
    batch, questions, _ = ids.shape
    spans = spans.astype(int)
    kept_count = max(1, round(num_image_tokens * kept_share))
    kept = np.sort(np.stack([rng.permutation(num_image_tokens)[:kept_count] for _ in range(batch)]), axis=1)
    first_question = len(prefix) + kept_count
    length = first_question + int(spans[..., 1].sum(1).max())

    tokens = np.zeros((batch, length), dtype=np.int64)
    positions = np.zeros_like(tokens)
    segment = np.full_like(tokens, -1)
    blind = np.zeros(tokens.shape, dtype=bool)
    targets = np.full_like(tokens, -100)
    first = np.zeros(tokens.shape, dtype=bool)
    tokens[:, : len(prefix)] = prefix
    positions[:, : len(prefix)] = np.arange(len(prefix))
    positions[:, len(prefix) : first_question] = len(prefix) + kept
    segment[:, :first_question] = 0
    for b in range(batch):
        at = first_question
        for q in range(questions):
            asked, total = spans[b, q]
            row = ids[b, q, :total]
            tokens[b, at : at + total] = row
            positions[b, at : at + total] = len(prefix) + num_image_tokens + np.arange(total)
            segment[b, at : at + total] = q + 1
            blind[b, at : at + asked - 1] = rng.random() < blind_share
            targets[b, at + asked - 1 : at + total - 1] = row[asked:]
            first[b, at + asked - 1] = True
            at += total

    seg = torch.from_numpy(segment)
    allowed = (seg[:, None, :] == 0) | (seg[:, None, :] == seg[:, :, None])  # [B, query, key]
    allowed &= torch.ones(length, length, dtype=torch.bool).tril()
    is_image = torch.zeros(length, dtype=torch.bool)
    is_image[len(prefix) : first_question] = True
    allowed &= ~(torch.from_numpy(blind)[:, :, None] & is_image)
    allowed |= torch.eye(length, dtype=torch.bool)  # padding sees itself, so that its softmax is defined
    return Packed(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        allowed[:, None],
        (len(prefix), first_question),
        torch.from_numpy(kept),
        torch.from_numpy(targets),
        torch.from_numpy(first),
    )


def cpu_attention(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_
) -> tuple[Tensor, None]:
    """Attention outside of autocast: on CPUs the fused kernel is twice as fast in float32 as in bfloat16, both ways."""
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attention_mask.float(), scale=scaling
        )
    return out.transpose(1, 2), None  # [B, H, S, D] -> [B, S, H, D]


AttentionInterface.register(CPU_ATTENTION, cpu_attention)


@contextmanager
def silent_heads(model: LlavaForConditionalGeneration, share: float, rng: np.random.Generator) -> Iterator[None]:
    """Within the block, every attention head of the language model is silent for a random `share` of the images."""
    config = model.config.text_config

    def mute(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        heads = args[0].unflatten(-1, (config.num_attention_heads, -1))  # [B, S, H * D] -> [B, S, H, D]
        speaks = torch.from_numpy(rng.random((len(heads), 1, config.num_attention_heads, 1)) >= share).to(heads)
        return ((heads * speaks / (1 - share)).flatten(-2),)

    layers = model.model.language_model.layers
    hooks = [layer.self_attn.o_proj.register_forward_pre_hook(mute) for layer in layers] if share else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def answer_loss(
    model: LlavaForConditionalGeneration, features: Tensor, packed: Packed, later_words: float
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers; words after the first weigh `later_words`.

    Args:
        features: [B, V, D], the frozen tower's output.
    """
    device = features.device
    shown = torch.gather(features, 1, packed.kept.to(device)[..., None].expand(-1, -1, features.shape[-1]))
    embeddings = model.get_input_embeddings()(packed.tokens.to(device))
    start, stop = packed.image
    image = model.model.multi_modal_projector(shown).to(embeddings.dtype)
    embeddings = torch.cat([embeddings[:, :start], image, embeddings[:, stop:]], dim=1)
    dtype = torch.float32 if device.type == "cpu" else torch.get_autocast_dtype(device.type)
    mask = torch.zeros(packed.allowed.shape, dtype=dtype, device=device)
    mask.masked_fill_(~packed.allowed.to(device), torch.finfo(mask.dtype).min)
    hidden = model.model.language_model(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=packed.positions.to(device), use_cache=False
    ).last_hidden_state

    asked = (packed.targets >= 0).to(device)
    targets, first = packed.targets.to(device)[asked], packed.first.to(device)[asked]
    logits = model.lm_head(hidden[asked]).float()
    weight = torch.where(first, 1.0, later_words)
    loss = (F.cross_entropy(logits, targets, reduction="none") * weight).sum() / weight.sum()
    right = logits.argmax(-1) == targets
    return loss, {"first": right[first].float().mean().item(), "later": right[~first].float().mean().item()}
