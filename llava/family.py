"""The seam between what knows a model and everything else: pictures, prompts, and the families that make them.

    loaded = load_model("llava-hf/llava-1.5-7b-hf")         # llava.model.builder; config.json tells the family
    picture = loaded.family.picture(image)                  # what the model takes in, and where its tokens lie
    prompt = loaded.family.prompt("the bird", picture, "referseg")
    loaded.model.model(**loaded.family.inputs([picture]), input_ids=...)

A family is a class of `llava/families/`; an instance of it belongs to one checkpoint and holds no weights, so that it
can be sent to other processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Int
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lab.base.errors import UserError
from llava.boxes import Box, BoxRule, Written, on_picture, written
from llava.checkpoint.weights import Placement
from llava.grid import Grid
from llava.layers import plain_causal, reaches
from llava.prompt import ImageTokens, Prompt, build_prompt


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as a model takes it in. `grids` and `beside` hold each of its image tokens once."""

    inputs: Mapping[str, torch.Tensor]  # of the model's forward, the batch first: pixel_values, ...
    tokens: int  # image tokens in the prompt, V
    grids: tuple[Grid, ...]
    beside: tuple[int, ...] = ()  # tokens that lie nowhere in the picture: class token, ends of rows
    text: str = ""  # what the picture's placeholder becomes in the prompt, for families that prepare it as text
    apart: bool = False  # layers of their own look at its tokens, and the prompt holds none of them
    shift: int = 0  # how much further on the model counts what follows than there are image tokens (M-RoPE: below 0)

    def pin_memory(self) -> "Picture":
        """The same in memory that a GPU can read by itself."""
        return replace(self, inputs={key: value.pin_memory() for key, value in self.inputs.items()})

    def to(self, device: torch.device) -> "Picture":
        """The same on a device; to a GPU without waiting, if the memory is pinned."""
        return replace(self, inputs={key: value.to(device, non_blocking=True) for key, value in self.inputs.items()})


class Sharing(Enum):
    """How several expressions share one reading of their picture."""

    PACKED = "packed"  # one forward, a mask keeps the expressions apart: every layer must be plain causal
    CACHED = "cached"  # the picture is read into a cache, the expressions follow: any layer that looks back only
    ALONE = "alone"  # not at all: each expression in a forward of its own


class Geometry(Protocol):
    """Where the image tokens of a checkpoint lie."""

    @property
    def tokens(self) -> int:
        """Image tokens of one picture, at most; of a usual one, where there is no end."""

    @property
    def fewest(self) -> int:
        """Image tokens of one picture, at least."""

    def describe(self) -> dict[str, str]:
        """What happens to a picture, as rows of a table: {"image": ..., "grid": ...}."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    name: str
    base: str | None
    cache_dir: str | None
    placement: Placement
    pad: bool | None  # None: as the checkpoint says
    options: Mapping[str, Any] = field(default_factory=dict)  # of the image processor, in place of the checkpoint's own

    def refuse_base(self) -> None:
        """Raises UserError if a base was named, for a checkpoint that is whole."""
        if self.base is not None:
            raise UserError(f"{self.name} is a whole model: model.base={self.base} has no use here, leave it out")

    def refuse_options(self) -> None:
        """Raises UserError if options of an image processor were named, for a family that prepares pictures itself."""
        if self.options:
            raise UserError(f"{self.name}: model.image_processor has no use here, leave it out")

    def refuse_aspect_ratio(self, why: str) -> None:
        """Raises UserError if a way to make the picture square was named, for a family that does not."""
        if self.pad is not None:
            raise UserError(f"{self.name}: model.image_aspect_ratio has no use here, leave it out: {why}")


@dataclass(frozen=True)
class Family(ABC):
    """What several checkpoints have in common; an instance is one checkpoint without its weights."""

    model_types: ClassVar[tuple[str, ...]]  # in config.json
    special: ClassVar[str]  # what is special about its pictures, in a line of a table
    beams: ClassVar[bool] = True  # whether transformers can search with several for an answer
    own_conv_mode: ClassVar[str] = "referseg"  # the template that asks if no other is named

    tokenizer: PreTrainedTokenizerFast
    image_processor: Any
    geometry: Any  # a Geometry
    image_tokens: ImageTokens
    context: int  # tokens that the model reads, image tokens included
    sharing: Sharing = Sharing.PACKED

    @classmethod
    @abstractmethod
    def load(cls, request: Request, folder: Path, raw: dict[str, Any]) -> "LoadedModel":
        """The checkpoint in `folder`, with eager attention; `raw` is its config.json. Raises UserError."""

    @abstractmethod
    def picture(self, image: Image.Image) -> Picture:
        """An RGB picture as the model takes it in. Raises UserError if it cannot."""

    @classmethod
    def shares(cls, text_config: Any, context: int) -> Sharing:
        """How expressions may share a picture in prompts of up to `context` tokens.

        A family that reads its prompt in both directions, or keeps a state from token to token, answers ALONE.
        """
        if 0 in reaches(text_config).values() or not getattr(text_config, "is_causal", True):
            return Sharing.ALONE
        return Sharing.PACKED if plain_causal(text_config, context) else Sharing.CACHED

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
        """The prompt that asks for `query` in this picture, in a template or, with None, in the family's own.

        `system` takes the place of the template's system text, `question` holds `{query}` and what is asked about it.
        Raises UserError as `build_prompt`.
        """
        image = replace(self.image_tokens, count=picture.tokens)
        return build_prompt(
            query,
            conv_mode or self.own_conv_mode,
            self.tokenizer,
            image,
            drop_space_tokens=drop_space_tokens,
            system=system,
            question=question,
            context=self.context,
        )

    def inputs(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """What the model's forward takes of several pictures, in their order."""
        return {key: torch.cat([picture.inputs[key] for picture in pictures]) for key in pictures[0].inputs}

    def text_inputs(
        self, ids: Int[torch.Tensor, "batch length"], inputs: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What the model's forward takes of a prompt's tokens beside their ids, such as which are the picture's.

        `inputs` are those of the pictures.
        """
        return {}

    # boxes in an answer

    @property
    def box_rule(self) -> BoxRule | None:
        """How the checkpoint writes a box in its answer; None: that is not known here."""
        return None

    def frame(self, picture: Picture, image_size: tuple[int, int]) -> Box:
        """What the numbers of a written box lie over, in pixels of the picture."""
        return (0.0, 0.0, float(image_size[0]), float(image_size[1]))

    def resized(self, picture: Picture) -> tuple[float, float]:
        """(width, height) of the picture as it was resized, for families whose numbers are pixels of that."""
        raise NotImplementedError

    def boxes(self, answer: str, picture: Picture, image_size: tuple[int, int]) -> list[tuple[Written, Box]]:
        """The boxes in an answer, as they were written and in pixels of the picture, edges exclusive."""
        rule = self.box_rule
        if rule is None:
            return []
        scale = self.resized(picture) if rule.scale is None else (rule.scale, rule.scale)
        frame = self.frame(picture, image_size)
        found = [(one, on_picture(one.numbers_xyxy, scale, frame, image_size)) for one in written(rule, answer)]
        return [(one, box) for one, box in found if box is not None]


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory, in evaluation mode, with all that is needed to ask it."""

    name: str
    layout: str  # transformers | original | original, projector on a base | original, LoRA on a base
    model: PreTrainedModel
    family: Family
    conv_mode: str | None  # template that the checkpoint was trained with, if its name tells
    notes: tuple[str, ...] = ()  # what had to be assumed

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.family.tokenizer

    @property
    def image_processor(self) -> Any:
        return self.family.image_processor

    @property
    def geometry(self) -> Any:
        return self.family.geometry

    @property
    def image_tokens(self) -> ImageTokens:
        return self.family.image_tokens

    @property
    def context(self) -> int:
        """Tokens that the model reads, image tokens included."""
        return self.family.context

    @property
    def text_config(self) -> Any:
        """The configuration of the language model."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def num_layers(self) -> int:
        return self.text_config.num_hidden_layers

    @property
    def num_heads(self) -> int:
        return self.text_config.num_attention_heads

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def without_weights(self) -> "LoadedModel":
        """The same for processes that open pictures and make prompts: the weights stay where they are."""
        return replace(self, model=None)
