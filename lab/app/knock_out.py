"""The chosen heads knocked out, and what the model then says, beside as many other heads of the same layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from analyze import Head
from collector import Question
from lab.ablate.asking import Part, ReadPicture
from lab.ablate.interventions import INTERVENTIONS, About
from lab.ablate.sets import UNTOUCHED, HeadSet
from lab.ablate.speaking import speak
from lab.measure.controls import sets_of_same_layers
from llava.family import LoadedModel

WAYS = ("zero", "block", "uniform", "keep_uniform")  # of INTERVENTIONS, those that need nothing but the heads
CHOSEN, OTHERS = "chosen", "others"
DRAWS = 3  # sets of other heads


@dataclass(frozen=True)
class Said:
    """What the model says with some heads changed."""

    name: str  # untouched, chosen or others
    heads: tuple[Head, ...]
    answer: str
    first: float  # probability of the word that the untouched model says first, 0 to 1


def knock_out(loaded: LoadedModel, question: Question, heads: Sequence[Head], way: str, *, most: int) -> list[Said]:
    """The answers to the question's first expression: of the untouched model, with the heads changed, with others.

    Args:
        heads: (layer, head), zero-based.
        way: one of `WAYS`.
        most: tokens of an answer.

    Raises:
        UserError: the family reads a picture and its expression together.
    """
    intervention, shape = INTERVENTIONS[way], (loaded.num_layers, loaded.num_heads)
    picture = ReadPicture(loaded, question)
    means = [output.mean(0) for output in picture.look()[1]]
    nothing = (None, (), None, None, None, None)
    about = About(question.picture, question.image_size, loaded.num_layers, *nothing, means, None)
    to = intervention.to(about)
    assert to is not None  # of WAYS, none lacks anything
    sets = head_sets(heads, shape[1])
    masks = [torch.from_numpy(_mask(one, shape, others=intervention.others))[None] for one in sets]
    parts = [Part((), mask.to(loaded.device), intervention.change, to) for mask in masks]
    spoken = speak(picture, 0, parts, most=most)
    expected = spoken[0].first.argmax()
    return [
        Said(one.name, one.heads, _text(loaded, answer.ids), float(answer.first[expected]))
        for one, answer in zip(sets, spoken, strict=True)
    ]


def head_sets(heads: Sequence[Head], heads_per_layer: int) -> list[HeadSet]:
    """No heads, the given ones, and up to `DRAWS` sets of as many others of the same layers, always the same."""
    drawn = sets_of_same_layers(heads, heads_per_layer, DRAWS, np.random.default_rng(0), most=DRAWS)
    others = [HeadSet(OTHERS, tuple(one)) for one in drawn.sets if set(one) != set(heads)]
    return [HeadSet(UNTOUCHED, ()), HeadSet(CHOSEN, tuple(heads)), *others]


def _mask(one: HeadSet, shape: tuple[int, int], *, others: bool) -> np.ndarray:
    mask = one.mask(shape, others=others)
    return np.zeros(shape, bool) if mask is None else mask


def _text(loaded: LoadedModel, ids: Sequence[int]) -> str:
    return loaded.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
