"""Records as files of safetensors, which other tools and languages read: tensors, and `meta` as JSON.

    data = dump_exchange({"attn": tensor, "meta": {...}})       # the content of bird.safetensors
    content = load_exchange(data, "bird.safetensors")           # the same, tensors as StoredTensor

The tensors are `attn`, `generic` if there is one and, of a record with some heads' maps only, the scores of all heads.
The header's metadata holds one text, `meta`: JSON of the record's meta, with `partial` (which heads, by which settings)
in it where there is one. One text alone, as the library writes several in a random order and equal records are equal
files. Reading does not import torch; writing does.
"""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from safetensors import deserialize

from lab.base.arrays import Spend, Storage, StoredTensor, tensor_of
from lab.base.errors import UserError
from lab.base.numbers import in_64_bits
from lab.base.opcodes import MOST_DIGITS
from lab.base.pickles import FREE_BYTES, budget, damaged
from lab.datasets.texts import TOO_DEEP, too_deep
from lab.records.subset import SCORES

MOST_HEADER = 2**20  # bytes; of a model of 10,000 heads it has 150,000
DTYPES = {  # the library's names -> torch's
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}
TENSORS = ("attn", "generic")
PARTIAL = "partial"  # a key of the JSON in the header


def is_exchange(data: bytes) -> bool:
    """Whether a file begins as one of safetensors: a length below 2^48 and an object of JSON."""
    return data[8:9] == b"{" and data[6:8] == b"\0\0"


def load_exchange(data: bytes, where: str) -> dict[str, Any]:
    """{attn, meta, generic, partial} as a pickled record holds them, the last two only if there are any.

    Raises UserError, beginning with `where`, if it is damaged or holds anything else.
    """
    try:
        metadata = _metadata(data)
        spend = budget(FREE_BYTES + 4 * len(data))
        found = {name: _tensor(plain, spend) for name, plain in deserialize(data)}
        meta = strict_json(metadata.get("meta", "{}"))
        if type(meta) is not dict:
            raise ValueError("a meta that is no object")
    except Exception as error:  # a hostile or damaged file can fail in any way
        raise damaged(where, error) from error
    content: dict[str, Any] = {name: value for name, value in found.items() if name not in SCORES}
    partial = meta.pop(PARTIAL, None)
    if partial is not None:
        scores = {name: found[name] for name in SCORES if name in found}
        content[PARTIAL] = {**partial, **scores} if isinstance(partial, Mapping) else partial
    return {**content, "meta": meta}


def _metadata(data: bytes) -> Mapping[str, Any]:
    """The texts of the header. Raises ValueError if it is too long, names something twice or is no JSON."""
    length = int.from_bytes(data[:8], "little")
    if length > min(MOST_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length:,} bytes")
    header = strict_json(data[8 : 8 + length].decode())
    if type(header) is not dict or type(metadata := header.get("__metadata__", {})) is not dict:
        raise ValueError("a header that is no object")
    return metadata


def _tensor(plain: Mapping[str, Any], spend: Spend) -> StoredTensor:
    dtype = DTYPES.get(plain["dtype"])
    if dtype is None:
        raise ValueError(f"a tensor of type {plain['dtype']}; known are {', '.join(DTYPES)}")
    shape = tuple(plain["shape"])
    strides = tuple(accumulate(reversed(shape[1:]), lambda step, length: step * length, initial=1))[::-1]
    return tensor_of(Storage(memoryview(plain["data"]), dtype), 0, shape, strides if shape else (), spend)


def strict_json(text: Any) -> Any:
    """JSON in which every key stands once and numbers are finite and of 64 bits. Raises ValueError if it is not."""
    content = json.loads(text, object_pairs_hook=_once, parse_constant=_number, parse_float=_number, parse_int=_whole)
    if too_deep(content):
        raise ValueError(TOO_DEEP)
    return content


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that is there twice")
    return found


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text[:20]}")
    return number


def _whole(text: str) -> int:
    return in_64_bits(int(text[:MOST_DIGITS]))  # more digits take long, and only make it larger


def dump_exchange(content: Mapping[str, Any], where: str) -> bytes:
    """The content of a file. Equal content gives equal bytes.

    Raises UserError, beginning with `where`, if meta holds what JSON does not.
    """
    from safetensors.torch import save

    meta, partial = dict(content["meta"]), dict(content.get(PARTIAL, {}))
    tensors = {name: content[name].clone() for name in TENSORS if name in content}  # they may share their memory
    tensors |= {name: partial.pop(name) for name in SCORES if name in partial}
    try:
        text = json.dumps({**meta, PARTIAL: partial} if partial else meta, allow_nan=False)
    except (TypeError, ValueError) as error:
        why = f"its meta cannot be written as JSON ({error}): set data.record_format=pkl"
        raise UserError(f"{where}: {why}") from None
    return save(tensors, {"meta": text})
