"""What a model says, against an answer that it is given word by word (teacher forcing), and against what it said.

An answer is exact if every token of it, and the end behind it, is the most probable one: then, and only then, greedy
decoding writes it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from lab.base.errors import UserError, quoted


@dataclass(frozen=True)
class Answer:
    """A text as tokens, and the number of the word that each belongs to."""

    text: str
    ids: tuple[int, ...]
    words: tuple[int, ...]

    @property
    def number(self) -> int:
        """How many words it has."""
        return self.words[-1] + 1

    @property
    def first(self) -> str:
        """Its first word."""
        return self.text.split()[0]


def read_answer(given: Any) -> str | None:
    """The `answer` of a data file's line, None if it has none. Raises UserError if it is no text."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise UserError(f"answer {quoted(given)} is malformed; expected a text")
    return str(given).strip()


def tokenized(text: str, tokenizer: Any) -> Answer:
    """Raises UserError if nothing is left of the text."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    words = [_word(text, start, stop) for start, stop in encoded["offset_mapping"]]
    if not words:
        raise UserError(f"nothing is left of the answer {quoted(text)} after tokenizing")
    return Answer(text, tuple(encoded["input_ids"]), tuple(words))


def _word(text: str, start: int, stop: int) -> int:
    """The number of the word that characters `start` to `stop` are of; a space belongs to the word behind it."""
    before = len(text[:start].split())
    inside = start > 0 and stop > start and not text[start].isspace() and not text[start - 1].isspace()
    return max(0, before - 1) if inside else min(before, len(text.split()) - 1)


def against_answer(
    logits: Float[torch.Tensor, "copies tokens vocab"], answer: Answer, ends: Collection[int]
) -> dict[str, Float[torch.Tensor, " copies"]]:
    """Of each copy, 0 to 1: whether the answer is exact, the share of its words that are right, whether the first is.

    A word is right if all its tokens are the most probable ones behind the true words before it. `logprob` is the sum
    over the answer's tokens, in nats, without the end.
    """
    ids = torch.tensor(answer.ids, device=logits.device)
    likely = logits.argmax(-1)
    right = likely[:, :-1] == ids
    ended = torch.isin(likely[:, -1], torch.tensor(sorted(ends), device=logits.device))
    words = torch.stack([right[:, _tokens(answer, n, ids)].all(1) for n in range(answer.number)], dim=1).float()
    logprob = logits[:, :-1].log_softmax(-1).gather(2, ids.expand(len(logits), -1)[..., None]).sum(dim=(1, 2))
    return {
        "exact": (right.all(1) & ended).float(),
        "words": words.mean(1),
        "first_word": words[:, 0],
        "logprob": logprob,
    }


def _tokens(answer: Answer, word: int, like: torch.Tensor) -> Int[torch.Tensor, " tokens"]:
    return torch.tensor([i for i, of in enumerate(answer.words) if of == word], device=like.device, dtype=torch.long)


def divergence(
    logits: Float[torch.Tensor, "copies vocab"], untouched: Float[torch.Tensor, " vocab"]
) -> Float[torch.Tensor, " copies"]:
    """KL(untouched || changed) of the next token's distribution, in nats."""
    before, after = untouched.log_softmax(-1), logits.log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1).clamp(min=0)
