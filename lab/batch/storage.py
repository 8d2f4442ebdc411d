"""What of a record is kept, under which name, and how much room that takes.

The keys data.save_dtype, save_attention, record_format.

    kept = as_stored(record, data, logic, choice)       # what the file will hold: rank and draw this
    path = write_record(folder, "bird", kept, data.record_format)
    find_record(folder, "bird")                         # bird.pkl or bird.pkl.gz
    serves(load_record(path), data, logic, choice)      # whether an earlier run's record holds all that is wanted
    tell_disk_use(disk_use((32, 32), 576, "float16", data, choice, samples=1000), folder)

float16 holds every bfloat16 weight from 2^-14 up exactly, as it has more digits and no weight exceeds 1; smaller
weights are off by at most 2^-25 (3e-8), and those of float32 models by at most 2^-12 of themselves.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analyze import Head, attention_sums, measure_heads, rank_heads
from conf.schema import SHARDS, DataConfig, EntropyConfig, LogicConfig, RecordFormat, SaveAttention, StoredDtype
from lab.base.chunks import cast
from lab.base.numbers import size
from lab.heads.choice import HeadChoice
from lab.records.record import Record
from lab.records.subset import HeadSubset, head_index

log = logging.getLogger(__name__)


BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


BYTES_OF_SCORES = 16  # per head: the four scores of a HeadSubset, two bytes more or less


BYTES_BESIDE = 2700  # of a file: meta and how things are spelled


BYTES_OF_TENSOR = 300  # of each tensor in it, beside its values


BYTES_OF_TOKEN = 60  # of what meta tells of a read token


BYTES_OF_RANKING = 220  # of a head in X_analysis.pkl and .json together


# what is kept


def stored_dtype(dtype: str, data: DataConfig) -> str:
    """The precision that records of a model of `dtype` are stored in.

    `data.save_dtype` or, without it, 16 bits as 16, else float32.
    """
    return data.save_dtype or ("float32" if dtype == "float32" else "float16")


def at_precision(record: Record, data: DataConfig) -> Record:
    """The record with its weights, and its precision, as its file will hold them."""
    dtype = stored_dtype(
        str(record.meta.get("dtype") or record.dtype), data
    )  # fused attention gives float32 whatever the model's
    if dtype == record.dtype:
        return record
    import torch

    def rounded(weights: np.ndarray) -> np.ndarray:
        return cast(cast(torch.from_numpy(weights), getattr(torch, dtype)), torch.float32).numpy()

    return replace(
        record,
        attn=rounded(record.attn),
        generic=None if record.generic is None else rounded(record.generic),
        dtype=dtype,
    )


def with_maps_of(record: Record, heads: Sequence[Head], entropy_config: EntropyConfig) -> Record:
    """The record with the maps of these heads only, and the scores of all heads by `entropy_config`."""
    shape = record.num_layers, record.num_heads
    sums = attention_sums(record, entropy_config.digits).astype(np.float32)  # loses nothing that is asked for
    entropy, components, bottom_row = (
        c.reshape(shape) for c in measure_heads(record, np.ones(shape, bool), entropy_config)
    )
    subset = HeadSubset(
        tuple(heads), sums, entropy, components.astype(np.int32), bottom_row, record.score_settings(entropy_config),
        record.left_out,
    )  # fmt: skip

    def only(weights: np.ndarray) -> np.ndarray:
        kept = np.zeros_like(weights)
        kept[head_index(heads)] = weights[head_index(heads)]
        return kept

    return replace(
        record,
        attn=only(record.attn),
        generic=None if record.generic is None else only(record.generic),
        subset=subset,
    )


def as_stored(record: Record, data: DataConfig, logic: LogicConfig, choice: HeadChoice) -> Record:
    """What of a record `data.save_dtype` and `data.save_attention` keep; its file reads back the same."""
    record = at_precision(record, data).under(logic)
    if data.save_attention == SaveAttention.all:
        return record
    return with_maps_of(record, wanted_heads(record, data, logic, choice), logic.entropy)


def wanted_heads(record: Record, data: DataConfig, logic: LogicConfig, choice: HeadChoice) -> list[Head]:
    """The heads whose maps `data.save_attention` keeps: all, those that make the heat map, or none."""
    shape = record.num_layers, record.num_heads
    match data.save_attention:
        case SaveAttention.all:
            return list(np.ndindex(shape))
        case SaveAttention.selected:
            return choice.of(shape, rank_heads(record, logic))
        case SaveAttention.none:
            return []


def serves(record: Record, data: DataConfig, logic: LogicConfig, choice: HeadChoice) -> bool:
    """Whether a stored record holds all that would be kept of the sample, so that it need not be collected again.

    More than that is fine: a full record serves every `save_attention`.
    """
    if data.save_dtype == StoredDtype.float32 and record.dtype != "float32":
        return False
    if not record.subset.has_scores_by(record.score_settings(logic.entropy)):
        return False
    return record.subset.holds(wanted_heads(record, data, logic, choice))


# how much room


@dataclass(frozen=True)
class DiskUse:
    """What a run will write."""

    records: int
    record_bytes: int  # of each; at most, if they may be smaller
    ranking_bytes: int  # of each, at most: if every head is in the ranking
    smaller: bool  # whether they may be: they are compressed, or not all have as many read tokens

    @property
    def most(self) -> int:
        """Bytes in all, at most."""
        return self.records * (self.record_bytes + self.ranking_bytes)

    def __str__(self) -> str:
        each, total = size(self.record_bytes), size(self.records * self.record_bytes)
        most = "at most " if self.smaller else ""
        rankings = f"; rankings: at most {size(self.records * self.ranking_bytes)}" if self.ranking_bytes else ""
        return f"{self.records:,} records of {most}{each}: {total}{rankings}"


def disk_use(
    shape: tuple[int, int],
    tokens: int,
    dtype: str,
    data: DataConfig,
    choice: HeadChoice,
    *,
    samples: int,
    generic: bool = False,
    read: int = 1,
) -> DiskUse:
    """What `samples` records of a model take.

    Args:
        shape: (layers, heads).
        tokens: image tokens of a sample, V.
        dtype: the model's precision.
        data: how records are kept. choice: the heads whose maps are, with save_attention=selected.
        generic: whether the records hold the generic prompt's attention too.
        read: tokens whose attention a record holds, at most.
    """
    every = shape[0] * shape[1]
    kept = {SaveAttention.all: every, SaveAttention.selected: choice.number, SaveAttention.none: 0}[data.save_attention]
    weights = (BYTES_OF_TENSOR + kept * read * tokens * BYTES[stored_dtype(dtype, data)]) * (2 if generic else 1)
    scores = 0 if data.save_attention == SaveAttention.all else every * BYTES_OF_SCORES + 4 * BYTES_OF_TENSOR
    return DiskUse(
        samples,
        weights + scores + BYTES_BESIDE + (read * BYTES_OF_TOKEN if read > 1 else 0),
        0 if data.record_format == SHARDS else every * BYTES_OF_RANKING,
        read > 1 or data.record_format == RecordFormat("pkl.gz"),
    )


def tell_disk_use(use: DiskUse, folder: Path) -> bool:
    """Prints in one line what a run will take and what is free, warns if that is not enough. Whether it fits."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    print(f"{use}; {size(free)} free in {folder}")
    if use.records * use.record_bytes > free and not use.smaller:
        log.warning(
            "that will not fit: set data.save_attention=selected or none, data.record_format=pkl.gz, or another "
            "data.output_dir"
        )
        return False
    if use.most > free:
        log.warning(
            "that may not fit: the run stops when the disk is full, and the same command continues where it stopped"
        )
    return use.most <= free
