"""Records as files: read and checked, written whole or not at all."""

import gzip
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from conf.schema import MOST_READ, LogicConfig
from lab.base import pickles
from lab.base.arrays import StoredTensor
from lab.base.chunks import cast
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.base.numbers import whole
from lab.base.pickles import damaged, dump_tensors, read_packed, rebuild
from lab.records import shards
from lab.records.canvas import Canvas
from lab.records.exchange import dump_exchange, is_exchange, load_exchange
from lab.records.record import Record
from lab.records.shards import ENDING, FOLDER, in_shard, read_member
from lab.records.subset import HeadSubset, head_index

if TYPE_CHECKING:
    import torch


EXCHANGE = ".safetensors"  # how the names of such files end
MOST_SUM = 1.01  # of a head's weights: 16 bits round each by a part in 256 at most
MOST_PIXELS = 178_956_970  # of a picture; Pillow refuses to open larger ones
MOST_WEIGHTS = 2**28  # of a record, kept or not: a gigabyte in float32


def check_record(record: Record, where: str) -> None:
    """Raises UserError, beginning with `where`, unless the weights and the geometry can be those of an attention
    record.
    """
    attn = record.attn
    expected = "expected [layers, heads, read tokens, image tokens]"
    if attn.ndim != 4:
        raise UserError(f"{where}: attention has shape {list(attn.shape)}; {expected}")
    for weights in (attn, record.generic):
        if weights is not None and weights.ndim == 4 and weights.shape[2] > MOST_READ:
            raise UserError(f"{where}: attention has shape {list(weights.shape)}; {expected}, at most {MOST_READ} read")
    if 0 in attn.shape:
        raise UserError(f"{where}: attention is empty, shape {list(attn.shape)}; {expected}, none of them 0")
    try:
        _check_geometry(record)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if record.generic is not None and (
        record.generic.ndim != 4
        or 0 in record.generic.shape
        or _but_read(record.generic.shape) != _but_read(attn.shape)
    ):
        raise UserError(
            f"{where}: the generic prompt's attention has shape {list(record.generic.shape)}; expected "
            f"{list(attn.shape)}"
        )
    for weights in (attn, record.generic):
        if weights is None:
            continue
        _check_weights(record.subset.kept(weights), where)
        if record.subset.is_blank(weights):
            zero = "attention is zero everywhere; expected weights over the image tokens, which are never all zero"
            raise UserError(f"{where}: {zero}")


def _but_read(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the number of read tokens, which a generic prompt has its own of."""
    return shape[:2] + shape[3:]


def _check_weights(attn: Float32[np.ndarray, "*heads read vis"], where: str) -> None:
    lowest, highest = float(attn.min(initial=0)), float(attn.max(initial=0))
    if not (math.isfinite(lowest) and math.isfinite(highest)):  # NaN spreads through min and max
        raise UserError(
            f"{where}: attention holds NaN or infinity; expected weights from 0 to 1 (collect again in "
            "float32 or bfloat16)"
        )
    if lowest < 0:
        raise UserError(
            f"{where}: attention holds negative values (lowest {lowest:.3g}); expected weights after the "
            "softmax, from 0 to 1"
        )
    most = float(attn.sum(-1).max(initial=0))
    if most > MOST_SUM:
        raise UserError(
            f"{where}: the weights of a head sum to {most:.3g}; expected weights after the softmax, which sum to "
            "1 at most"
        )


def _check_geometry(record: Record) -> None:
    size = record.meta.get("image_size")
    if size is not None:
        try:
            width, height = map(whole, size)
        except (TypeError, ValueError, ArithmeticError):
            width = height = 0
        if width < 1 or height < 1 or width * height > MOST_PIXELS:
            most = f"at most {MOST_PIXELS:,} of them"
            raise UserError(f"meta['image_size'] is {_short(size)}; expected [width, height] in pixels, {most}")
    if not isinstance(record.meta.get("grids", []), list | tuple):
        raise UserError(f"meta['grids'] is {_short(record.meta['grids'])}; expected a list of grids")
    vis = record.attn.shape[-1]
    for grid in record.grids:
        if grid.tokens.stop > vis:
            layout = f"grid of {grid.rows} x {grid.cols} from token {grid.start}"
            raise UserError(f"{layout} needs {grid.tokens.stop} image tokens, but there are {vis}")
    if sum(grid.rows * grid.cols for grid in record.grids) > vis:
        raise UserError(f"the grids have more cells than the {vis} image tokens; expected each token in one of them")
    Canvas.over(record.grids)


def _short(value: Any) -> str:
    """Its first characters: a message stays one line, whatever a file holds."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


# Reading


def load_record(path: str | Path, logic: LogicConfig | None = None) -> Record:
    """Reads a record, or a bare attention tensor, from a pickle, a torch.save file, either gzipped, or safetensors.

    Of `logic`, `grids` says which of its picture's make the maps, and `token` which of its read tokens.

    Nothing in the file is executed: only tensors, arrays and plain containers are rebuilt.
    Raises UserError if the file is missing, damaged, holds anything else, or its attention cannot be one. That of a
    record in a shard names the shard, which must go before the record can be made again.
    """
    path = Path(path)
    if in_shard(path):
        data = read_member(path)
        try:
            record = _record(data, path)
        except UserError as error:
            why = str(error).removesuffix(pickles.AGAIN)
            raise UserError(f"{why}; it lies in {path.parent}: {shards.AGAIN}") from error
    else:
        record = _record(read_packed(path), path)
    return record if logic is None else record.under(logic)


def _record(data: bytes, path: Path) -> Record:
    """The record in the bytes of a file. Raises UserError if it is none."""
    content = _content(data, str(path))
    parts = content if isinstance(content, Mapping) else {"attn": content}
    if "attn" not in parts:
        if path.parent.name == FOLDER and (names := [name for name in parts if str(name).endswith(ENDING)]):
            raise UserError(f"{path} holds the records of many samples: name one, such as {path / min(names)}")
        raise UserError(
            f"{path}: no 'attn' among its keys {_short(sorted(map(str, parts)))}; expected {{attn, meta}} or a tensor"
        )
    arrays = (StoredTensor, np.ndarray)
    attn, meta, generic = parts["attn"], parts.get("meta") or {}, parts.get("generic")
    for part, kinds in ((attn, arrays), (meta, Mapping), (generic, (*arrays, type(None)))):
        if not isinstance(part, kinds):
            raise UserError(f"{path}: found a {type(part).__name__}; expected {{attn: tensor, meta: dict}} or a tensor")
    try:
        record = Record.from_tensor(attn, meta, generic)
        if parts.get("partial") is not None:
            record = _spread(record, HeadSubset.from_dict(parts["partial"], str(path)))
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
    except Exception as error:  # a hostile file can spoil a tensor's attributes
        raise damaged(str(path), error) from error
    check_record(record, str(path))
    return record


def _content(data: bytes, where: str) -> Any:
    """What a file holds, of whichever format it is."""
    return load_exchange(data, where) if is_exchange(data) else rebuild(data, where)


def load_or_why(path: str | Path, logic: LogicConfig | None = None) -> Record | str:
    """The same, or in one line why the file cannot be read, for whoever goes on with others."""
    try:
        return load_record(path, logic)
    except UserError as error:
        return str(error)


def _spread(kept: Record, subset: HeadSubset) -> Record:
    """[kept heads, read tokens, image tokens] put in their places among all heads.

    Pages of memory that stay zero cost nothing.
    """

    def dense(rows: np.ndarray) -> Float32[np.ndarray, "layers heads read vis"]:
        if rows.ndim != 3 or len(rows) != len(subset.heads):
            raise UserError(
                f"attention has shape {list(rows.shape)}; expected [{len(subset.heads)} heads, read tokens, "
                "image tokens]"
            )
        if math.prod(subset.shape) * math.prod(rows.shape[1:]) > MOST_WEIGHTS:
            heads, read = " x ".join(map(str, subset.shape)), f"{rows.shape[1]:,} x " if rows.shape[1] > 1 else ""
            raise UserError(f"{heads} heads on {read}{rows.shape[-1]:,} image tokens, more than any model has")
        spread = np.zeros((*subset.shape, *rows.shape[1:]), np.float32)
        spread[head_index(subset.heads)] = rows
        return spread

    return replace(
        kept, attn=dense(kept.attn), generic=None if kept.generic is None else dense(kept.generic), subset=subset
    )


# Writing


def save_record(path: str | Path, record: Record) -> None:
    """Writes {attn: tensor [layers, heads, read tokens, image tokens], meta: dict} as .pkl, .pkl.gz or .safetensors.

    A .pkl is a file of torch.save that `torch.load(path, weights_only=True)` opens.
    A `generic` prompt's attention, if there is any, lies beside it in the same shape and precision. The record is
    written as it is: lab.batch.storage.as_stored makes it what `data.save_dtype` and `data.save_attention` ask for.

    Raises UserError if the weights are impossible (NaN from an overflow), if meta holds more than plain containers (the
    file could not be read back), or if the file cannot be written.
    """
    write_atomic(path, record_bytes(record, str(path)))


def record_bytes(record: Record, where: str) -> bytes:
    """What the file `where` holds of a record, .pkl, .pkl.gz or .safetensors. Raises UserError as `save_record`."""
    check_record(record, where)
    content: dict[str, Any] = {"attn": _file_tensor(record, record.attn), "meta": _plain(record.meta)}
    if record.generic is not None:
        content["generic"] = _file_tensor(record, record.generic)
    content |= record.subset.in_file()
    data = dump_exchange(content, where) if where.endswith(EXCHANGE) else dump_tensors(content)
    _content(data, where)
    return gzip.compress(data, compresslevel=6, mtime=0) if where.endswith(".gz") else data


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, which torch does not load from a file, as Python has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return {key: _plain(inner) for key, inner in value.items()} if type(value) is dict else value


def _file_tensor(record: Record, weights: Float32[np.ndarray, "layers heads read vis"]) -> "torch.Tensor":
    import torch

    return cast(torch.from_numpy(record.subset.kept(weights)), getattr(torch, record.dtype))
