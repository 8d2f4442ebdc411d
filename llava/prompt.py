"""A query as the model takes it in: token ids, and the station of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from lab.base.errors import UserError, shown
from lab.stations import Ranges, check_stations, positions, to_ranges
from llava.constants import IMAGE_END, IMAGE_START, IMAGE_TOKEN, SPACE_TOKEN
from llava.conversation import conversation

Segment = tuple[str, str]  # station, text
Span = tuple[int, int]  # first character, and the one behind the last


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
    text: str = ""  # before the picture's placeholder is written out: what the model's own processor takes
    query_spans: Mapping[int, Span] = field(
        default_factory=dict
    )  # place of a query's token -> its letters in the query
    shift: int = 0  # of the places behind the picture: their number for the model minus their place in `ids`
    read: tuple[int, ...] = ()  # places of the tokens whose attention is wanted; none: the last token's
    apart: int = 0  # image tokens that stand outside the prompt, where layers of their own look at them

    @property
    def places(self) -> tuple[int, ...]:
        """Places of the tokens whose attention is wanted, at least one."""
        return self.read or (len(self.ids) - 1,)

    @property
    def columns(self) -> list[int]:
        """Places of the image tokens among the keys of the layers that look at them."""
        return list(range(self.apart)) or positions(self.stations, "image")


def build_prompt(
    query: str,
    conv_mode: str,
    tokenizer: Any,
    image: ImageTokens,
    *,
    drop_space_tokens: bool | None = None,
    system: str | None = None,
    question: str | None = None,
    context: int,
) -> Prompt:
    """The prompt of one query, tokenized as the original LLaVA does.

    The text before and after `<image>` is tokenized apart, and the beginning-of-sequence token, if the tokenizer adds
    one, is kept once. `drop_space_tokens` leaves stand-alone space tokens out; None does what the template does.
    `system` takes the place of the template's own system text, and `question`, which holds `{query}`, is written where
    the template has the query alone. Nothing is ever cut.

    Raises:
        UserError: unknown template, empty query, a query that holds an image token, a prompt longer than `context`
        tokens.
    """
    check_query(query)
    check_frame(question, system)
    template = conversation(conv_mode)
    system = template.system if system is None else system
    frame = template.frame.replace("{query}", _framed(question))
    before, after = _segments(frame, system, query, marked=image.marked)
    first, second = (_tokenize(chunk, tokenizer) for chunk in (before, after))
    bos = tokenizer.bos_token_id
    if second and second[0][0] == bos:
        second = second[1:]
    if template.drop_space_tokens if drop_space_tokens is None else drop_space_tokens:
        space = tokenizer.get_vocab().get(SPACE_TOKEN)
        first, second = ([token for token in tokens if token[0] != space] for tokens in (first, second))
    if first and first[0][0] == bos:
        first[0] = (bos, "bos", None)

    tokens = [*first, *[(image.token_id, "image", None)] * image.count, *second]
    ids, labels, spans = zip(*tokens, strict=True)
    if ids.count(image.token_id) != image.count:
        raise UserError(f"The query {query!r} holds a token that is reserved for the image; write it differently")
    stations = checked(query, ids, labels, image.token_id, context)
    text = frame.format(system=system, query=query)
    return Prompt(ids, stations, text, {place: span for place, span in enumerate(spans) if span is not None})


def checked(query: str, ids: Sequence[int], labels: Sequence[str], image_token_id: int | None, context: int) -> Ranges:
    """The stations of a prompt, one label a token.

    Raises UserError if nothing is left of the query, or if the model does not read as many tokens.
    """
    if "query" not in labels:
        raise UserError(f"Nothing is left of the query {query!r} after tokenizing; describe the object in words")
    if len(ids) > context:
        raise UserError(
            f"The prompt has {len(ids)} tokens, {labels.count('image')} of them for the image, "
            f"but the model reads {context}; shorten the query"
        )
    stations = to_ranges(labels)
    check_stations(stations, ids, image_token_id)
    return stations


def check_query(query: str, *reserved: str) -> None:
    """Raises UserError if the query is empty, holds half a character or contains a placeholder of the image."""
    if not isinstance(query, str) or not query.strip():
        raise UserError(
            "The query is empty; describe the object to look for, for example data.query='the bird on the branch'"
        )
    if any("\ud800" <= sign <= "\udfff" for sign in query):
        raise UserError(f"The query {shown(query)} holds half a character, a lone surrogate, which no model can read")
    for token in (IMAGE_TOKEN, *reserved):
        if token in query:
            raise UserError(f"The query {query!r} contains {token}; the prompt template places the image, leave it out")


def check_frame(question: str | None, system: str | None, *reserved: str) -> None:
    """Raises UserError if what stands around the query contains a placeholder of the image."""
    for name, words in (("question", question), ("system", system)):
        for token in (IMAGE_TOKEN, *reserved):
            if token in (words or ""):
                raise UserError(f"model.{name} contains {token}; the prompt template places the image, leave it out")


def _framed(question: str | None) -> str:
    """The question as a part of a frame, in which its other braces are letters."""
    if question is None:
        return "{query}"
    return question.replace("{", "{{").replace("}", "}}").replace("{{query}}", "{query}")


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


def _tokenize(chunk: Sequence[Segment], tokenizer: Any) -> list[tuple[int, str, Span | None]]:
    """(id, station, letters of the query) of every token of one chunk, special tokens that the tokenizer adds too."""
    text = "".join(part for _, part in chunk)
    stations = [station for station, part in chunk for _ in part]  # of every character
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [(token, station_of(stations[a:b]), span_in_query(stations, a, b)) for token, (a, b) in tokens]


def station_of(characters: Sequence[str]) -> str:
    """The station of a token that stands for characters of these."""
    if "query" in characters:
        return "query"
    return characters[-1] if characters else "role"


def span_in_query(stations: Sequence[str], first: int, end: int) -> Span | None:
    """The letters of the query that the characters from `first` to `end` hold, counted from its first; None if none."""
    own = [place for place in range(first, end) if stations[place] == "query"]
    if not own:
        return None
    start = stations.index("query")
    return own[0] - start, own[-1] + 1 - start
