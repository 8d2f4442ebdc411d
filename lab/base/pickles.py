"""Pickles read without trusting them: only tensors, arrays and plain containers are rebuilt, nothing is ever executed.

    content = load_plain("bird.pkl")        # .pkl, .pkl.gz, or a torch.save file

Wrong files end in a UserError that names them. Importing this module does not import torch; reading does.
"""

import gzip
import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lab.base.errors import UserError

Rebuilders = dict[tuple[str, str], Callable[..., Any]]  # (module, name) in a pickle -> what it gets
TORCH_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object in files that torch.save wrote before it used zip


class _SteadyPickler(pickle.Pickler):
    """Writes equal tensors as equal bytes; pickle's own way names each storage by its address."""

    def reducer_override(self, value: Any) -> Any:
        import torch

        if not isinstance(value, torch.UntypedStorage | torch.storage.TypedStorage):
            return NotImplemented
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


def dump_plain(content: Any) -> bytes:
    """A pickle of tensors, arrays and plain containers, which pickle.load reads with torch at hand.

    Equal content gives equal bytes.
    """
    buffer = io.BytesIO()
    _SteadyPickler(buffer, protocol=4).dump(content)
    return buffer.getvalue()


def load_plain(path: str | Path) -> Any:
    """Tensors, arrays and plain containers from a pickle or gzipped pickle, nothing in it executed.

    Raises UserError as `load_record`.
    """
    return rebuild(_read_bytes(Path(path)), str(path))


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; expected a record, .pkl or .pkl.gz, as stage=collect writes it"
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; expected a record file, .pkl or .pkl.gz") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); expected a readable .pkl or .pkl.gz file"
        ) from error
    try:
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except Exception as error:
        raise damaged(str(path), error) from error


def damaged(where: str, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return UserError(
        f"{where}: truncated or not a record ({reason}); expected a whole .pkl or .pkl.gz file: collect it again"
    )


def _refused(where: str, name: str, holds: str) -> UserError:
    return UserError(f"{where}: refused, it asks for {name}; {holds}")


def rebuild(data: bytes, where: str) -> Any:
    """The object in a pickle or torch.save file, without executing anything in it."""
    try:
        content = None if data.startswith(b"PK") else SafeUnpickler(data, where, _rebuilders()).load()
        if content is None or (isinstance(content, int) and content == TORCH_LEGACY_MAGIC):
            content = _torch_load(data)
        return content
    except UserError:
        raise
    except Exception as error:  # a hostile or damaged pickle can fail in any way
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise (_refused(where, forbidden[1], SafeUnpickler.holds) if forbidden else damaged(where, error)) from error


class SafeUnpickler(pickle.Unpickler):
    """Resolves no name outside `rebuilders`, so a pickle can call nothing but those;

    `load` raises UserError naming what it refuses.
    """

    holds = "a record holds only tensors, arrays and plain containers"

    def __init__(
        self, data: bytes, where: str, rebuilders: Rebuilders, *, encoding: str = "ASCII", errors: str = "strict"
    ) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding, errors=errors)  # of what Python 2 called str
        self.where, self.rebuilders = where, rebuilders

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.rebuilders[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise _refused(self.where, f"{module}.{name}", self.holds) from None


def plain_rebuilders() -> Rebuilders:
    """What a pickled array or container may ask for, by (module, name); numpy 2's names are folded into numpy 1's."""
    array: Any = np.zeros(1)
    containers = {
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, complex)
    }
    return {
        **containers,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _fresh(_encode),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): array.__reduce__()[0],
        ("numpy.core.multiarray", "scalar"): array[0].__reduce__()[0],
        ("numpy.core.numeric", "_frombuffer"): _fresh(array.__reduce_ex__(5)[0]),
    }


def _rebuilders() -> Rebuilders:
    """The same and what a pickled tensor may ask for."""
    import torch

    return {
        **plain_rebuilders(),
        **_dtypes(),
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor"): _fresh(torch._utils._rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _fresh(torch._utils._rebuild_tensor_v2),
        ("torch.storage", "_load_from_bytes"): _fresh(_torch_load),
    }


@cache
def _dtypes() -> Rebuilders:
    import torch

    return {("torch", name): kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)}  # type: ignore[misc]


def _fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(
        *args
    )  # a pickle may set attributes on what it is given: let that be ours, for one load


def _encode(text: str, encoding: str) -> bytes:
    """How old pickle protocols spell bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _torch_load(data: bytes) -> Any:
    """torch.load of tensors, storages and plain containers only.

    Also in place of torch's own way to rebuild a storage, which trusts it.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged files, which end in an error anyway
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
