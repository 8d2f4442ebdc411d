"""From samples to rows: which expressions share an image, and in which order they are asked.

Rows are planned before anything runs and from all samples, so that a batch, and so a record, does not depend on the
number of processes. This file imports no torch: a run that finds everything done needs none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from jaxtyping import Bool, Int

from lab.batch.dealing import expression_cost, picture_cost
from lab.datasets import Sample
from lab.datasets.stream import Glance, SampleFile

MOST_EXPRESSIONS = 16  # of one image in one sequence
Row = tuple[Sample, ...]  # samples of one image that are asked together


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Row]):
    """Rows of samples as numbers, each read when it is asked for: a million of them are arrays, not objects."""

    samples: Sequence[Sample]
    members: Int[np.ndarray, " some"]  # numbers of samples, those of a row behind each other
    begins: Int[np.ndarray, " rows"]  # where the members of a row begin, and end
    ends: Int[np.ndarray, " rows"]
    costs: Int[np.ndarray, " rows"]  # in tokens, as `lab.batch.dealing` tells

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, number: int) -> Row: ...

    @overload
    def __getitem__(self, number: "slice | np.ndarray") -> "Rows": ...

    def __getitem__(self, number: "int | slice | np.ndarray") -> "Row | Rows":
        if isinstance(number, slice | np.ndarray):
            return replace(self, begins=self.begins[number], ends=self.ends[number], costs=self.costs[number])
        members = self.members[self.begins[number] : self.ends[number]]
        return tuple(self.samples[member] for member in members.tolist())

    @property
    def numbers(self) -> Int[np.ndarray, " asked"]:
        """The numbers of the samples that are asked, row by row."""
        lengths = self.ends - self.begins
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.members[np.repeat(self.begins, lengths) + within]

    def asked(self) -> Iterator[Sample]:
        """These samples."""
        if isinstance(self.samples, SampleFile):
            return iter(self.samples[self.numbers])
        return (self.samples[number] for number in self.numbers.tolist())

    def without(self, done: Bool[np.ndarray, " samples"]) -> "Rows":
        """The rows without some samples, and without rows that are empty then."""
        left = ~done[self.members]
        before = np.concatenate(([0], np.cumsum(left)))
        rest = replace(self, members=self.members[left], begins=before[self.begins], ends=before[self.ends])
        return rest[np.flatnonzero(rest.ends > rest.begins)]


def plan_rows(samples: Sequence[Sample], *, share_image: bool) -> Rows:
    """Samples of one image together, if they may share it, and rows of similar length beside each other, the longest
    first.

    The longest first: if memory does not suffice, it shows at once.
    """
    seen = samples.glance if isinstance(samples, SampleFile) else Glance.of(samples)
    number = np.arange(len(samples))
    first, second = seen.pictures.T if share_image else (number, number)
    by_picture = np.lexsort((number, second, first))
    new = np.ones(len(samples), bool)
    new[1:] = (np.diff(first[by_picture]) != 0) | (np.diff(second[by_picture]) != 0)
    starts = np.flatnonzero(new)
    picture = np.cumsum(new) - 1
    within = number - starts[picture] if len(samples) else number
    order = np.lexsort((within, by_picture[starts][picture]))  # pictures in the order in which they are first named
    members = by_picture[order]
    begins = np.flatnonzero(within[order] % MOST_EXPRESSIONS == 0)
    ends = np.append(begins[1:], len(members))[: len(begins)]
    if not len(begins):
        return Rows(samples, members, begins, ends, begins)
    length = np.add.reduceat((seen.letters + 8)[members], begins)  # 8: the template's part
    costs = picture_cost(seen.pixels[members[begins]]) + np.add.reduceat(expression_cost(seen.letters[members]), begins)
    return Rows(samples, members, begins, ends, costs)[np.argsort(-length, kind="stable")]
