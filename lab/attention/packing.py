"""Several questions about one image as one sequence, so that the image is read once.

    [ system + image | expression 1 | expression 2 | ... | padding ]

Every expression sees the prefix and itself but no other expression, at the positions that it would have alone; what the
model makes of it is therefore what it would make of the single prompt. A row with one expression is the ordinary
prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int

from lab.attention.capture import Wanted
from lab.stations import positions
from llava.mm_utils import Prompt


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of such sequences, padded on the right to one length."""

    ids: Int[torch.Tensor, "batch length"]
    place: Int[torch.Tensor, "batch length"]  # of each token in its own prompt
    part: Int[torch.Tensor, "batch length"]  # 0: prefix, 1 and up: the expressions of the row and its padding
    last: Int[torch.Tensor, "batch queries"]  # where each prompt's last token is; rows with fewer prompts repeat theirs
    prefix: int  # tokens of system and image, the same in every prompt
    columns: slice  # the image tokens

    @property
    def single(self) -> bool:
        """Whether every row is one ordinary prompt, for which a causal mask does: padding comes after it."""
        return self.last.shape[1] == 1

    def to(self, device: torch.device) -> "Packed":
        """The same on a device; to a GPU without waiting for what it is doing."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        return replace(self, ids=moved(self.ids), place=moved(self.place), part=moved(self.part), last=moved(self.last))

    def wanted(self) -> Wanted:
        """The last token of every prompt, on the image."""
        return Wanted(self.last, self.columns, 0 if self.single else self.prefix)

    def inputs(self, attention: str, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
        """What the model's forward takes, but for the pixels."""
        if self.single:
            return {"input_ids": self.ids, "attention_mask": None, "position_ids": None}
        first = 0 if attention == "eager" else self.prefix
        return {"input_ids": self.ids, "attention_mask": self.mask(first, attention, dtype), "position_ids": self.place}

    def mask(self, first: int, attention: str, dtype: torch.dtype) -> torch.Tensor:
        """Which keys the queries from `first` on see, [batch, 1, queries, keys]: bool, or what eager attention adds to
        the scores.
        """
        seen = _sees(self.part, first)
        if attention != "eager":
            return seen
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _sees(part: Int[torch.Tensor, "batch length"], first: int) -> Bool[torch.Tensor, "batch 1 queries length"]:
    order = torch.arange(part.shape[1], device=part.device)
    causal = order[first:, None] >= order
    return (causal & ((part[:, None, :] == 0) | (part[:, None, :] == part[:, first:, None])))[:, None]


def pack(rows: Sequence[Sequence[Prompt]]) -> Packed:
    """One sequence per row of prompts. All prompts must begin with the same system text and number of image tokens.

    Raises ValueError otherwise, or if there is nothing to pack.
    """
    image = positions(rows[0][0].stations, "image")
    prefix, head = image[-1] + 1, rows[0][0].ids[: image[-1] + 1]
    if any(prompt.ids[:prefix] != head for row in rows for prompt in row):
        raise ValueError("the prompts differ before the end of the image; they cannot share it")
    queries = max(map(len, rows))
    tails = [[prompt.ids[prefix:] for prompt in row] for row in rows]
    length = prefix + max(sum(map(len, row)) for row in tails)
    ids = torch.full((len(rows), length), head[0])
    place, part = torch.arange(length).repeat(len(rows), 1), torch.full((len(rows), length), queries + 1)
    last = torch.empty(len(rows), queries, dtype=torch.long)
    for i, row in enumerate(tails):
        ids[i, :prefix], part[i, :prefix], at = torch.tensor(head), 0, prefix
        for number, tail in enumerate(row, start=1):
            stop = at + len(tail)
            ids[i, at:stop], part[i, at:stop] = torch.tensor(tail), number
            place[i, at:stop] = torch.arange(prefix, prefix + len(tail))
            last[i, number - 1 :] = stop - 1
            at = stop
        place[i, at:] = prefix  # padding: any place that the model knows
    return Packed(ids, place, part, last, prefix, slice(image[0], image[-1] + 1))
