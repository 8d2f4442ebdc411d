"""Files of torch.save, in both of its layouts, read as plain bytes: without torch, and nothing in them is executed.

torch's own reader with weights_only=True calls nothing that it does not know, but it lets a file of a few bytes ask for
a tensor of any size. Here sizes, strides and offsets are checked against the bytes before an array is made.

Layouts: a zip archive of data.pkl and data/<key> (torch 1.6 and later), or five parts behind each other: a magic
number, the version, the machine, the content, and its storages (before; also what pickles of tensors hold).
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from lab.base.arrays import TORCH_TYPES, Spend, Storage, StoredTensor, tensor_of
from lab.base.opcodes import MAGIC, Constant, Names, PlainReader

STORAGES = {
    **{"BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16"},
    **{"IntStorage": "int32", "LongStorage": "int64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"FloatStorage": "float32", "DoubleStorage": "float64"},
}
REBUILDERS = (("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"))
VERSION = 1001  # of the older layout
MOST_ENTRIES = 10_000  # of a zip archive


def tensor_names(spend: Spend) -> Names:
    """What a pickled tensor may ask for, by (module, name), and the types that torch has."""

    def rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StoredTensor:
        return tensor_of(storage, offset, size, stride, spend)  # the rest: gradients, hooks

    dtypes = {("torch", name): Constant(partial(_torch_type, name)) for name in TORCH_TYPES}
    return {**dtypes, ("torch", "Size"): _sizes, **dict.fromkeys(REBUILDERS, rebuilt)}


def _torch_type(name: str) -> Any:
    return getattr(import_module("torch"), name)


def _sizes(sizes: Any) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list) or not all(type(size) is int for size in sizes):
        raise ValueError("a torch.Size of something else than integers")
    return tuple(sizes)


def storage_names() -> Names:
    """The kinds of storage that a torch.save file names."""
    return {("torch", name): None for name in STORAGES}


def read_torch(data: bytes, names: Names, spend: Spend) -> Any:
    """What torch.save wrote: the content, with StoredTensor in place of tensors and Storage in place of storages.

    Raises:
        Forbidden: it asks for more than `names`.
        ValueError, EOFError, BadZipFile and the like: it is damaged, or from a big-endian machine.
    """
    read = _read_zip if data.startswith(b"PK") else _read_parts
    return read(data, {**names, **storage_names()}, spend)


def _read_zip(data: bytes, names: Names, spend: Spend) -> Any:
    if data.count(b"PK\x01\x02") > MOST_ENTRIES:  # zipfile makes an object of each
        raise ValueError("an archive of too many entries")
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = {entry.filename: entry for entry in archive.infolist()}
    found = [name for name in entries if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise ValueError("an archive without a data.pkl")
    root = found[0].removesuffix("data.pkl")

    def entry(name: str) -> bytes:
        info = entries[root + name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
            raise ValueError(f"{name} is compressed, which torch never does")
        spend(info.file_size)
        return archive.read(info)

    if root + "byteorder" in entries:
        _need_little(entry("byteorder") == b"little")
    storages: dict[str, Storage] = {}

    def storage(value: Any) -> Storage:
        key, dtype, count = _persistent(value)
        if key not in storages:
            storages[key] = _storage(entry(f"data/{key}"), dtype, count)
        elif storages[key].dtype != dtype:
            raise ValueError(f"storage {key} of two types")
        return storages[key]

    return PlainReader(entry("data.pkl"), names, persistent=storage).load()


def _read_parts(data: bytes, names: Names, spend: Spend) -> Any:
    at = 0

    def part(allowed: Names, persistent: Callable[[Any], Any] | None = None) -> Any:
        nonlocal at
        reader = PlainReader(data, allowed, at=at, persistent=persistent)
        content = reader.load()
        at = reader.at
        return content

    if part({}) != MAGIC or part({}) != VERSION:
        raise ValueError("not a file of torch.save")
    machine = part({})
    _need_little(isinstance(machine, Mapping) and machine.get("little_endian") is True)
    begin = at
    # The storages lie behind the content: it is read once to find them, and once more with them.
    asked: dict[str, tuple[str, int]] = {}

    def ask(value: Any) -> Storage:
        key, dtype, count = _persistent(value)
        if asked.setdefault(key, (dtype, count)) != (dtype, count):
            raise ValueError(f"storage {key} of two types or sizes")
        return Storage(b"", dtype)

    part({**names, **dict.fromkeys(REBUILDERS, _nothing)}, ask)
    keys = part({})
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(asked):
        raise ValueError("other storages than its content asks for")
    storages = {}
    for key in keys:
        dtype, count = asked[key]
        width = np.dtype(TORCH_TYPES[dtype]).itemsize
        if int.from_bytes(data[at : at + 8], "little") != count or at + 8 + count * width > len(data):
            raise EOFError(f"storage {key} is not whole")
        spend(count * width)
        storages[key] = _storage(data[at + 8 : at + 8 + count * width], dtype, count)
        at += 8 + count * width
    at = begin
    return part(names, lambda value: storages[_persistent(value)[0]])


def _nothing(*arguments: Any) -> None:
    """A tensor while its storage is not there yet."""


def _persistent(value: Any) -> tuple[str, str, int]:
    """(key, type, elements) of a storage that lies elsewhere in the file."""
    if type(value) is not tuple or not 5 <= len(value) <= 6 or value[0] != "storage" or value[5:] not in ((), (None,)):
        raise ValueError("a value that lies elsewhere and is no storage")
    kind = getattr(value[1], "name", "").removeprefix("torch.")
    key, count = value[2], value[4]
    if kind not in STORAGES or type(key) is not str or type(count) is not int or not 0 <= count < 2**48:
        raise ValueError("a storage of unknown type or size")
    return key, STORAGES[kind], count


def _storage(data: bytes, dtype: str, count: int) -> Storage:
    if count * np.dtype(TORCH_TYPES[dtype]).itemsize != len(data):
        raise ValueError(f"a storage of {count} values of {dtype} in {len(data)} bytes")
    return Storage(data, dtype)


def _need_little(is_little: bool) -> None:
    if not is_little:
        raise ValueError("it comes from a machine with the bytes the other way round: save it again on this one")
