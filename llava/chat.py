"""Families that transformers loads with a processor of their own, which knows chat template, pictures and placeholder.

A family of these is a short class: it says which tokens of a picture lie where (`layout`), and how its processor
differs from the others. The picture is prepared once, with what its placeholder becomes in the prompt; every prompt
about it is then text alone, tokenized with the place of each token in it.
"""

import copy
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, ProcessorMixin

from lab.base.errors import UserError
from llava.checkpoint.files import fetch_weights
from llava.checkpoint.processor import load_processor
from llava.checkpoint.weights import FAILURES, load_weights, one_line_errors
from llava.constants import IMAGE_TOKEN
from llava.conversation import CHAT, CHAT_OPEN, OWN_TEMPLATES, conversation
from llava.family import Family, LoadedModel, Picture, Request
from llava.finish import finish
from llava.grid import Grid
from llava.prompt import Prompt, check_frame, check_query, checked, span_in_query, station_of

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels", "cross_attention_mask")
QUERY, SYSTEM = "\u2060query\u2060", "\u2060system\u2060"  # placeholders while a template is filled in
USUAL, SMALL = (640, 480), (28, 28)  # pictures whose image tokens are counted


@dataclass(frozen=True)
class Layout:
    """Where a picture's image tokens lie, in the order in which they stand in the prompt."""

    grids: tuple[Grid, ...]
    beside: tuple[int, ...] = ()
    shift: int = 0  # see Picture
    apart: bool = False  # see Picture


@dataclass(frozen=True)
class Measured:
    """How many image tokens pictures take, counted on two of them."""

    tokens: int
    fewest: int
    words: str

    def describe(self) -> dict[str, str]:
        """What happens to a picture, in words."""
        width, height = USUAL
        return {"image": f"{width} x {height} pixels become {self.tokens} image tokens", "grid": self.words}


@dataclass(frozen=True)
class ChatFamily(Family):
    """`image_processor` is the family's whole processor; prompts are texts that its tokenizer reads."""

    own_conv_mode: ClassVar[str] = CHAT
    options: ClassVar[tuple[str, ...]] = ()  # of the image processor, which the user may set
    fills: ClassVar[Mapping[str, int]] = {}  # inputs of pictures of unlike size that are not filled up with zeros
    marks_image_tokens: ClassVar[str | None] = None  # the forward's input that tells which tokens are the picture's

    @classmethod
    def load(cls, request: Request, folder: Path, raw: dict[str, Any]) -> LoadedModel:
        request.refuse_base()
        request.refuse_aspect_ratio("its own processor prepares pictures; model.image_processor holds its options")
        unknown = [name for name in request.options if name not in cls.options]
        if unknown:
            known = f"it takes {', '.join(cls.options)}" if cls.options else "this family takes none"
            raise UserError(f"{request.name}: model.image_processor takes no {', '.join(unknown)} here; {known}")
        with one_line_errors(folder):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            cls.check(config, request.name)
            kind = AutoModelForImageTextToText._model_mapping[type(config)]
        processor = cls.processor_of(folder, config, request.options)
        processor.options, processor.kind = dict(request.options), config.model_type
        weights = fetch_weights(request.name, request.cache_dir)
        model, _ = load_weights(kind, weights, config, request.placement)
        token = cls.image_token_id(config, processor)
        draft = cls(processor.tokenizer, processor, None, None, 0)  # type: ignore[arg-type]
        try:
            usual, small = (draft.read(Image.new("RGB", size), token) for size in (USUAL, SMALL))
        except (UserError, *FAILURES) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"{request.name} cannot prepare a picture: {reason}") from error
        shapes = Counter(f"{grid.rows} x {grid.cols}" for grid in usual.grids)
        words = " and ".join(shape if count == 1 else f"{count} of {shape}" for shape, count in shapes.items())
        fewest = min(usual.tokens, small.tokens)
        geometry = Measured(max(usual.tokens, small.tokens), fewest, f"{words}, {usual.tokens} image tokens")
        return finish(
            cls, request.name, "transformers", model, processor.tokenizer, processor, geometry, image_token_id=token
        )

    # what families differ in

    @abstractmethod
    def layout(self, image: Image.Image, made: Mapping[str, Any], tokens: int) -> Layout:
        """Where the picture's tokens lie; `made` is all that the image processor returned about it."""

    def counted(self, made: Mapping[str, Any], tokens: int) -> int:
        """How many image tokens the picture has; `tokens` is how many its prompt holds."""
        return tokens

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        """Raises UserError for a checkpoint of this model_type that cannot be read."""

    @classmethod
    def processor_of(cls, folder: Path, config: Any, options: Mapping[str, Any]) -> ProcessorMixin:
        """The checkpoint's processor. Raises UserError."""
        return load_processor(folder, config.model_type, options)

    @classmethod
    def image_token_id(cls, config: Any, processor: Any) -> int:
        """The id that stands for one image token."""
        known = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
        return int(next(token for token in known if token is not None))

    @property
    def placeholder(self) -> str:
        """What stands for the picture in a text, before the processor writes it out."""
        return self.image_processor.image_token

    @property
    def image_options(self) -> dict[str, Any]:
        """What its image processor must be told again, because the processor's own defaults come before it."""
        return self.image_processor.options

    def asked(self, text: str) -> str:
        """A text with the placeholder in it, as the processor hands it on to the tokenizer but for the picture."""
        return text

    # pictures

    def picture(self, image: Image.Image) -> Picture:
        try:
            return self.read(image, self.image_tokens.token_id)
        except (UserError, *FAILURES) as error:
            width, height = image.size
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"The image of {width} x {height} pixels cannot be prepared: {reason}") from error

    def read(self, image: Image.Image, token_id: int) -> Picture:
        """The picture, for image tokens of this id. Raises what the processor raises, and UserError."""
        processor = copy.copy(self.image_processor)
        processor.tokenizer, processor.image_processor = _Heard(processor.tokenizer), _Heard(processor.image_processor)
        text = self.placeholder + QUERY
        output = processor(images=[image], text=text, images_kwargs=self.image_options, return_tensors="pt")
        written = processor.tokenizer.argument("text")
        before, after = self.asked(text).split(self.placeholder, 1)
        written = written[0] if isinstance(written, list) else written
        if not (written.startswith(before) and written.endswith(after)):
            raise UserError("its processor writes the prompt in a way that is not known here")
        made = processor.image_processor.result
        tokens = self.counted(made, int((output["input_ids"] == token_id).sum()))
        layout = self.layout(image, made, tokens)
        kept = [name for name in output if name not in TEXT_INPUTS]
        inputs = {name: output[name] for name in kept if isinstance(output[name], torch.Tensor)}
        own = written.removeprefix(before).removesuffix(after)
        return Picture(inputs, tokens, layout.grids, layout.beside, own, layout.apart, layout.shift)

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """Pictures of unlike size are filled up, with zeros or as `fills` says, which the models leave out again."""
        names = pictures[0].inputs
        return {name: joined([one.inputs[name] for one in pictures], self.fills.get(name, 0)) for name in names}

    def text_inputs(
        self, ids: Int[torch.Tensor, "batch length"], inputs: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if self.marks_image_tokens is None:
            return {}
        return {self.marks_image_tokens: (ids == self.image_tokens.token_id).long()}

    # prompts

    def prompt(
        self,
        query: str,
        picture: Picture,
        conv_mode: str | None = None,
        *,
        drop_space_tokens: bool | None = None,
        system: str | None = None,
        question: str | None = None,
    ) -> Prompt:
        if drop_space_tokens:
            raise UserError("model.drop_space_tokens is for LLaVA's templates alone: set it to null")
        given, query = query, query.strip() if isinstance(query, str) else query
        image_token = self.tokenizer.convert_ids_to_tokens(self.image_tokens.token_id)
        reserved = (self.placeholder, image_token, QUERY, SYSTEM)
        check_query(query, *reserved)
        check_frame(question, system, *reserved)
        asked = (question or "{query}").replace("{query}", QUERY)
        frame, system = self.framed(conv_mode or self.own_conv_mode, system, asked)
        plain = frame.replace(SYSTEM, system).replace(QUERY, query)
        text, stations = "", list[str]()
        texts = {SYSTEM: (system, "system"), QUERY: (query, "query"), self.placeholder: (picture.text, "role")}
        for part, station in _parts(self.asked(frame), texts):
            text, stations = text + part, stations + [station] * len(part)
        specials = not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))
        encoded = self.tokenizer(text, add_special_tokens=specials, return_offsets_mapping=True, verbose=False)
        ids, offsets = tuple(encoded["input_ids"]), encoded["offset_mapping"]
        image_id = None if picture.apart else self.image_tokens.token_id
        labels = [
            "image" if token == image_id else station_of(stations[a:b])
            for token, (a, b) in zip(ids, offsets, strict=True)
        ]
        if labels[0] != "image" and ids[0] == self.tokenizer.bos_token_id:
            labels[0] = "bos"
        if labels.count("image") != (0 if picture.apart else picture.tokens):
            raise UserError(f"The query {query!r} holds a token that is reserved for the image; write it differently")
        spans = {
            place: span_in_query(stations, *offsets[place]) for place, label in enumerate(labels) if label == "query"
        }
        ranges = checked(query, ids, labels, image_id, self.context)
        before = len(given) - len(given.lstrip())
        letters = {place: (span[0] + before, span[1] + before) for place, span in spans.items() if span}
        return Prompt(ids, ranges, plain, letters, picture.shift, apart=picture.tokens if picture.apart else 0)

    def framed(self, conv_mode: str, system: str | None, question: str = QUERY) -> tuple[str, str]:
        """The text of a prompt with its placeholder, and with SYSTEM and QUERY in it; and the system text.

        `question` holds QUERY. A system text that the checkpoint's template adds by itself is a part of the frame.

        Raises:
            UserError: there is no such template, or the checkpoint has no chat template of its own.
        """
        if conv_mode not in OWN_TEMPLATES:
            template = conversation(conv_mode)
            frame = template.frame.format(system=SYSTEM, query=question).replace(IMAGE_TOKEN, self.placeholder)
            return frame, template.system if system is None else system
        if not self.image_processor.chat_template:
            if system:
                raise UserError("model.system: this checkpoint has no chat template, and so no place for a system text")
            return self.placeholder + question, ""
        asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        told = {"role": "system", "content": [{"type": "text", "text": SYSTEM}]}
        turns = [asked] if system is None else [told, asked]
        options = {"continue_final_message": True} if conv_mode == CHAT_OPEN else {"add_generation_prompt": True}
        fill_in = ProcessorMixin.apply_chat_template  # SmolVLM's own asks for videos
        try:
            text = fill_in(self.image_processor, turns, **options)
        except Exception as error:  # a template is a program of its own
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"The checkpoint's chat template cannot be filled in: {reason}") from error
        text = text if isinstance(text, str) else text[0]
        if text.count(QUERY) != 1 or text.count(self.placeholder) != 1:
            raise UserError("The checkpoint's chat template leaves the picture or the expression out, or repeats it")
        return text, system or ""


class _Heard:
    """A part of a processor that keeps what it was last called with and what it returned."""

    def __init__(self, part: Any) -> None:
        self.part, self.arguments, self.named, self.result = part, (), {}, None  # type: ignore[var-annotated]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.arguments, self.named = arguments, named
        self.result = self.part(*arguments, **named)
        return copy.copy(self.result)  # processors take out what the model does not need

    def argument(self, name: str) -> Any:
        """The first argument, which may have been named."""
        return self.arguments[0] if self.arguments else self.named[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)


def joined(tensors: Sequence[torch.Tensor], fill: int = 0) -> torch.Tensor:
    """Along the first dimension; smaller ones are filled up at the end of the others."""
    most = [max(tensor.shape[dim] for tensor in tensors) for dim in range(1, tensors[0].dim())]
    return torch.cat([_filled(tensor, most, fill) for tensor in tensors])


def _filled(tensor: torch.Tensor, most: Sequence[int], fill: int) -> torch.Tensor:
    missing = [size - have for size, have in zip(most, tensor.shape[1:], strict=True)]
    if not any(missing):
        return tensor
    return torch.nn.functional.pad(tensor, [side for gap in reversed(missing) for side in (0, gap)], value=fill)


def _parts(frame: str, texts: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """A frame cut at the keys of `texts`: (text, station) one after the other."""
    parts = [(frame, "role")]
    for key, (text, station) in texts.items():
        cut: list[tuple[str, str]] = []
        for part, own in parts:
            first, *others = part.split(key) if own == "role" and key else [part]
            cut.append((first, own))
            for other in others:
                cut += [(text, station), (other, own)]
        parts = cut
    return parts


def whole(image: Image.Image, rows: int, cols: int, start: int = 0) -> Grid:
    """A grid over the whole picture, stretched."""
    return Grid.stretched(rows, cols, image.size, start)


def tiles(image: Image.Image, rows: int, cols: int, side: int, start: int = 0) -> list[Grid]:
    """Grids of side x side over rows x cols tiles of the stretched picture, row by row."""
    across, down = image.width / cols, image.height / rows
    places = [(row, col) for row in range(rows) for col in range(cols)]
    return [
        Grid(
            start + number * side**2,
            side,
            side,
            (col * across, row * down, (col + 1) * across, (row + 1) * down),
            kind="tile",
        )
        for number, (row, col) in enumerate(places)
    ]


def square(tokens: int) -> int:
    """The side of a square of so many tokens. Raises UserError if it is none."""
    side = round(tokens**0.5)
    if side * side != tokens:
        raise UserError(f"its {tokens} image tokens are no square grid")
    return side
