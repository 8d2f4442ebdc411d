"""Forwards as large as memory allows: what does not fit is asked again in halves, and no sample is lost."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from collector import PendingRecords, ask, ask_one_by_one
from conf.schema import ModelConfig
from lab.attention.capture import attention_name
from lab.base.errors import reason
from lab.batch.rows import ReadyRow
from llava.family import LoadedModel

log = logging.getLogger(__name__)

CPU_TOKENS = {
    "eager": 1024,
    "fused": 2560,
}  # image tokens, about, of one forward on a CPU, where larger ones are not faster
FIRST, MOST, FULL = (
    8,
    64,
    0.8,
)  # images in the first forward on a GPU; in the largest; share of the memory that may be used


def automatic_size(loaded: LoadedModel) -> int:
    """Images in one forward to begin with, where the user does not say: a power of two."""
    if loaded.device.type == "cuda":
        return FIRST
    fitting = max(1, CPU_TOKENS[attention_name(loaded.model)] // (loaded.image_tokens.count + 64))
    return 1 << min(fitting, FIRST).bit_length() - 1


class AdaptiveBatcher:
    """Asks prepared rows in batches of `size` images; `grows` lets the size double while memory is left.

    `apart` asks every prompt in a forward of its own.
    """

    def __init__(self, loaded: LoadedModel, config: ModelConfig, *, size: int, grows: bool, apart: bool) -> None:
        self.loaded, self.config, self.apart = loaded, config, apart
        self.size, self.grows = size, grows and loaded.device.type == "cuda"
        self._before = self._allocated()
        if self.grows:
            torch.cuda.reset_peak_memory_stats(loaded.device)  # loading may have taken more than a forward will

    def answers(self, rows: Iterable[ReadyRow]) -> Iterator[tuple[ReadyRow, PendingRecords | None, int]]:
        """Each row with its answers and its number among them; without answers if `failed` says why it has none."""
        remaining = iter(rows)
        while batch := list(islice(remaining, self.size)):
            yield from ((row, None, 0) for row in batch if row.question is None)
            for together in self._together([row for row in batch if row.question is not None]):
                yield from self._asked(together)

    def _together(self, rows: Sequence[ReadyRow]) -> Iterator[list[ReadyRow]]:
        """Those that share a forward.

        On a CPU pictures of unlike size do not: what fills them up costs more than is gained.
        """
        if self.loaded.device.type != "cpu":
            yield from ([list(rows)] if rows else [])
            return
        yield from (list(alike) for _, alike in groupby(rows, key=_image_tokens))

    def _asked(self, batch: Sequence[ReadyRow]) -> Iterator[tuple[ReadyRow, PendingRecords | None, int]]:
        problem = None
        try:
            answers = self._forward(batch)
        except Exception as error:  # whatever it is must not end the others' run
            problem = error.with_traceback(None)  # which would keep the forward's tensors
        if problem is None:
            self._grow(len(batch))
            yield from ((row, answers, number) for number, row in enumerate(batch))
            return
        memory = should_reduce_batch_size(problem)
        if memory:
            clear_device_cache(garbage_collection=True)
        halves = _halves(batch)
        if not halves:
            yield self._failed(batch[0], problem), None, 0
            return
        if memory and len(batch) > 1:
            self.size, self.grows = max(1, len(batch) // 2), False
            log.warning("out of memory with %d images at once: going on with %d", len(batch), self.size)
        for half in halves:
            yield from self._asked(half)

    def _forward(self, batch: Sequence[ReadyRow]) -> PendingRecords:
        questions = [row.question for row in batch if row.question is not None]
        return (
            ask_one_by_one(self.loaded, questions[0], self.config)
            if self.apart
            else ask(self.loaded, questions, self.config)
        )

    def _failed(self, row: ReadyRow, problem: Exception) -> ReadyRow:
        if should_reduce_batch_size(problem):
            text = (
                "out of memory, although it was asked alone: use a larger device, model.dtype=float16, or "
                "model.attention=fused"
            )
        else:
            text = reason(problem)
        return ReadyRow(failed=[*row.failed, *((sample, text) for sample in row.samples)])

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.loaded.device) if self.loaded.device.type == "cuda" else 0

    def _grow(self, images: int) -> None:
        """Doubles the size if twice what this batch took at most still fits."""
        if not self.grows or images < self.size:
            return
        device = self.loaded.device
        peak = torch.cuda.max_memory_allocated(device) - self._before
        free, _ = torch.cuda.mem_get_info(device)  # by other processes too
        fits = self._before + 2 * peak < FULL * (free + torch.cuda.memory_reserved(device))
        self.size, self.grows = (min(2 * self.size, MOST), 2 * self.size < MOST) if fits else (self.size, False)


def _image_tokens(row: ReadyRow) -> int:
    return row.question.picture.tokens if row.question is not None else 0


def _halves(batch: Sequence[ReadyRow]) -> list[list[ReadyRow]]:
    """The rows in two parts or, of one row, its expressions; none if nothing is left to part."""
    if len(batch) > 1:
        middle = len(batch) // 2
        return [list(batch[:middle]), list(batch[middle:])]
    row = batch[0]
    question, middle = row.question, len(row.samples) // 2
    if question is None or middle == 0:
        return []
    generic = question.prompts[len(question.queries) :]
    parts = (slice(None, middle), slice(middle, len(row.samples)))
    return [
        [
            ReadyRow(
                row.samples[part],
                replace(
                    question,
                    queries=question.queries[part],
                    prompts=(*question.prompts[: len(question.queries)][part], *generic),
                ),
                row.failed if part.start is None else [],
            )
        ]
        for part in parts
    ]
