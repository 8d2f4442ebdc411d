"""Samples -> records: how much each head of the last prompt token, or of others, looks at each image token.

    loaded = load_model("llava-hf/llava-1.5-7b-hf")
    record = collect(loaded, open_image("bird.jpg"), "the bird on the branch")

    question = prepare(loaded, open_image("bird.jpg"), ["the bird", "the branch"])  # no weights needed: for workers
    records = ask(loaded, [question]).of(0)                                         # both, the image read once

`record.attn` is [layers, heads, read tokens, image tokens]; one token is read, the prompt's last, unless `model.read`
asks for others.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from PIL import Image

from conf.schema import ANSWER_BOXES, ModelConfig
from lab import __version__
from lab.attention.capture import attention_name, kept_rows
from lab.attention.forward import Rows, answer_rows, image_rows, in_all_layers, stacked, to_model
from lab.attention.packing import pack
from lab.attention.tokens import read_tokens, tokens_at, told, whole, with_answer
from lab.base.errors import UserError, shown
from lab.records.record import Record
from llava.conversation import asked_with
from llava.family import LoadedModel, Picture, Sharing
from llava.layers import warn_of_cut_pictures
from llava.prompt import Prompt, check_query

SCHEMA = 1  # of a record's meta
GENERIC_QUERY = "Write a general description of the image."  # asks for nothing in particular; arXiv 2502.17422


@dataclass(frozen=True, eq=False)
class Question:
    """One picture and what is asked about it, as the model takes it in.

    Holds no weights and can be sent between processes.
    """

    picture: Picture
    image_size: tuple[int, int]  # width, height
    queries: tuple[str, ...]
    prompts: tuple[Prompt, ...]  # of the queries and, if wanted, of the generic one behind them
    image_file: str | None = None

    def pin_memory(self) -> "Question":
        """The same in memory that a GPU can read by itself; DataLoader calls it."""
        return replace(self, picture=self.picture.pin_memory())


def collect(
    loaded: LoadedModel,
    image: Image.Image,
    query: str,
    config: ModelConfig | None = None,
    *,
    image_file: str | None = None,
    generic: bool = False,
) -> Record:
    """Asks the model once and keeps the attention of the last prompt token, or of others, to the image.

    Args:
        loaded: the checkpoint.
        image: RGB.
        query: the expression, written into the template `config.conv_mode`.
        config: how to ask; of it conv_mode, read, drop_space_tokens, use_generate and the generation keys are read.
        image_file: where the image came from, for the record.
        generic: also keep the attention of `GENERIC_QUERY`, in `record.generic`.

    Returns:
        Weights after the softmax, [layers, heads, read tokens, image tokens]. With eager attention they are in the
        model's dtype and equal bit by bit to those of `output_attentions=True`; with fused attention in float32. Those
        of the last prompt token are those of the step that predicts the first token of the answer. Those of an answer
        (`read="answer"`) are of the queries that hold its tokens: what a generated token looks at once it is written,
        and the next one is to follow. Its first token's are those of the second step, and a token that ends the answer
        is not read.

    Raises:
        UserError: a query, template or setting that cannot be used, or a prompt longer than the model reads.
    """
    config = config or ModelConfig()
    question = prepare(loaded, image, [query], config, image_file=image_file, generic=generic)
    return ask_one_by_one(loaded, question, config).of(0)[0]


def prepare(
    loaded: LoadedModel,
    image: Image.Image,
    queries: Sequence[str],
    config: ModelConfig | None = None,
    *,
    image_file: str | None = None,
    generic: bool = False,
    picture: Picture | None = None,
    prompts: Sequence[Prompt] | None = None,
) -> Question:
    """One image and its prompts. Of `loaded` only the family is used, no weights.

    `picture` and `prompts` are what the family made of the image, and `make_prompt` of the queries, if they are there
    already. Raises UserError as `collect`, whichever query is wrong.
    """
    config = config or ModelConfig()
    for query in queries:
        check_query(query)
    if picture is None:
        picture = loaded.family.picture(image)
    if prompts is None:
        prompts = [make_prompt(loaded, query, picture, config) for query in queries]
    of_generic = replace(config, read=whole(config.read))
    beside = [make_prompt(loaded, GENERIC_QUERY, picture, of_generic)] if generic else []
    return Question(picture, image.size, tuple(queries), (*prompts, *beside), image_file)


def make_prompt(loaded: LoadedModel, query: str, picture: Picture, config: ModelConfig) -> Prompt:
    """The prompt that asks for `query` in a picture, by this configuration, with the tokens that are to be read.

    Raises UserError as `build_prompt` and `read_tokens`.
    """
    prompt = loaded.family.prompt(
        query,
        picture,
        config.conv_mode,
        drop_space_tokens=config.drop_space_tokens,
        system=config.system,
        question=config.question,
    )
    return read_tokens(config.read, prompt, query)


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    boxes: list[list[float]] | None  # that it wrote, x0, y0, x1, y1 in pixels of the picture; None: no rule is known
    box_tokens: list[int]  # tokens of the answer that hold their numbers

    @classmethod
    def of(cls, loaded: LoadedModel, ids: Sequence[int], question: Question) -> "Answer":
        """From the ids of an answer to the first query."""
        text = loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if loaded.family.box_rule is None:
            return cls(text, None, [])
        found = loaded.family.boxes(loaded.tokenizer.decode(ids), question.picture, question.image_size)
        spans = [span for one, _ in found for span in one.spans]
        return cls(text, [list(box) for _, box in found], tokens_at(spans, ids, loaded.tokenizer))


class PendingRecords:
    """The attention of a batch of questions, on its way from the accelerator.

    The object is there at once, and waits when it is read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        questions: Sequence[Question],
        rows: Rows,
        config: ModelConfig,
        answer: "Answer | None" = None,
    ) -> None:
        self.loaded, self.questions, self.config, self.answer = loaded, questions, config, answer
        warn_of_cut_pictures(loaded.name, loaded.text_config, [one for own in questions for one in own.prompts])
        self._copied: torch.cuda.Event | None = None
        self._rows = rows = in_all_layers(loaded, rows)
        if rows.is_cuda:  # one copy for the batch
            self._rows = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)
            self._copied = torch.cuda.current_stream(rows.device).record_event()

    def of(self, number: int) -> list[Record]:
        """The records of one question, one per query."""
        if self._copied is not None:
            self._copied.synchronize()
        question = self.questions[number]
        own = self._rows[:, number, ..., : question.picture.tokens]  # others of the batch may have more image tokens
        each = own.unflatten(2, (-1, most_read(self.questions))).unbind(2)  # per prompt [layers, heads, tokens, vis]
        rows = [row[:, :, : len(prompt.places)] for row, prompt in zip(each, question.prompts, strict=False)]
        generic = rows[len(question.queries)] if len(question.prompts) > len(question.queries) else None
        asked = zip(
            question.queries, question.prompts, rows, strict=False
        )  # rows may be padded, prompts hold the generic one
        return [Record.from_tensor(row, self._meta(question, query, prompt), generic) for query, prompt, row in asked]

    def _meta(self, question: Question, query: str, prompt: Prompt) -> dict[str, Any]:
        loaded, picture = self.loaded, question.picture
        first = picture.grids[0]
        square = len(picture.grids) == 1 and first.rows == first.cols
        return {
            "image_file": question.image_file,
            "query": query,
            "model_name": loaded.name,
            "image_size": list(question.image_size),  # width, height
            "vis_len": picture.tokens,
            **({"patch_size": first.rows} if square else {}),  # the grid's side, by its traditional name
            "num_layers": loaded.num_layers,
            "num_heads": loaded.num_heads,
            "generated_text": self.answer and self.answer.text,
            **({} if self.answer is None or self.answer.boxes is None else {"answer_boxes": self.answer.boxes}),
            "grids": [grid.to_dict() for grid in picture.grids],
            "stations": prompt.stations,
            "conv_mode": self.config.conv_mode or loaded.family.own_conv_mode,
            "prompt": prompt.text,
            **told(self.config.read, prompt, query, loaded.tokenizer),
            **asked_with(self.config),
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "attn_implementation": attention_name(loaded.model),
            "versions": {
                "localization_heads": __version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "transformers": transformers.__version__,
            },
            "schema": SCHEMA,
        }


def ask(loaded: LoadedModel, questions: Sequence[Question], config: ModelConfig | None = None) -> PendingRecords:
    """Asks everything at once, each image read once whatever the number of its expressions, if the family can do so.

    What comes out for an expression does not depend on the others: in float32 it differs from `collect`'s by less than
    1e-5. Returns before an accelerator has finished. Raises torch's out-of-memory errors.
    """
    if loaded.family.sharing is Sharing.ALONE:
        rows = _side_by_side([_one_by_one(loaded, question, most_read(questions)) for question in questions])
    else:
        inputs = loaded.family.inputs([question.picture.to(loaded.device) for question in questions])
        rows = image_rows(loaded, inputs, pack([question.prompts for question in questions]))
    return PendingRecords(loaded, questions, rows, config or ModelConfig())


def ask_one_by_one(loaded: LoadedModel, question: Question, config: ModelConfig | None = None) -> PendingRecords:
    """Asks every prompt in a forward of its own, so that not even rounding depends on the others.

    It generates a text if `config` says so.

    Raises UserError if a text is to be generated for more than one query, or is too long.
    """
    config = config or ModelConfig()
    if not config.answers:
        return PendingRecords(loaded, [question], _one_by_one(loaded, question, most_read([question])), config)
    if len(question.queries) > 1:
        asked = "model.use_generate=true" if config.use_generate else f"model.read={config.read}"
        raise UserError(f"{asked} answers one query at a time; set data.share_image=false")
    if config.read in ("answer", ANSWER_BOXES):
        return _ask_and_read(loaded, question, config)
    rows, answer = _generate(loaded, question, question.prompts[0], config)
    beside, tokens = replace(question, prompts=question.prompts[1:]), most_read([question])
    if beside.prompts:
        rows = torch.cat([_filled(rows, tokens), _one_by_one(loaded, beside, tokens)], dim=3)
    return PendingRecords(loaded, [question], rows, config, Answer.of(loaded, answer, question))


def _ask_and_read(loaded: LoadedModel, question: Question, config: ModelConfig) -> PendingRecords:
    """Has the answer generated, and reads it behind the prompt: what each of its tokens looks at; the generic prompt's
    answer too.
    """
    answers = [_generate(loaded, question, prompt, config)[1] for prompt in question.prompts]
    said = Answer.of(loaded, answers[0], question)
    if config.read == ANSWER_BOXES and not said.box_tokens:
        raise UserError(f"model.read={ANSWER_BOXES}: the answer {shown(said.text)} holds no box")
    read = [_without_end(loaded, answer) for answer in answers]
    inputs = loaded.family.inputs([question.picture])
    rows = [answer_rows(loaded, inputs, *asked) for asked in zip(question.prompts, read, strict=True)]
    prompts = [with_answer(*asked) for asked in zip(question.prompts, read, strict=True)]
    if config.read == ANSWER_BOXES:  # of the query's answer: the generic prompt asks for no box
        rows[0] = rows[0][:, :, :, said.box_tokens]
        prompts[0] = replace(prompts[0], read=tuple(prompts[0].read[number] for number in said.box_tokens))
    question = replace(question, prompts=tuple(prompts))
    rows = [_filled(row, most_read([question])) for row in rows]
    return PendingRecords(loaded, [question], torch.cat(rows, dim=3), config, said)


def most_read(questions: Sequence[Question]) -> int:
    """The largest number of tokens that are read of a prompt; prompts with fewer have as many rows."""
    return max(len(prompt.places) for question in questions for prompt in question.prompts)


def _one_by_one(loaded: LoadedModel, question: Question, tokens: int) -> Rows:
    """[layers, 1, heads, prompts * tokens, vis]"""
    inputs = loaded.family.inputs([question.picture])
    rows = [_filled(image_rows(loaded, inputs, pack([[prompt]])), tokens) for prompt in question.prompts]
    return torch.cat(rows, dim=3)


def _filled(rows: Rows, tokens: int) -> Rows:
    """The rows of one prompt, filled up with zeros to those of so many tokens."""
    return torch.nn.functional.pad(rows, (0, 0, 0, tokens - rows.shape[3]))


def _side_by_side(rows: Sequence[Rows]) -> Rows:
    """Questions with unlike numbers of prompts and image tokens in one batch, filled up with zeros."""
    queries, tokens = (max(one.shape[dim] for one in rows) for dim in (3, 4))
    return torch.cat(
        [torch.nn.functional.pad(one, (0, tokens - one.shape[4], 0, queries - one.shape[3])) for one in rows], dim=1
    )


def _generate(
    loaded: LoadedModel, question: Question, prompt: Prompt, config: ModelConfig
) -> tuple[Rows, tuple[int, ...]]:
    """The rows of a prompt, [layers, 1, heads, tokens, vis], and the answer to it."""
    if config.num_beams > 1 and not loaded.family.beams:
        raise UserError(f"model.num_beams={config.num_beams}: this family can be asked with one beam only; set it to 1")
    packed = pack([[prompt]]).to(loaded.device)
    length = packed.ids.shape[1]
    if length + config.max_new_tokens > loaded.context:
        raise UserError(
            f"A prompt of {length} tokens and model.max_new_tokens={config.max_new_tokens} "
            f"exceed the {loaded.context} that the model reads"
        )
    sampling: dict[str, Any] = {"temperature": config.temperature, "top_p": config.top_p} if config.do_sample else {}
    inputs = to_model(loaded, loaded.family.inputs([question.picture]))
    with torch.inference_mode(), kept_rows(loaded.model, packed.wanted()) as rows:
        output = loaded.model.generate(
            input_ids=packed.ids,
            attention_mask=torch.ones_like(packed.ids),
            **loaded.family.text_inputs(packed.ids, inputs),
            **inputs,
            max_new_tokens=config.max_new_tokens,
            do_sample=config.do_sample,
            num_beams=config.num_beams,
            **{key: value for key, value in sampling.items() if value is not None},
        )
    return stacked(rows)[:, :1], tuple(output[0, length:].tolist())  # of several beams, which start alike, the first


def _without_end(loaded: LoadedModel, answer: tuple[int, ...]) -> tuple[int, ...]:
    """The answer without the tokens that end it and fill it up; its first, if there is nothing else."""
    config = loaded.model.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    last = next(
        (place for place in reversed(range(len(answer))) if answer[place] not in (*ends, config.pad_token_id)), 0
    )
    return answer[: last + 1]
