"""Which tokens of a prompt, or of the answer to it, are read.

    read_tokens("word:cup", prompt, "the red cup")      # the prompt, marked
    told(prompt, "the red cup", tokenizer)              # [{"place": 590, "text": "cup"}], for a record's meta

A token's attention is that of the query at its own place: what it looks at while it is taken in. The last prompt
token's predicts the first token of the answer, and the first generated token's the second.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from conf.schema import ANSWER_BOXES, WORD, ModelConfig
from lab.base.errors import UserError
from llava.prompt import Prompt


def read_tokens(read: str, prompt: Prompt, query: str) -> Prompt:
    """The prompt with the places that `model.read` asks for; those of an answer come later (`with_answer`).

    A word is found in any case, and wherever it stands; of a generic prompt that lacks it, see `whole`.
    Raises UserError if the query lacks the word, or if no token of it is left.
    """
    if read == "expression":
        return replace(prompt, read=tuple(sorted(prompt.query_spans)))
    if not read.startswith(WORD):
        return prompt
    word = read.removeprefix(WORD).strip()
    found = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", query, re.IGNORECASE)]
    spans = prompt.query_spans.items()
    places = [place for place, (a, b) in spans if any(a < end and start < b for start, end in found)]
    if not places:
        raise UserError(f"model.read={read}: {query!r} has no such word")
    return replace(prompt, read=tuple(sorted(places)))


def whole(read: str) -> str:
    """What is read of another expression: the whole of it in the place of a word, which it lacks."""
    return "expression" if read.startswith(WORD) else read


def told(read: str, prompt: Prompt, query: str, tokenizer: Any) -> dict[str, Any]:
    """What a record's meta tells of the tokens: nothing if the last one of the prompt alone is read."""
    if read == "last":
        return {}

    def text(place: int) -> str:
        span = prompt.query_spans.get(place)
        return query[slice(*span)] if span else tokenizer.decode([prompt.ids[place]])

    return {"read": read, "tokens": [{"place": place, "text": text(place)} for place in prompt.places]}


def with_answer(prompt: Prompt, answer: tuple[int, ...]) -> Prompt:
    """The prompt and its answer as one text, of which the answer is read."""
    length = len(prompt.ids)
    return replace(prompt, ids=prompt.ids + answer, read=tuple(range(length, length + len(answer))))


def tokens_at(spans: Iterable[tuple[int, int]], answer: Sequence[int], tokenizer: Any) -> list[int]:
    """Which tokens of an answer hold letters of these spans of its text, special tokens written out."""
    ends = [len(tokenizer.decode(answer[: number + 1])) for number in range(len(answer))]
    tokens = list(zip([0, *ends], ends, strict=False))
    return [number for number, (a, b) in enumerate(tokens) if any(a < end and start < b for start, end in spans)]


def most_tokens(config: ModelConfig, queries: Iterable[str], tokenizer: Any) -> int:
    """How many tokens are read of one of these queries, at most."""
    if config.read in ("last", "answer", ANSWER_BOXES):
        return 1 if config.read == "last" else config.max_new_tokens
    return max(len(ids) for ids in tokenizer(list(queries), add_special_tokens=False).input_ids)
