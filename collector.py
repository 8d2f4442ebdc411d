"""Samples -> records: how much each head of the last prompt token looks at each image token.

    loaded = load_llava("llava-hf/llava-1.5-7b-hf")
    record = collect(loaded, open_image("bird.jpg"), "the bird on the branch")

    question = prepare(loaded, open_image("bird.jpg"), ["the bird", "the branch"])      # no weights needed: for worker
    processes records = ask(loaded, [question]).of(0)                                        # both expressions, the
    image read once

`record.attn` is [layers, heads, 1, image tokens].
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from jaxtyping import Float
from PIL import Image

from conf.schema import ModelConfig
from lab.attention.capture import attention_name, kept_rows
from lab.attention.packing import Packed, pack
from lab.base.errors import UserError
from lab.records.record import Record
from llava.mm_utils import Prompt, build_prompt, pixel_values
from llava.model.loaded import LoadedModel

SCHEMA = 1  # of a record's meta
GENERIC_QUERY = "Write a general description of the image."  # asks for nothing in particular; arXiv 2502.17422


@dataclass(frozen=True, eq=False)
class Question:
    """One image and what is asked about it, as the model takes it in.

    Holds no weights and can be sent between processes.
    """

    pixels: Float[torch.Tensor, "1 3 side side"]  # float32
    image_size: tuple[int, int]  # width, height
    queries: tuple[str, ...]
    prompts: tuple[Prompt, ...]  # of the queries and, if wanted, of the generic one behind them
    image_file: str | None = None

    def pin_memory(self) -> "Question":
        """The same in memory that a GPU can read by itself; DataLoader calls it."""
        return replace(self, pixels=self.pixels.pin_memory())


def collect(
    loaded: LoadedModel,
    image: Image.Image,
    query: str,
    config: ModelConfig | None = None,
    *,
    image_file: str | None = None,
    generic: bool = False,
) -> Record:
    """Asks the model once and keeps the last prompt token's attention to the image.

    Args:
        loaded: the checkpoint.
        image: RGB.
        query: the expression, written into the template `config.conv_mode`.
        config: how to ask; of it conv_mode, drop_space_tokens, use_generate and the generation keys are read.
        image_file: where the image came from, for the record.
        generic: also keep the attention of `GENERIC_QUERY`, in `record.generic`.

    Returns:
        Weights after the softmax, [layers, heads, 1, image tokens]. With eager attention they are in the model's dtype
        and equal bit by bit to those of `output_attentions=True`; with fused attention in float32. With `use_generate`
        they are those of the step that predicts the first token of the answer.

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
    prompts: Sequence[Prompt] | None = None,
) -> Question:
    """Prompts and pixels of one image. Of `loaded` only the tokenizer, the processor and the geometry are used.

    `prompts` are those of the queries, if `make_prompt` has made them already. Raises UserError as `collect`, whichever
    query is wrong.
    """
    config = config or ModelConfig()
    if config.use_flash_attn:
        raise UserError(
            "model.use_flash_attn=true cannot be used: flash attention never forms the weights that are collected here"
        )
    if prompts is None:
        prompts = [make_prompt(loaded, query, config) for query in queries]
    beside = [make_prompt(loaded, GENERIC_QUERY, config)] if generic else []
    pixels = pixel_values(image, loaded.image_processor, loaded.geometry)
    return Question(pixels, image.size, tuple(queries), (*prompts, *beside), image_file)


def make_prompt(loaded: LoadedModel, query: str, config: ModelConfig) -> Prompt:
    """`build_prompt` for this checkpoint and configuration."""
    drop = config.drop_space_tokens
    return build_prompt(
        query, config.conv_mode, loaded.tokenizer, loaded.image_tokens, drop_space_tokens=drop, context=loaded.context
    )


class PendingRecords:
    """The attention of a batch of questions, on its way from the accelerator: returned at once, waited for when it is
    read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        questions: Sequence[Question],
        rows: Float[torch.Tensor, "layers batch heads queries vis"],
        config: ModelConfig,
        text: str | None = None,
    ) -> None:
        self.loaded, self.questions, self.config, self.text = loaded, questions, config, text
        self._copied: torch.cuda.Event | None = None
        self._rows = rows
        if rows.is_cuda:  # one copy for the batch
            self._rows = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)
            self._copied = torch.cuda.current_stream(rows.device).record_event()

    def of(self, number: int) -> list[Record]:
        """The records of one question, one per query."""
        if self._copied is not None:
            self._copied.synchronize()
        question = self.questions[number]
        rows = self._rows[:, number, :, :, None].unbind(2)  # per query [layers, heads, 1, vis]
        generic = rows[len(question.queries)] if len(question.prompts) > len(question.queries) else None
        asked = zip(
            question.queries, question.prompts, rows, strict=False
        )  # rows may be padded, prompts hold the generic one
        return [Record.from_tensor(row, self._meta(question, query, prompt), generic) for query, prompt, row in asked]

    def _meta(self, question: Question, query: str, prompt: Prompt) -> dict[str, Any]:
        loaded = self.loaded
        return {
            "image_file": question.image_file,
            "query": query,
            "model_name": loaded.name,
            "image_size": list(question.image_size),  # width, height
            "vis_len": loaded.geometry.tokens,
            "patch_size": loaded.geometry.side,  # the grid's, by its traditional name
            "num_layers": loaded.num_layers,
            "num_heads": loaded.num_heads,
            "generated_text": self.text,
            "grids": [loaded.geometry.grid(question.image_size).to_dict()],
            "stations": prompt.stations,
            "conv_mode": self.config.conv_mode,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "attn_implementation": attention_name(loaded.model),
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "transformers": transformers.__version__,
            },
            "schema": SCHEMA,
        }


def ask(loaded: LoadedModel, questions: Sequence[Question], config: ModelConfig | None = None) -> PendingRecords:
    """Asks everything in one forward, each image read once whatever the number of its expressions.

    What comes out for an expression does not depend on the others: in float32 it differs from `collect`'s by less than
    1e-5. Returns before an accelerator has finished. Raises torch's out-of-memory errors.
    """
    pixels = torch.cat(
        [question.pixels.to(loaded.device, non_blocking=True) for question in questions]
    )  # each may be pinned
    rows = _forward(loaded, pixels, pack([question.prompts for question in questions]))
    return PendingRecords(loaded, questions, rows, config or ModelConfig())


def ask_one_by_one(loaded: LoadedModel, question: Question, config: ModelConfig | None = None) -> PendingRecords:
    """Asks every prompt in a forward of its own, so that not even rounding depends on the others; generates if `config`
    says so.

    Raises UserError if a text is to be generated for more than one query, or is too long.
    """
    config = config or ModelConfig()
    first, *others = (pack([[prompt]]) for prompt in question.prompts)
    text = None
    if config.use_generate:
        if len(question.queries) > 1:
            raise UserError("model.use_generate=true answers one query at a time; set data.share_image=false")
        rows, text = _generate(loaded, question.pixels, first, config)
    else:
        rows = _forward(loaded, question.pixels, first)
    beside = [_forward(loaded, question.pixels, packed) for packed in others]
    return PendingRecords(loaded, [question], torch.cat([rows, *beside], dim=3), config, text)


def _forward(
    loaded: LoadedModel, pixels: torch.Tensor, packed: Packed
) -> Float[torch.Tensor, "layers batch heads queries vis"]:
    packed = packed.to(loaded.device)
    inputs = packed.inputs(attention_name(loaded.model), loaded.dtype)
    with torch.inference_mode(), kept_rows(loaded.model, packed.wanted(), stop=True) as rows:
        # The model below the output layer: no text is asked for.
        loaded.model.model(**inputs, pixel_values=pixels.to(loaded.device).to(loaded.dtype), use_cache=False)
    with torch.inference_mode():
        return _stacked(rows)


def _stacked(rows: Sequence[torch.Tensor]) -> Float[torch.Tensor, "layers batch heads queries vis"]:
    return torch.stack([row.to(rows[0].device) for row in rows])  # of a model spread over several devices


def _generate(
    loaded: LoadedModel, pixels: torch.Tensor, packed: Packed, config: ModelConfig
) -> tuple[Float[torch.Tensor, "layers 1 heads 1 vis"], str]:
    packed, length = packed.to(loaded.device), packed.ids.shape[1]
    if length + config.max_new_tokens > loaded.context:
        raise UserError(
            f"A prompt of {length} tokens and model.max_new_tokens={config.max_new_tokens} exceed the {loaded.context} that the model reads"
        )
    sampling: dict[str, Any] = {"temperature": config.temperature, "top_p": config.top_p} if config.do_sample else {}
    with torch.inference_mode(), kept_rows(loaded.model, packed.wanted()) as rows:
        output = loaded.model.generate(
            input_ids=packed.ids,
            attention_mask=torch.ones_like(packed.ids),
            pixel_values=pixels.to(loaded.device, loaded.dtype),
            max_new_tokens=config.max_new_tokens,
            do_sample=config.do_sample,
            num_beams=config.num_beams,
            **{key: value for key, value in sampling.items() if value is not None},
        )
    text = loaded.tokenizer.decode(output[0, length:], skip_special_tokens=True).strip()
    return _stacked(rows)[:, :1], text  # of several beams, which start alike, the first
