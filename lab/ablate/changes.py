"""What is changed in a head: where it looks, or what it says. Each change is a function of a few lines.

    moved(seen, to)         the attention to the image, its sum as it was, goes where `to` says
    cut(seen, to)           no attention to the image; the rest grows so that it sums to 1 again
    said(seen, to)          the head's output is `to`, whatever it looks at

A change gets what some queries of one layer do and returns their new outputs, float32. Nothing in it knows a model.

Letters in shape comments: N queries, H heads, V image tokens, D width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Seen:
    """What some queries do in one layer, before anything is changed; all float32."""

    looked: Float[torch.Tensor, "N H V"]  # weights on the image tokens, after the softmax over all keys
    values: Float[torch.Tensor, "H V D"]  # of the image tokens, for each query head
    output: Float[torch.Tensor, "N H D"]

    def of(self, queries: slice) -> "Seen":
        """The same for some of the queries."""
        return Seen(self.looked[queries], self.values, self.output[queries])

    @property
    def mass(self) -> Float[torch.Tensor, "N H 1"]:
        """The attention sum: what share of the attention the image gets."""
        return self.looked.sum(-1, keepdim=True)

    @property
    def beside(self) -> Float[torch.Tensor, "N H D"]:
        """The part of the output that does not come from the image."""
        return self.output - torch.einsum("nhv,hvd->nhd", self.looked, self.values)


Change = Callable[[Seen, torch.Tensor], Float[torch.Tensor, "N H D"]]


def moved(seen: Seen, to: Float[torch.Tensor, "heads V"]) -> Float[torch.Tensor, "N H D"]:
    """`to` sums to 1 over the image tokens, for each head or, as one row, for all. Keys that a layer's window does not
    reach count as others do.
    """
    there = torch.einsum("hv,hvd->hd", to.expand(len(seen.values), -1), seen.values)
    return seen.beside + seen.mass * there


def cut(seen: Seen, to: torch.Tensor) -> Float[torch.Tensor, "N H D"]:
    """`to` is not used. A head that looks at nothing but the image is left with an output near 0."""
    rest = 1 - seen.mass
    return torch.where(rest > LEAST_REST, seen.beside / rest.clamp(min=LEAST_REST), 0.0)


LEAST_REST = 1e-4  # of attention beside the image; of less nothing can be told apart from rounding


def said(seen: Seen, to: Float[torch.Tensor, "heads D"]) -> Float[torch.Tensor, "N H D"]:
    """`to` is each head's output or, as one row, that of all."""
    return to.expand_as(seen.output)
