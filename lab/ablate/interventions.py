"""The one table of interventions: what each asks, what it changes, and what it needs of a sample.

| question | an intervention answers it if |
|---|---|
| steer | heads that are made to look elsewhere make the model speak of what is there |
| suffice | the model answers although all other heads have lost the picture |
| needed | the model fails without them |

All keep the attention sum of every head but for `block`, and act on heads alone: no weight of the model changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from lab.ablate.changes import Change, cut, moved, said
from lab.ablate.things import Thing, distribution, mask_in_cells, share_of_cells
from lab.base.errors import UserError
from lab.datasets.boxes import Box
from lab.datasets.masks import read_mask
from llava.family import Picture

Layers = Sequence[torch.Tensor]  # of each layer, what a change needs
FREE = 0.5  # share of a cell that must lie in the picture for it to count as background


@dataclass(frozen=True, eq=False)
class About:
    """What is known of one sample when the model is asked."""

    picture: Picture
    image_size: tuple[int, int]  # width, height
    num_layers: int
    target: Thing | None  # what the expression means, if the sample has its box
    things: Sequence[Thing]  # beside the one that is meant
    other: Thing | None  # one of them, for redirect
    swapped: Float[torch.Tensor, "layers heads vis"] | None  # what another expression about the picture looks at
    swapped_answer: str | None
    swapped_thing: Thing | None  # what that expression means, if its line has a box
    means: Layers  # [heads, width]: what the heads say on average
    place: Sequence[float] | None  # ablate.box

    def everywhere(self, weights: Float[np.ndarray, " vis"]) -> Layers | None:
        """The same place for all layers and heads."""
        to = distribution(weights)
        if to is None:
            return None
        return [torch.from_numpy(to).float().to(self.means[0].device)[None]] * self.num_layers

    def where(self, thing: Thing) -> Float[np.ndarray, " vis"]:
        """What share of each image token's cell the thing covers: its mask or, without one, its box."""
        if thing.mask_source is None:
            return self.boxes(thing.box_xyxy)
        mask = read_mask(thing.mask_source, self.image_size)
        return mask_in_cells(self.picture.grids, self.picture.tokens, mask)

    def boxes(self, *boxes: Box) -> Float[np.ndarray, " vis"]:
        """What share of each image token's cell lies in one of the boxes."""
        return share_of_cells(self.picture.grids, self.picture.tokens, boxes)


@dataclass(frozen=True)
class Intervention:
    """What is done to the heads of a set or, with `others`, to all heads but these."""

    question: str
    text: str
    change: Change
    to: Callable[[About], Layers | None]  # None: the sample lacks what it takes
    needs: str = ""  # what a sample must have
    headline: str = "exact"  # the metric that tells most
    others: bool = False
    answer: Callable[[About], str | None] | None = None  # what the model says if it follows
    there: "Callable[[About], Place] | None" = None  # the place that `to` sends the heads to, where it is one
    aim: Callable[[About], Thing | None] | None = None  # what a model that follows speaks of


Place = Float[np.ndarray, " vis"] | None  # share of each image token's cell; None: the sample has no such place


def _other(about: About) -> Place:
    return None if about.other is None else about.where(about.other)


def _background(about: About) -> Place:
    if about.target is None:
        return None
    width, height = about.image_size
    inside = about.boxes((0.0, 0.0, float(width), float(height))) > FREE
    things = about.boxes(about.target.box_xyxy, *(thing.box_xyxy for thing in about.things)) > 0
    return (inside & ~things).astype(float)


def _box(about: About) -> Place:
    if about.place is None:
        return None
    (x0, y0, x1, y1), (width, height) = about.place, about.image_size
    return about.boxes((x0 * width, y0 * height, x1 * width, y1 * height))


def _sent(there: Callable[[About], Place]) -> Callable[[About], Layers | None]:
    def to(about: About) -> Layers | None:
        place = there(about)
        return None if place is None else about.everywhere(place)

    return to


def _swapped(about: About) -> Layers | None:
    if about.swapped is None:
        return None
    sums = about.swapped.sum(-1, keepdim=True)
    return list(about.swapped / sums.clamp(min=torch.finfo(sums.dtype).tiny))


def _uniform(about: About) -> Layers | None:
    return about.everywhere(np.ones(about.picture.tokens))


def _means(about: About) -> Layers:
    return about.means


def _zero(about: About) -> Layers:
    return [torch.zeros_like(mean[:1]) for mean in about.means]


INTERVENTIONS: dict[str, Intervention] = {
    "redirect": Intervention(
        "steer", "attention to the image moved to another thing", moved, _sent(_other),
        "a box of another thing: the line's others, or lines about the same picture with a bbox", "other",
        answer=lambda about: about.other.answer if about.other else None, there=_other, aim=lambda about: about.other,
    ),
    "swap": Intervention(
        "steer", "attention to the image replaced by that of another expression", moved, _swapped,
        "another expression about the same picture", "other", answer=lambda about: about.swapped_answer,
        aim=lambda about: about.swapped_thing,
    ),
    "background": Intervention(
        "steer", "attention to the image moved to where no thing is", moved, _sent(_background), "a bbox",
        "first_word", there=_background,
    ),
    "box": Intervention(
        "steer", "attention to the image moved to ablate.box", moved, _sent(_box), headline="first_word", there=_box
    ),
    "keep_uniform": Intervention(
        "suffice", "attention to the image uniform in all other heads", moved, _uniform, headline="first_word",
        others=True,
    ),
    "keep_zero": Intervention(
        "suffice", "output zero in all other heads", said, _zero, headline="first_word", others=True
    ),
    "zero": Intervention("needed", "output zero", said, _zero),
    "mean": Intervention("needed", "output its mean over the data", said, _means),
    "uniform": Intervention("needed", "attention to the image uniform", moved, _uniform),
    "block": Intervention("needed", "no attention to the image, the rest renormalised", cut, _zero),
}  # fmt: skip


def check_interventions(names: Sequence[str], place: Sequence[float] | None) -> None:
    """Raises UserError naming those that do not exist, and `box` without a box."""
    unknown = [name for name in names if name not in INTERVENTIONS]
    if unknown or not names:
        found = f"names {', '.join(unknown)}" if unknown else "is empty"
        raise UserError(f"ablate.interventions {found}; choose from {', '.join(INTERVENTIONS)}")
    if "box" in names and place is None:
        raise UserError("ablate.interventions names box: set ablate.box=[x0,y0,x1,y1], shares of width and height")
