"""A query as the model takes it in: token ids, and the station of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from lab.base.errors import UserError
from lab.stations import Ranges, check_stations, to_ranges
from llava.constants import IMAGE_END, IMAGE_START, IMAGE_TOKEN, SPACE_TOKEN
from llava.conversation import conversation

Segment = tuple[str, str]  # station, text


@dataclass(frozen=True)
class ImageTokens:
    """How the placeholder `<image>` is written as ids.

    `count` times `token_id`, between marks if the checkpoint has them. Where the number depends on the picture, a
    checkpoint's `count` is the largest.
    """

    token_id: int
    count: int
    marked: bool = False  # <im_start> before and <im_end> after, mm_use_im_start_end


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt: the ids as the model gets them, image tokens written out, and the station of each."""

    ids: tuple[int, ...]
    stations: Ranges


def build_prompt(
    query: str,
    conv_mode: str,
    tokenizer: Any,
    image: ImageTokens,
    *,
    drop_space_tokens: bool | None = None,
    context: int,
) -> Prompt:
    """The prompt of one query, tokenized as the original LLaVA does.

    The text before and after `<image>` is tokenized apart, and the beginning-of-sequence token, if the tokenizer adds
    one, is kept once. `drop_space_tokens` leaves stand-alone space tokens out; None does what the template does.
    Nothing is ever cut.

    Raises:
        UserError: unknown template, empty query, a query that holds an image token, a prompt longer than `context`
        tokens.
    """
    check_query(query)
    template = conversation(conv_mode)
    before, after = _segments(template.frame, template.system, query, marked=image.marked)
    first, second = (_tokenize(chunk, tokenizer) for chunk in (before, after))
    bos = tokenizer.bos_token_id
    if second and second[0][0] == bos:
        second = second[1:]
    if template.drop_space_tokens if drop_space_tokens is None else drop_space_tokens:
        space = tokenizer.get_vocab().get(SPACE_TOKEN)
        first, second = ([pair for pair in pairs if pair[0] != space] for pairs in (first, second))
    if first and first[0][0] == bos:
        first[0] = (bos, "bos")

    pairs = [*first, *[(image.token_id, "image")] * image.count, *second]
    ids, labels = zip(*pairs, strict=True)
    if ids.count(image.token_id) != image.count:
        raise UserError(f"The query {query!r} holds a token that is reserved for the image; write it differently")
    if "query" not in labels:
        raise UserError(f"Nothing is left of the query {query!r} after tokenizing; describe the object in words")
    if len(ids) > context:
        raise UserError(
            f"The prompt has {len(ids)} tokens, {image.count} of them for the image, "
            f"but the model reads {context}; shorten the query"
        )
    stations = to_ranges(labels)
    check_stations(stations, ids, image.token_id)
    return Prompt(ids, stations)


def check_query(query: str) -> None:
    """Raises UserError if the query is empty or contains the image placeholder."""
    if not isinstance(query, str) or not query.strip():
        raise UserError(
            "The query is empty; describe the object to look for, for example data.query='the bird on the branch'"
        )
    if IMAGE_TOKEN in query:
        raise UserError(
            f"The query {query!r} contains {IMAGE_TOKEN}; the prompt template places the image, leave it out"
        )


def _segments(frame: str, system: str, query: str, *, marked: bool) -> tuple[list[Segment], list[Segment]]:
    """The text before and after the image, in pieces that belong to one station each."""
    before, after = frame.split(IMAGE_TOKEN)
    if marked:
        before, after = before + IMAGE_START, IMAGE_END + after
    texts = {"system": system, "query": query}

    def pieces(part: str) -> list[Segment]:
        parsed = [
            (("role", literal), (field, texts.get(field or "", ""))) for literal, field, _, _ in Formatter().parse(part)
        ]
        return [(name, text) for pair in parsed for name, text in pair if name and text]

    return pieces(before), pieces(after)


def _tokenize(chunk: Sequence[Segment], tokenizer: Any) -> list[tuple[int, str]]:
    """(id, station) of every token of one chunk, special tokens that the tokenizer adds included."""
    text = "".join(part for _, part in chunk)
    stations = [station for station, part in chunk for _ in part]  # of every character
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    return [
        (token, _station(stations[a:b]))
        for token, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _station(characters: Sequence[str]) -> str:
    if "query" in characters:
        return "query"
    return characters[-1] if characters else "role"
