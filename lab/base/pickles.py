"""Pickles read without trusting them: only tensors, arrays and plain containers are rebuilt, nothing is ever executed.

    content = load_plain("bird.pkl")        # .pkl, .pkl.gz, or a torch.save file

Wrong files end in a UserError that names them. Reading does not import torch; writing does.
"""

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.base.arrays import Spend, array_names
from lab.base.errors import UserError, in_words
from lab.base.files import MOST_BYTES, POINTER, is_pointer, read_regular
from lab.base.opcodes import MAGIC, Forbidden, PlainReader
from lab.base.torch_files import read_torch, tensor_names

HOLDS = "a record holds only tensors, arrays and plain containers"
MOST_RATIO = 64  # of unpacked to packed bytes; attention shrinks to a half at best, rankings to a twentieth
FREE_BYTES = 2**24  # that any file may unpack to
MOST_MEMBERS = 4096  # of a gzip file
PIECE = 2**16  # bytes of a gzip file that are unpacked at a time, so that too much shows where it begins
GZIP = 16 + zlib.MAX_WBITS  # tells zlib to expect the header and the checksum of gzip
_MAGIC_PICKLE = pickle.dumps(MAGIC, 2)  # how files begin that torch.save wrote before it used zip


def dump_tensors(content: Any) -> bytes:
    """A file of torch.save with tensors and plain containers, which torch.load opens with weights_only=True.

    Equal content gives equal bytes.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def dump_plain(content: Any) -> bytes:
    """The same of plain containers alone, written without torch."""
    buffer = io.BytesIO()
    parts = {"data.pkl": pickle.dumps(content, 2), "byteorder": b"little", "version": b"3\n"}
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return buffer.getvalue()


def load_plain(path: str | Path) -> Any:
    """Tensors, arrays and plain containers from a pickle, a gzipped pickle or a torch.save file.

    Tensors come as StoredTensor, with the values of their torch type. Nothing in the file is executed, and what it may
    unpack to is bounded by its size.

    Raises UserError if the file is missing, no regular file, damaged or holds anything else.
    """
    return rebuild(read_packed(Path(path)), str(path))


def read_packed(path: Path) -> bytes:
    """The bytes of a file, unpacked if they are gzipped.

    Raises UserError if the file is missing, no regular file, damaged or of a kind that people take for a record.
    """
    data = _read_bytes(path)
    if kind := next((kind for kind, is_one in OTHER_KINDS.items() if is_one(data)), None):
        raise UserError(f"{path}: is {kind}")
    return data


def _first_member(data: bytes) -> bytes:
    """The name of the first file in a zip, as its header tells."""
    return data[30 : 30 + int.from_bytes(data[26:28], "little")] if data.startswith(b"PK\3\4") else b""


CONVERT = (
    "not a record: read the attention, [layers, heads, 1, image tokens], and write it with "
    "lab.records.files.save_record(path, Record.from_tensor(attention, meta))"
)
OTHER_KINDS: dict[str, Callable[[bytes], bool]] = {
    POINTER: is_pointer,
    f"a NumPy array (.npy), {CONVERT}": lambda data: data.startswith(b"\x93NUMPY"),
    f"NumPy arrays (.npz), {CONVERT}": lambda data: _first_member(data).endswith(b".npy"),
}  # what a record may be taken for, and how it shows


def _read_bytes(path: Path) -> bytes:
    try:
        data = read_regular(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; expected a record, .pkl, .pkl.gz or .safetensors, as stage=collect writes it"
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; expected a record file, .pkl, .pkl.gz or .safetensors") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected a readable record") from error
    try:
        return _unpacked(data) if data.startswith(b"\x1f\x8b") else data
    except Exception as error:
        raise damaged(str(path), error) from error


def _unpacked(data: bytes) -> bytes:
    """What a gzip file holds, in one or several members. Raises ValueError before it exceeds all measure."""
    found = io.BytesIO()
    members, unpacker = 1, zlib.decompressobj(wbits=GZIP)
    for end in range(PIECE, len(data) + PIECE, PIECE):
        packed = data[end - PIECE : end]
        most = min(MOST_BYTES, FREE_BYTES + MOST_RATIO * min(end, len(data)))
        while packed:
            if unpacker.eof:
                members, unpacker = members + 1, zlib.decompressobj(wbits=GZIP)
            if members > MOST_MEMBERS:
                raise ValueError(f"more than {MOST_MEMBERS:,} gzip members")
            found.write(unpacker.decompress(packed, most + 1 - found.tell()))
            if found.tell() > most:
                raise ValueError(f"{min(end, len(data)):,} bytes that unpack to more than {most:,}")
            packed = unpacker.unused_data.lstrip(b"\0") if unpacker.eof else unpacker.unconsumed_tail
    if not unpacker.eof:
        raise EOFError("a gzip member that ends early")
    return found.getvalue()


AGAIN = "; expected a whole file: collect it again"


def damaged(where: str, error: Exception) -> UserError:
    return UserError(f"{where}: truncated or not a record ({in_words(error)}){AGAIN}")


def rebuild(data: bytes, where: str) -> Any:
    """The content of a pickle or of a torch.save file, as `load_plain` gives it."""
    spend = budget(FREE_BYTES + 4 * len(data))
    try:
        names = {**array_names(spend), **tensor_names(spend)}
        if data.startswith((b"PK", _MAGIC_PICKLE)):
            return read_torch(data, names, spend)

        def storage(blob: Any) -> Any:
            if type(blob) is not bytes:
                raise ValueError("a storage without bytes")
            return read_torch(blob, names, spend)

        return PlainReader(data, {**names, ("torch.storage", "_load_from_bytes"): storage}).load()
    except Forbidden as error:
        raise UserError(f"{where}: refused, it asks for {error}; {HOLDS}") from error
    except Exception as error:  # a hostile or damaged file can fail in any way
        raise damaged(where, error) from error


def load_refs(path: Path, *, arrays: bool = False) -> Any:
    """Plain containers from a pickle as Python 2 or 3 wrote it, for files of annotations; with `arrays` those too.

    Raises OSError if it cannot be read, Forbidden if it asks for anything else, and ValueError, EOFError or the like if
    it is damaged.
    """
    names = {name: function for name, function in array_names(budget(2**30)).items() if arrays or name[0] != "numpy"}
    return PlainReader(read_regular(path), names, text=("utf-8", "replace"), most_opcodes=MOST_BYTES).load()


def budget(most: int) -> Spend:
    """Counts the bytes that a file makes us make. The function raises ValueError when they exceed `most`."""
    left = most

    def spend(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise ValueError(f"it unpacks to more than {most:,} bytes")

    return spend
