"""The first reading of the data, nothing changed: which heads are selected, how much they look, what they say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from analyze import Head, attention_sums, rank_heads, selection_frequency
from collector import PendingRecords
from conf.schema import LogicConfig, ModelConfig
from lab.ablate.asking import ReadPicture
from lab.base.errors import UserError
from lab.batch.rows import ReadyRow
from llava.family import LoadedModel


@dataclass(eq=False)
class Survey:
    """Sums over the samples."""

    selected: Int[np.ndarray, "layers heads"]  # how often each head is among the `top_n` best of a sample
    sums: Float[np.ndarray, "layers heads"]  # attention sums
    outputs: list[Float[torch.Tensor, "heads width"]]  # of the last prompt token, layer by layer, float64 on the CPU
    samples: int = 0

    @property
    def means(self) -> list[Float[torch.Tensor, "heads width"]]:
        """What each head says on average, float32."""
        return [(output / self.samples).float() for output in self.outputs]

    def ranked(self) -> list[Head]:
        """Every head, the one selected most often first; ties in (layer, head) order."""
        order = np.argsort(-self.selected, axis=None, kind="stable")
        return [divmod(index, self.selected.shape[1]) for index in order.tolist()]


def survey(
    loaded: LoadedModel, rows: Iterator[ReadyRow] | Sequence[ReadyRow], model: ModelConfig, logic: LogicConfig
) -> Survey:
    """Ranks the heads of every sample by `logic`, without labels. Raises UserError if no sample can be asked."""
    shape = (loaded.num_layers, loaded.num_heads)
    found = Survey(np.zeros(shape, int), np.zeros(shape), [])
    for row in rows:
        if row.question is None:
            continue
        looked, outputs = ReadPicture(loaded, row.question).look()
        for record in PendingRecords(loaded, [row.question], looked, model).of(0):
            ranking = rank_heads(record.under(logic), logic)
            found.selected += selection_frequency([ranking], logic.select.top_n, shape)
            found.sums += attention_sums(record, logic.entropy.digits)
            found.samples += 1
        added = [output.double().cpu().sum(0) for output in outputs]
        before = found.outputs or [torch.zeros_like(output) for output in added]
        found.outputs = [torch.add(*pair) for pair in zip(before, added, strict=True)]
    if not found.samples:
        raise UserError("no sample can be asked, so no head can be changed")
    return found
