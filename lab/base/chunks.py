"""Torch on one thread, without telling it so: work in pieces of so few elements that it wakes no other thread.

Waking them can take ten times as long as the work, and they keep a core busy for a while after it.
torch.set_num_threads(1) around the work would change more than that: threads that start meanwhile keep the one, and a
model may run beside.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MOST = 2**15 - 1  # elements; from one more on torch uses several threads


def in_chunks(rows: "torch.Tensor", dtype: "torch.dtype | None" = None) -> Iterator["torch.Tensor"]:
    """The rows of [rows, cells], a few at a time, as `dtype` (None: as they are)."""
    for piece in rows.split(max(1, MOST // max(1, rows.shape[1]))):
        yield piece.to(dtype or piece.dtype)


def cast(tensor: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """A CPU tensor as `dtype`; itself if that is what it is."""
    import torch

    if tensor.dtype == dtype:
        return tensor
    result = torch.empty(tensor.shape, dtype=dtype)
    for there, here in zip(result.view(-1).split(MOST), tensor.reshape(-1).split(MOST), strict=True):
        there.copy_(here)
    return result
