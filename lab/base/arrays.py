"""Arrays and tensors from plain bytes: the only way in which a file's numbers become an array.

Types are named from a list, sizes are compared with the bytes that are there before anything is made, and what comes
out is C-contiguous and in the machine's byte order. Importing this module does not import torch.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.base.opcodes import Forbidden, Names, Unbuilt

Spend = Callable[[int], None]  # told how many bytes will be made; raises ValueError if they are too many

NUMPY_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
TORCH_TYPES = {  # torch's name -> numpy's, little-endian
    **{"bool": "b1", "uint8": "u1", "int8": "i1", "int16": "<i2", "int32": "<i4", "int64": "<i8"},
    **{"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8"},
}
MOST_DIMENSIONS = 32


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor from a file: its values, and the torch type that it had there.

    `values` have the numpy type of that name; numpy has no bfloat16, which is widened to float32 without a change.
    """

    values: np.ndarray
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)


@dataclass(frozen=True, eq=False)
class Storage:
    """The bytes behind tensors of one torch type."""

    data: bytes | memoryview
    dtype: str

    def __len__(self) -> int:
        """In elements."""
        return len(self.data) // np.dtype(TORCH_TYPES[self.dtype]).itemsize


def numpy_type(name: Any, byte_order: Any = "=") -> np.dtype:
    """One of NUMPY_TYPES, in one of numpy's byte orders < > = |. Raises Forbidden for every other type."""
    if name not in NUMPY_TYPES or byte_order not in ("<", ">", "=", "|"):
        raise Forbidden(f"an array of type {str(name)[:20]!r}")
    return np.dtype(name).newbyteorder(byte_order)


def array_names(spend: Spend) -> Names:
    """What a pickled array, number or container may ask for, by (module, name); numpy 2's names as numpy 1 has them."""
    plain = {
        (module, name): function
        for module in ("builtins", "__builtin__")
        for name, function in (("bytes", _no_bytes), ("bytearray", _bytearray), ("complex", _complex))
    }
    return {
        **plain,
        ("collections", "OrderedDict"): _ordered,
        ("_codecs", "encode"): lambda text, encoding: _encoded(text, encoding, spend),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _dtype,
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: Unbuilt(lambda state: _array_of_state(state, spend)),
        ("numpy.core.multiarray", "scalar"): lambda dtype, data: scalar_of(dtype, data, spend),
        ("numpy.core.numeric", "_frombuffer"): lambda data, dtype, shape, order: array_of(
            data, dtype, shape, order, spend
        ),
    }


def array_of(data: Any, dtype: Any, shape: Any, order: Any, spend: Spend) -> np.ndarray:
    """An array of `shape` that lies in `data` in the order "C" or "F".

    Raises ValueError unless the bytes are exactly those of the shape and the type.
    """
    if type(data) not in (bytes, bytearray) or not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise ValueError("an array without bytes, type or order")
    count = _elements(shape)
    if count * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {list(shape)} and type {dtype} in {len(data)} bytes")
    spend(len(data))
    found: np.ndarray = np.ndarray(shape, dtype, bytes(data), order=order)
    return _owned(found)


def scalar_of(dtype: Any, data: Any, spend: Spend) -> Any:
    """A numpy number. Raises ValueError unless the bytes are those of one."""
    if type(data) is str:  # how old pickles spell bytes
        data = data.encode("latin1")
    return array_of(data, dtype, (), "C", spend)[()]


def tensor_of(storage: Any, offset: Any, size: Any, stride: Any, spend: Spend) -> StoredTensor:
    """A tensor that lies in a storage at `offset`, with `stride`, both in elements.

    Raises ValueError unless every element lies inside, at a place of its own as far as strides can tell: a stride of 0
    and more elements than the storage has would let a short file fill the memory.
    """
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    count = _elements(size)
    if (
        not _is_whole(offset)
        or type(stride) is not tuple
        or len(stride) != len(size)
        or not all(map(_is_whole, stride))
    ):
        raise ValueError("a tensor with an offset or strides that are not whole numbers from 0 on")
    steps = [(length, step) for length, step in zip(size, stride, strict=True) if length > 1]
    last = offset + sum((length - 1) * step for length, step in steps)
    outside = count > 0 and last >= len(storage)
    if outside or count > len(storage) or (count and any(step == 0 for _, step in steps)):
        raise ValueError(
            f"a tensor of size {list(size)}, stride {list(stride)} and offset {offset} in {len(storage)} values"
        )
    dtype = np.dtype(TORCH_TYPES[storage.dtype])
    spend(count * max(4, dtype.itemsize))
    if count == 0:
        return StoredTensor(np.zeros(size, np.float32 if storage.dtype == "bfloat16" else dtype), storage.dtype)
    width = dtype.itemsize
    within = [width * (step if length > 1 else 1) for length, step in zip(size, stride, strict=True)]
    view: np.ndarray = np.ndarray(size, dtype, storage.data, offset * width, within)
    if storage.dtype == "bfloat16":
        return StoredTensor((view.astype(np.uint32) << 16).view(np.float32), storage.dtype)
    return StoredTensor(_owned(view), storage.dtype)


def _owned(view: np.ndarray) -> np.ndarray:
    """Its values in memory of their own, C-contiguous and in the machine's byte order."""
    if view.dtype.kind == "b":
        return np.array(view.view(np.uint8) != 0, order="C")  # what is neither 0 nor 1 has no defined meaning
    return np.array(view, view.dtype.newbyteorder("="), order="C")


def _dtype(name: Any, *flags: Any) -> Unbuilt:
    def with_order(state: Any) -> np.dtype:
        # (version, byte order, sub-array, names, fields, item size, alignment, flags): a plain type's are these
        if type(state) is not tuple or len(state) != 8 or state[0] != 3 or state[2:] != (None, None, None, -1, -1, 0):
            raise Forbidden("an array type with parts")
        return numpy_type(name, state[1])

    numpy_type(name)
    return Unbuilt(with_order)


def _array_of_state(state: Any, spend: Spend) -> np.ndarray:
    if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
        raise ValueError("an array of unknown state")
    _, shape, dtype, fortran, data = state
    return array_of(data, dtype, shape, "F" if fortran else "C", spend)


def _encoded(text: Any, encoding: Any, spend: Spend) -> bytes:
    """How old pickle protocols spell bytes."""
    if type(text) is not str or encoding != "latin1":
        raise ValueError(f"bytes in encoding {str(encoding)[:20]!r}")
    spend(len(text))
    return text.encode("latin1")


def _ordered(*pairs: Any) -> OrderedDict:
    if pairs:
        raise ValueError("an OrderedDict with arguments")
    return OrderedDict()


def _no_bytes(*data: Any) -> bytes:
    """How old pickle protocols spell bytes of which there are none."""
    if data:
        raise ValueError("bytes with arguments")
    return b""


def _bytearray(data: Any, *encoding: Any) -> bytearray:
    if type(data) is str and encoding == ("latin-1",):
        return bytearray(data, "latin-1")
    if type(data) is not bytes or encoding:
        raise ValueError("a bytearray of something else than bytes")
    return bytearray(data)


def _complex(real: Any, imaginary: Any) -> complex:
    if not (type(real) is type(imaginary) is float):
        raise ValueError("a complex number of something else than two numbers")
    return complex(real, imaginary)


def _elements(shape: Any) -> int:
    """How many elements a shape has. Raises ValueError unless it is a tuple of some lengths that fit a file."""
    if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS or not all(map(_is_whole, shape)):
        raise ValueError("a shape that is no tuple of a few whole numbers from 0 on")
    count = math.prod(shape)
    if count == 0 and math.prod(max(length, 1) for length in shape) > 2**40:
        raise ValueError("an empty array with lengths beyond all measure")
    return count


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48
