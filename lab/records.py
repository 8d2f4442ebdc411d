"""Records on disk: the attention of one sample, read without trusting the file and written whole or not at all.

    record = load_record("outputs/records/bird.pkl")    # .pkl or .pkl.gz, also files that hold only a tensor
    record.attn                                         # [layers, heads, 1, image tokens]
    record.maps                                         # [layers, heads, rows, cols] of the record's first grid
    record.maps_of([(14, 24), (14, 13)])                # [2, rows, cols], also if the record keeps the maps of these heads only
    save_record("copy.pkl.gz", record)

What is in a file: {attn: tensor [layers, heads, 1, image tokens], meta: dict} and, where a generic prompt was asked too, generic: the
same of that prompt. A record that keeps some heads' maps only has partial: heads, scores and their settings (lab/partial.py), and
attn and generic are [kept heads, 1, image tokens] in the order of partial's heads.

Wrong files end in a UserError that names them. Importing this module does not import torch; reading and writing records does.
"""

import errno
import gzip
import math
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from lab.errors import DiskFull, UserError
from lab.partial import Partial
from lab.pickles import damaged, dump_plain, load_plain, rebuild
from lab.pieces import cast

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float16", "bfloat16", "float32")
NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
MAX_ID_BYTES = 200  # leaves room for endings within the 255 bytes that file systems allow


@dataclass(frozen=True)
class Grid:
    """Image tokens laid out as rows x cols, row-major, over a rectangle of the original image.

    `start` is the index of the grid's first token among the V image tokens of the record. `extent_xyxy` is in pixels of the
    original image, edges exclusive; it reaches beyond the image where the model saw padding and stops inside it after a crop.
    """

    start: int
    rows: int
    cols: int
    extent_xyxy: tuple[float, float, float, float]

    @classmethod
    def stretched(cls, rows: int, cols: int, image_size: tuple[int, int], start: int = 0) -> "Grid":
        """The whole image, (width, height) pixels, resized to the grid without regard to its shape."""
        width, height = image_size
        return cls(start, rows, cols, (0.0, 0.0, float(width), float(height)))

    @classmethod
    def padded_square(cls, side: int, image_size: tuple[int, int], start: int = 0) -> "Grid":
        """The image centred in a square as large as its longer edge; an odd margin puts the spare pixel at the right or bottom."""
        width, height = image_size
        square = max(width, height)
        left, top = (square - width) // 2, (square - height) // 2
        return cls(start, side, side, (float(-left), float(-top), float(square - left), float(square - top)))

    @classmethod
    def centre_crop(cls, side: int, image_size: tuple[int, int], resize_to: int, crop_to: int | None = None, start: int = 0) -> "Grid":
        """The shorter edge resized to `resize_to` pixels, then a centred square of `crop_to` (default: the same) cut out."""
        width, height = image_size
        crop_to = crop_to or resize_to
        shorter = min(width, height)
        resized = [resize_to * edge // shorter for edge in (width, height)]
        left, top = ((edge - crop_to) // 2 for edge in resized)
        x_scale, y_scale = width / resized[0], height / resized[1]  # original pixels per resized pixel
        return cls(start, side, side, (left * x_scale, top * y_scale, (left + crop_to) * x_scale, (top + crop_to) * y_scale))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Grid":
        """The inverse of `to_dict`. Raises UserError if a key is missing or a value is impossible."""
        try:
            start, rows, cols = (_whole(plain[key]) for key in ("start", "rows", "cols"))
            x0, y0, x1, y1 = (float(edge) for edge in plain["extent_xyxy"])
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            expected = "{start, rows, cols, extent_xyxy: [x0, y0, x1, y1]}"
            raise UserError(f"grid {plain!r} is malformed ({type(error).__name__}: {error}); expected {expected}") from error
        if start < 0 or rows < 1 or cols < 1 or not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
            raise UserError(f"grid {plain!r} is impossible; expected start >= 0, rows and cols >= 1, x0 < x1 and y0 < y1")
        return cls(start, rows, cols, (x0, y0, x1, y1))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for meta["grids"]."""
        return {**asdict(self), "extent_xyxy": list(self.extent_xyxy)}

    @property
    def tokens(self) -> slice:
        """Where the grid's tokens are among the record's V."""
        return slice(self.start, self.start + self.rows * self.cols)


@dataclass(frozen=True, eq=False)
class Record:
    """The attention of one sample's last prompt token.

    `attn` holds the weights as float32, [layers, heads, 1, image tokens], non-negative, a row summing to at most 1. `dtype` names
    the precision that they were computed and are stored in (float16, bfloat16, float32); widening to float32 changes no value.
    `meta` is a plain dict: image_file, query, model_name, image_size [W, H], grids, ...
    `generic` holds the same weights for a prompt that asks for nothing in particular, if they were collected.
    `partial` tells of a record that keeps the maps of some heads only which these are; the others are zero in `attn` and `generic`,
    and whatever needs one of them raises UserError.
    """

    attn: Float32[np.ndarray, "layers heads 1 vis"]
    meta: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    generic: Float32[np.ndarray, "layers heads 1 vis"] | None = None
    partial: Partial | None = None

    @classmethod
    def from_tensor(
        cls,
        weights: "torch.Tensor | np.ndarray",
        meta: Mapping[str, Any] | None = None,
        generic: "torch.Tensor | np.ndarray | None" = None,
    ) -> "Record":
        """From tensors or arrays in any of the known precisions; float64 is narrowed to float32. Raises UserError on others."""
        attn, dtype = _widened(weights)
        return cls(attn, dict(meta or {}), dtype, None if generic is None else _widened(generic)[0])

    def tensor(self) -> "torch.Tensor":
        """The weights as a CPU tensor in their own precision, [layers, heads, 1, image tokens]; float32 shares `attn`'s memory."""
        import torch

        self._need_all()
        return cast(torch.from_numpy(self.attn), getattr(torch, self.dtype))

    @property
    def num_layers(self) -> int:
        return self.attn.shape[0]

    @property
    def num_heads(self) -> int:
        return self.attn.shape[1]

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(width, height) of the original image in pixels, if the record knows it."""
        size = self.meta.get("image_size")
        return None if size is None else (int(size[0]), int(size[1]))

    def with_image_size(self, image_size: tuple[int, int]) -> "Record":
        """The same record for an image of (width, height) pixels."""
        return replace(self, meta={**self.meta, "image_size": list(image_size)})

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grids of meta["grids"]; without them, one square grid stretched over the image (over unit cells if its size is unknown)."""
        if self.meta.get("grids"):
            return tuple(Grid.from_dict(plain) for plain in self.meta["grids"])
        vis = self.attn.shape[-1]
        side = math.isqrt(vis)
        if side * side != vis:
            raise UserError(f"{vis} image tokens are no square grid and meta has no grids; expected side x side tokens or meta['grids']")
        return (Grid.stretched(side, side, self.image_size or (side, side)),)

    @property
    def grid(self) -> Grid:
        """The grid that is analysed: the first."""
        return self.grids[0]

    @property
    def maps(self) -> Float32[np.ndarray, "layers heads rows cols"]:
        """Every head's weights on the first grid; a view of `attn`. Raises UserError if the record keeps those of some heads only."""
        self._need_all()
        grid = self.grid
        return self.attn[:, :, 0, grid.tokens].reshape(self.num_layers, self.num_heads, grid.rows, grid.cols)

    def maps_of(self, heads: Sequence[tuple[int, int]]) -> Float32[np.ndarray, "heads rows cols"]:
        """The weights of some (layer, head) on the first grid. Raises UserError naming a head whose map the record does not keep."""
        if self.partial is not None:
            self.partial.need(heads)
        return replace(self, partial=None).maps[head_index(heads)]

    def generic_maps_of(self, heads: Sequence[tuple[int, int]]) -> Float32[np.ndarray, "heads rows cols"]:
        """The same of the generic prompt. Raises UserError if the record does not hold it."""
        if self.generic is None:
            wanted = "the record holds no attention of the generic prompt, which logic.contrast needs"
            raise UserError(f"{wanted}: collect it again with data.save_generic=true, or set logic.contrast=none")
        return replace(self, attn=self.generic).maps_of(heads)

    def _need_all(self) -> None:
        if self.partial is not None:
            self.partial.refuse("but all are needed")


def head_index(heads: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """(layer, head) pairs as an index into arrays of [layers, heads, ...]."""
    return [layer for layer, _ in heads], [head for _, head in heads]


def _widened(weights: "torch.Tensor | np.ndarray") -> tuple[Float32[np.ndarray, "*shape"], str]:
    """As float32, and the precision that it had."""
    dtype = str(weights.dtype).removeprefix("torch.")
    if dtype not in (*PRECISIONS, "float64"):
        raise UserError(f"attention of type {dtype}; expected one of {', '.join(PRECISIONS)}")
    if not isinstance(weights, np.ndarray):
        import torch

        weights = cast(weights.detach().cpu(), torch.float32).numpy()
    return np.require(weights, np.float32, ["C", "W"]), dtype if dtype in PRECISIONS else "float32"


def check_record(record: Record, where: str) -> None:
    """Raises UserError, beginning with `where`, unless the weights and the geometry can be those of an attention record."""
    attn = record.attn
    expected = "expected [layers, heads, 1, image tokens]"
    if attn.ndim != 4 or attn.shape[2] != 1:
        raise UserError(f"{where}: attention has shape {list(attn.shape)}; {expected}")
    if 0 in attn.shape:
        raise UserError(f"{where}: attention is empty, shape {list(attn.shape)}; {expected}, none of them 0")
    try:
        _check_geometry(record)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if record.generic is not None and record.generic.shape != attn.shape:
        raise UserError(f"{where}: the generic prompt's attention has shape {list(record.generic.shape)}; expected {list(attn.shape)}")
    for weights in (attn, record.generic):
        if weights is None:
            continue
        _check_weights(_kept(record, weights), where)
        if record.partial is None and not weights.any():
            zero = "attention is zero everywhere; expected weights over the image tokens, which are never all zero"
            raise UserError(f"{where}: {zero}")


def _kept(record: Record, weights: Float32[np.ndarray, "layers heads 1 vis"]) -> Float32[np.ndarray, "*heads 1 vis"]:
    """What of `attn` or `generic` is really there."""
    return weights if record.partial is None else weights[head_index(record.partial.heads)]


def _check_weights(attn: Float32[np.ndarray, "*heads 1 vis"], where: str) -> None:
    lowest, highest = float(attn.min(initial=0)), float(attn.max(initial=0))
    if not (math.isfinite(lowest) and math.isfinite(highest)):  # NaN spreads through min and max
        raise UserError(f"{where}: attention holds NaN or infinity; expected weights from 0 to 1 (collect again in float32 or bfloat16)")
    if lowest < 0:
        raise UserError(f"{where}: attention holds negative values (lowest {lowest:.3g}); expected weights after the softmax, from 0 to 1")


def _check_geometry(record: Record) -> None:
    size = record.meta.get("image_size")
    if size is not None:
        try:
            width, height = map(_whole, size)
        except (TypeError, ValueError, ArithmeticError):
            width = height = 0
        if not (1 <= width < 2**16 and 1 <= height < 2**16):
            raise UserError(f"meta['image_size'] is {size!r}; expected [width, height] in pixels")
    if not isinstance(record.meta.get("grids", []), list | tuple):
        raise UserError(f"meta['grids'] is {record.meta['grids']!r}; expected a list of grids")
    vis = record.attn.shape[-1]
    for grid in record.grids:
        if grid.tokens.stop > vis:
            layout = f"grid of {grid.rows} x {grid.cols} from token {grid.start}"
            raise UserError(f"{layout} needs {grid.tokens.stop} image tokens, but there are {vis}")


def _whole(number: Any) -> int:
    if isinstance(number, bool) or int(number) != number:
        raise ValueError(f"{number!r} is not a whole number")
    return int(number)


# Reading


def load_record(path: str | Path) -> Record:
    """Reads a record, or a bare attention tensor, from a pickle, a gzipped pickle or a torch.save file.

    Nothing in the file is executed: only tensors, arrays and plain containers are rebuilt.
    Raises UserError if the file is missing, damaged, holds anything else, or its attention cannot be one.
    """
    import torch

    path = Path(path)
    content = load_plain(path)
    parts = content if isinstance(content, Mapping) else {"attn": content}
    if "attn" not in parts:
        raise UserError(f"{path}: no 'attn' among its keys {sorted(map(str, parts))}; expected {{attn, meta}} or a tensor")
    arrays = (torch.Tensor, np.ndarray)
    attn, meta, generic = parts["attn"], parts.get("meta") or {}, parts.get("generic")
    for part, kinds in ((attn, arrays), (meta, Mapping), (generic, (*arrays, type(None)))):
        if not isinstance(part, kinds):
            raise UserError(f"{path}: found a {type(part).__name__}; expected {{attn: tensor, meta: dict}} or a tensor")
    try:
        record = Record.from_tensor(attn, meta, generic)
        if parts.get("partial") is not None:
            record = _spread(record, Partial.from_dict(parts["partial"], str(path)))
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
    except Exception as error:  # a hostile file can spoil a tensor's attributes
        raise damaged(str(path), error) from error
    check_record(record, str(path))
    return record


def _spread(kept: Record, partial: Partial) -> Record:
    """[kept heads, 1, image tokens] put in their places among all heads; pages of memory that stay zero cost nothing."""

    def dense(rows: np.ndarray) -> Float32[np.ndarray, "layers heads 1 vis"]:
        if rows.ndim != 3 or len(rows) != len(partial.heads):
            raise UserError(f"attention has shape {list(rows.shape)}; expected [{len(partial.heads)} heads, 1, image tokens]")
        spread = np.zeros((*partial.shape, *rows.shape[1:]), np.float32)
        spread[head_index(partial.heads)] = rows
        return spread

    return replace(kept, attn=dense(kept.attn), generic=None if kept.generic is None else dense(kept.generic), partial=partial)


# Writing


def save_record(path: str | Path, record: Record) -> None:
    """Writes {attn: tensor [layers, heads, 1, image tokens], meta: dict} as a pickle, gzipped if the name ends in .gz.

    A `generic` prompt's attention, if there is any, lies beside it in the same shape and precision. The record is written as it is:
    lab.storage.as_stored makes it what `data.save_dtype` and `data.save_attention` ask for.

    Raises UserError if the weights are impossible (NaN from an overflow), if meta holds more than plain containers (the file
    could not be read back), or if the file cannot be written.
    """
    check_record(record, str(path))
    content: dict[str, Any] = {"attn": _file_tensor(record, record.attn), "meta": dict(record.meta)}
    if record.generic is not None:
        content["generic"] = _file_tensor(record, record.generic)
    if record.partial is not None:
        content["partial"] = record.partial.to_dict()
    data = dump_plain(content)
    rebuild(data, str(path))
    write_atomic(path, gzip.compress(data, compresslevel=6, mtime=0) if str(path).endswith(".gz") else data)


def _file_tensor(record: Record, weights: Float32[np.ndarray, "layers heads 1 vis"]) -> "torch.Tensor":
    import torch

    return cast(torch.from_numpy(_kept(record, weights)), getattr(torch, record.dtype))


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Writes a file, and the folders above it, so that it appears whole or not at all.

    Raises UserError if it cannot be written, and DiskFull, one of them, if that is for want of space.
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part")  # in the same folder: a rename across file systems is not atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"{path}: no space left on the disk for {len(data):,} bytes: free some, or choose another folder") from error
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose a writable folder with free space") from error
    finally:
        with suppress(OSError):  # after success it is gone
            part.unlink()


def check_id(sample_id: Any) -> str:
    """The id as text, if it can be part of a file name on any system. Raises UserError otherwise."""
    text = str(sample_id) if isinstance(sample_id, int | str) and not isinstance(sample_id, bool) else ""
    if not text.strip() or text != text.strip():
        raise UserError(f"id {sample_id!r} is empty or has spaces around it; expected a short name or a number")
    if any(sign in text for sign in '/\\:*?"<>|') or ".." in text or text.startswith("."):
        raise UserError(f'id {sample_id!r} cannot be a file name; expected no / \\ : * ? " < > | and no ".." and no dot in front')
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise UserError(f"id {sample_id!r} holds control characters; expected printable ones")
    if len(text.encode()) > MAX_ID_BYTES:
        raise UserError(f"id {text[:40]!r}... is {len(text.encode())} bytes long; expected at most {MAX_ID_BYTES}")
    return text
