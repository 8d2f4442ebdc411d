"""Several questions about one image as one sequence, so that the image is read once.

    [ system + image | expression 1 | expression 2 | ... | padding ]

Every expression sees the prefix and itself but no other expression, at the positions that it would have alone; what the
model makes of it is therefore what it would make of the single prompt. A row with one expression is the ordinary
prompt. Rows may differ in their prefixes: where several expressions follow, shorter ones are filled up, so that the
expressions of all rows begin at the same place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int

from lab.attention.capture import Wanted
from lab.stations import positions
from llava.layers import CHUNKED
from llava.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of such sequences, padded on the right to one length."""

    ids: Int[torch.Tensor, "batch length"]
    place: Int[torch.Tensor, "batch length"]  # of each token in its own prompt
    part: Int[torch.Tensor, "batch length"]  # 0: prefix, 1 and up: the expressions of the row, then its padding
    last: Int[torch.Tensor, "batch queries"]  # where each prompt's last token is; rows with fewer prompts repeat theirs
    read: Int[torch.Tensor, "batch queries tokens"]  # where its read tokens are; prompts with fewer repeat their last
    prefix: int  # tokens of system and image in the row that has the fewest
    start: int  # where the expressions begin: the same number in the row that has the most
    columns: slice | Int[torch.Tensor, "batch columns"]  # the image tokens; rows with fewer repeat their first
    shift: Int[torch.Tensor, "batch"]  # of the places behind the picture, see `llava.prompt.Prompt`

    @property
    def single(self) -> bool:
        """Whether every row is one ordinary prompt, for which the model's own mask does: padding comes after it."""
        return self.last.shape[1] == 1

    @property
    def own(self) -> Bool[torch.Tensor, "batch length"]:
        """Where rows hold their prompts, and not padding."""
        return self.part <= self.last.shape[1]

    def to(self, device: torch.device) -> "Packed":
        """The same on a device; to a GPU without waiting for what it is doing."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        columns = self.columns if isinstance(self.columns, slice) else moved(self.columns)
        return replace(
            self,
            ids=moved(self.ids),
            place=moved(self.place),
            part=moved(self.part),
            last=moved(self.last),
            read=moved(self.read),
            columns=columns,
            shift=moved(self.shift),
        )

    def wanted(self) -> Wanted:
        """The read tokens of every prompt, on the image."""
        return Wanted(self.read.flatten(1), self.columns, 0 if self.single else self.prefix)

    def inputs(self, attention: str, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
        """What the model's forward takes, but for the picture."""
        if self.single:
            return {"input_ids": self.ids, "attention_mask": None, "position_ids": None}
        first = 0 if attention == "eager" else self.prefix
        mask = as_mask(self.sees(first), attention, dtype)
        return {"input_ids": self.ids, "attention_mask": mask, "position_ids": self.place}

    def sees(self, first: int) -> Bool[torch.Tensor, "batch 1 queries keys"]:
        """Which keys the queries from `first` on see."""
        order = torch.arange(self.part.shape[1], device=self.part.device)
        causal = order[first:, None] >= order
        part = self.part[:, None, :]
        return (causal & ((part == 0) | (part == self.part[:, first:, None])))[:, None]

    def wanted_behind(self) -> Wanted:
        """The same as `wanted` in a forward of the expressions alone, which finds the prefix in a cache."""
        return Wanted(self.read.flatten(1) - self.start, self.columns)

    def inputs_behind(
        self, reaches: Mapping[str, int | None], attention: str, dtype: torch.dtype
    ) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """What the model's forward takes behind a cache of the prefix.

        There is a mask for each kind of layer, if there are several (see `llava.layers.reaches`).
        """
        masks = {kind: as_mask(self._sees_near(kind, reach), attention, dtype) for kind, reach in reaches.items()}
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        ids, place = self.ids[:, self.start :], self.place[:, self.start :] + self.shift[:, None]
        return {"input_ids": ids, "attention_mask": mask, "position_ids": place}

    def _sees_near(self, kind: str, reach: int | None) -> Bool[torch.Tensor, "batch 1 queries keys"]:
        seen = self.sees(self.start)
        if reach is None:
            return seen
        query, key = self.place[:, None, self.start :, None], self.place[:, None, None, :]
        return seen & (query // reach == key // reach if kind == CHUNKED else query - key < reach)


def as_mask(seen: Bool[torch.Tensor, "*shape"], attention: str, dtype: torch.dtype) -> torch.Tensor:
    """What is seen, as bool or, for eager attention, as what is added to the scores."""
    if attention != "eager":
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def pack(rows: Sequence[Sequence[Prompt]]) -> Packed:
    """One sequence per row of prompts. All prompts of a row must begin with the same text and number of image tokens.

    Raises ValueError otherwise, or if there is nothing to pack.
    """
    columns = [row[0].columns for row in rows]
    heads = [row[0].ids[: max(positions(row[0].stations, "image"), default=-1) + 1] for row in rows]
    if any(prompt.ids[: len(head)] != head for row, head in zip(rows, heads, strict=True) for prompt in row):
        raise ValueError("the prompts differ before the end of the image; they cannot share it")
    queries = max(map(len, rows))
    shortest, longest = min(map(len, heads)), max(map(len, heads))
    starts = [longest if queries > 1 else len(head) for head in heads]
    tails = [[prompt.ids[len(head) :] for prompt in row] for row, head in zip(rows, heads, strict=True)]
    length = max(start + sum(map(len, row)) for start, row in zip(starts, tails, strict=True))
    ids = torch.full((len(rows), length), rows[0][0].ids[-1])  # padding: any token but the image's
    place, part = torch.arange(length).repeat(len(rows), 1), torch.full((len(rows), length), queries + 1)
    last = torch.empty(len(rows), queries, dtype=torch.long)
    tokens = max(len(prompt.places) for row in rows for prompt in row)
    read = torch.empty(len(rows), queries, tokens, dtype=torch.long)
    for i, (head, at) in enumerate(zip(heads, starts, strict=True)):
        ids[i, : len(head)], part[i, : len(head)] = torch.tensor(head), 0
        for number, tail in enumerate(tails[i], start=1):
            stop = at + len(tail)
            ids[i, at:stop], part[i, at:stop] = torch.tensor(tail), number
            place[i, at:stop] = torch.arange(len(head), len(head) + len(tail))
            last[i, number - 1 :] = stop - 1
            read[i, number - 1 :] = torch.tensor(_filled(rows[i][number - 1].places, tokens)) + at - len(head)
            at = stop
        place[i, at:] = len(head)  # padding: any place that the model knows
    shift = torch.tensor([row[0].shift for row in rows])
    return Packed(ids, place, part, last, read, shortest, longest, _columns(columns), shift)


def pack_behind(prompt: Prompt, answer: Sequence[int]) -> Packed:
    """A prompt as the prefix and the tokens of its answer behind it, each of them read.

    For a forward behind a cache: what is read in both directions, as some models read a prompt, ends with the prompt.
    """
    length = len(prompt.ids) + len(answer)
    ids, place = torch.tensor([[*prompt.ids, *answer]]), torch.arange(length)[None]
    start, last = len(prompt.ids), torch.tensor([[length - 1]])
    columns = _columns([prompt.columns])
    shift = torch.tensor([prompt.shift])
    return Packed(ids, place, (place >= start).long(), last, place[None, :, start:], start, start, columns, shift)


def _filled(places: Sequence[int], number: int) -> list[int]:
    return [*places, *[places[-1]] * (number - len(places))]


def _columns(image: Sequence[Sequence[int]]) -> slice | Int[torch.Tensor, "batch columns"]:
    """A range if the image tokens stand at the same places in all rows, without gaps."""
    first = image[0]
    if all(row == first for row in image) and first[-1] - first[0] == len(first) - 1:
        return slice(first[0], first[-1] + 1)
    most = max(map(len, image))
    return torch.tensor([[*row, *[row[0]] * (most - len(row))] for row in image])
