"""A corpus of hostile records: for each way that a file could take over, crash or stall its reader, one file.

files = hostile_files()             # name -> bytes
files = impossible_records()        # whole pickles of what no record can be
files = hostile_exchange()          # the same of files of safetensors
"""

import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class Calls:
    """Pickles into a call of `function`, and into `state` for what it returns."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


def dumped(content: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(content, protocol)


def record_of(attn: Any = None, **meta: Any) -> bytes:
    return dumped({"attn": WEIGHTS if attn is None else attn, "meta": meta})


WEIGHTS = torch.softmax(torch.randn(2, 2, 1, 16, generator=torch.Generator().manual_seed(0)), -1)
RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float64(1).__reduce__()[0]
FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]


def typed(name: str, *state: Any) -> Calls:
    """A dtype with a state of its own."""
    return Calls(np.dtype, name, False, True, state=state)


def array(dtype: Any, shape: Any, data: Any) -> Calls:
    return Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, data))


def storage_of(values: torch.Tensor) -> Calls:
    buffer = io.BytesIO()
    torch.save(values.untyped_storage(), buffer)
    return Calls(torch.storage._load_from_bytes, buffer.getvalue())


def tensor(offset: Any, size: Any, stride: Any, values: torch.Tensor = WEIGHTS) -> bytes:
    _, (_, *_) = values.__reduce_ex__(2)
    storage = values.__reduce_ex__(2)[1][0]
    return dumped(Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {}))


def saved(content: Any, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def compressed_archive() -> bytes:
    """A torch.save file whose storage is compressed: 2 GB in 2 MB."""
    source = zipfile.ZipFile(io.BytesIO(saved({"attn": WEIGHTS}, True)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            with archive.open(name, "w") as stream:
                if name.endswith("data/0"):
                    for _ in range(64):
                        stream.write(bytes(2**22))
                else:
                    stream.write(source.read(name))
    return buffer.getvalue()


def crowded_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", dumped({"attn": None}, 2))
    data = buffer.getvalue()
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    central = data[at:end] * 60_000
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 60_000, 60_000, len(central), at, 0)
    return data[:at] + central + tail


def nested(begin: bytes, inner: bytes, times: int, end: bytes = b"") -> bytes:
    return b"\x80\x02" + begin + inner * times + end


def doubled(times: int) -> bytes:
    """A tuple that holds twice a tuple that holds twice ... : a few bytes, and 2^times ways through it."""
    return b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(times))


def keys_with_equal_hashes(count: int) -> bytes:
    step = 2**61 - 1  # the modulus of Python's hash of integers
    keys = b"".join(b"\x8a\x0b" + (n * step).to_bytes(11, "little") + b"N" for n in range(1, count))
    return b"\x80\x02}(" + keys + b"u."


def many_zeros(gigabytes: float) -> bytes:
    block = gzip.compress(bytes(2**24), 9)
    return block * int(gigabytes * 64)


def hostile_files() -> dict[str, bytes]:
    """Files that must be refused or found damaged."""
    object_type = np.dtype("O")
    pointers = struct.pack("<1Q", 0x4141414141414141)
    text = "x" * 500_000
    return {
        # arrays that read their bytes as pointers, or whose type says something else than their bytes
        "ndarray of objects over a buffer": record_of(Calls(np.ndarray, (1,), object_type, pointers)),
        "ndarray of floats over a buffer": record_of(Calls(np.ndarray, (2, 2, 1, 16), np.dtype("f4"), bytes(256))),
        "ndarray over a buffer, bare": dumped(Calls(np.ndarray, (1,), object_type, pointers)),
        "ndarray of objects in meta": record_of(image_size=Calls(np.ndarray, (2,), object_type, pointers * 2)),
        "frombuffer of objects": record_of(Calls(FROM_BUFFER, pointers, object_type, (1,), "C")),
        "reconstruct of objects": record_of(array(object_type, (1,), [None])),
        "reconstruct of objects from bytes": record_of(array(object_type, (1,), pointers)),
        "reconstruct of a structure": record_of(array(np.dtype([("a", "O")]), (1,), pointers)),
        "reconstruct of another class": record_of(
            Calls(RECONSTRUCT, np.matrix, (0,), b"b", state=(1, (1,), np.dtype("f4"), False, bytes(4)))
        ),
        "array with more shape than bytes": record_of(array(np.dtype("f4"), (2, 2, 1, 2**40), bytes(256))),
        "array with negative lengths": record_of(array(np.dtype("f4"), (-2, -2, 1, 16), bytes(256))),
        "array of too many dimensions": record_of(array(np.dtype("f4"), (1,) * 100, bytes(4))),
        "array without end in an empty shape": record_of(array(np.dtype("f4"), (0, 2**47, 2**47), b"")),
        "scalar of objects": record_of(Calls(SCALAR, object_type, pointers)),
        "scalar of a short buffer": record_of(Calls(SCALAR, np.dtype("f8"), b"1")),
        "type with flags of objects": record_of(array(typed("f8", 3, "|", None, None, None, 8, 1, 63), (1,), pointers)),
        "type with fields out of bounds": record_of(
            array(typed("V8", 3, "|", None, ("a",), {"a": (np.dtype("f8"), 4096)}, 8, 1, 16), (1,), pointers)
        ),
        "type of negative size": record_of(array(typed("V8", 3, "|", None, None, None, -8, 1, 0), (1,), pointers)),
        "type of huge size": record_of(array(typed("V8", 3, "|", None, None, None, 2**31 - 1, 1, 0), (1,), b"")),
        "type with a sub-array": record_of(
            array(typed("V8", 3, "|", (np.dtype("f4"), (2,)), None, None, 8, 4, 0), (1,), pointers)
        ),
        "type with metadata": record_of(
            array(typed("f4", 4, "<", None, None, None, -1, -1, 0, {"a": 1}), (1,), bytes(4))
        ),
        "type of texts": record_of(np.array([["a"]])),
        "type of times": record_of(np.array(["2026-01-01"], "datetime64[s]")),
        "type with an unknown byte order": record_of(
            array(typed("f4", 3, "x", None, None, None, -1, -1, 0), (1,), bytes(4))
        ),
        "type without an end": b"\x80\x02}X\x04\x00\x00\x00attncnumpy\ndtype\n(X\x02\x00\x00\x00f4tRs.",
        "array that is never built": record_of(Calls(RECONSTRUCT, np.ndarray, (0,), b"b")),
        # tensors that claim more than their storage
        "stride 0": tensor(0, (1000, 1000, 1, 1000), (0, 0, 0, 0)),
        "stride 0 in one axis": tensor(0, (2, 2, 2**30, 16), (32, 16, 0, 1)),
        "negative stride": tensor(0, (2, 2, 1, 16), (32, -16, 16, 1)),
        "negative offset": tensor(-64, (2, 2, 1, 16), (32, 16, 16, 1)),
        "offset behind the end": tensor(2**40, (2, 2, 1, 16), (32, 16, 16, 1)),
        "last element behind the end": tensor(1, (2, 2, 1, 16), (32, 16, 16, 1)),
        "rows over each other": tensor(0, (60, 60, 1, 60), (1, 1, 1, 1), torch.rand(200)),
        "size of a gigabyte": tensor(0, (1, 1, 1, 2**28), (1, 1, 1, 1)),
        "size that is no tuple": tensor(0, 7, (1,)),
        "strides of truth values": tensor(0, (2, 2, 1, 16), (True, True, True, True)),
        "tensor without a storage": dumped(Calls(torch._utils._rebuild_tensor_v2, b"", 0, (1,), (1,), False, {})),
        "storage in a storage": dumped(Calls(torch.storage._load_from_bytes, dumped(storage_of(WEIGHTS)))),
        "stride 0 in a torch.save file": saved({"attn": torch.zeros(1).expand(2000, 2000, 1, 1000)}, True),
        "stride 0 in an old torch.save file": saved({"attn": torch.zeros(1).expand(2000, 2000, 1, 1000)}, False),
        "storage of another size": saved({"attn": WEIGHTS}, True).replace(b"cpuq\x06K\x40", b"cpuq\x06K\x7f"),
        "old storage of another size": saved({"attn": WEIGHTS}, False).replace(b"K\x40N", b"K\x7fN"),
        "torch.save file with compressed parts": compressed_archive(),
        "torch.save file of many parts": crowded_archive(),
        "class in a torch.save file": saved({"attn": Calls(print, "executed")}, True),
        # work and memory out of proportion
        "tuples in tuples as a key": nested(b"}", b")" + b"\x85" * 200_000, 1, b"Ns."),
        "tuples in tuples in a set": nested(b"\x8f(", b")" + b"\x85" * 200_000, 1, b"\x90."),
        "doubled tuples as a key": b"\x80\x02}" + doubled(40) + b"Ns.",
        "doubled tuples": b"\x80\x02}X\x04\x00\x00\x00attn" + doubled(40) + b"s.",
        "doubled tuples in meta": record_of().replace(b"meta\x94}", b"meta\x94" + doubled(40)),
        "list that holds itself": b"\x80\x02]q\x00h\x00a.",
        "lists in lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "marks on marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
        "a million opcodes": b"\x80\x02]" + b"(e" * 1_100_000 + b".",
        "keys with equal hashes": keys_with_equal_hashes(30_000),
        "keys of numbers that are no integers": b"\x80\x02}G\x7f\xf8\x00\x00\x00\x00\x00\x00Ns.",
        "a huge bytearray": dumped(Calls(bytearray, 2**33)),
        "a huge length": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
        "a huge bytearray by its length": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.",
        "a huge integer": b"\x80\x02\x8b" + (2**20).to_bytes(4, "little") + bytes([255]) * 2**20 + b".",
        "an integer of 5,000 digits": b"I" + b"9" * 5000 + b"\n.",
        "one text encoded again and again": b"\x80\x02X" + len(text).to_bytes(4, "little") + text.encode() + b"q\x00"
        + b"X\x06\x00\x00\x00latin1q\x01](" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 10_000 + b"e.",
        "gzip of 3 GB": many_zeros(3),
        "gzip in pieces": gzip.compress(b"\x80\x02]") * 100_000,
        # opcodes that nothing needs
        "an old object": b"(S'touch executed'\nios\nsystem\n.",
        "an object": b"\x80\x02(cbuiltins\nobject\no.",
        "a new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        "an extension": b"\x80\x02\x82\x01.",
        "a value from elsewhere": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "a buffer from elsewhere": b"\x80\x05\x97.",
        "state for a dict": b"\x80\x02}}b.",
        "state for a text": b"\x80\x02X\x01\x00\x00\x00a}b.",
        "a list that is called": b"\x80\x02])R.",
        "nothing on the stack": b"\x80\x02R.",
        "no content": b"\x80\x02.",
    }  # fmt: skip


def impossible_records() -> dict[str, bytes]:
    """Whole pickles that claim what no record can have."""
    grid = {"start": 0, "rows": 4, "cols": 4, "extent_xyxy": [0.0, 0.0, 8.0, 8.0]}
    beyond = {**grid, "extent_xyxy": [-1e300, -1e300, 1e300, 1e300]}
    tiny = {**grid, "rows": 1, "cols": 1, "extent_xyxy": [0.0, 0.0, 1e-300, 1e-300]}
    flipped = WEIGHTS.clone()
    flipped.view(torch.int32)[0, 0, 0, 3] ^= 1 << 30  # one bit of an exponent
    twins = [[0, n * (2**61 - 1)] for n in range(1, 9)] * 4000
    return {
        "a picture of 65,535 x 65,535": record_of(image_size=[65535, 65535]),
        "a picture of 40,000 x 40,000": record_of(image_size=[40000, 40000]),
        "a grid without bounds": record_of(grids=[beyond]),
        "two grids far apart": record_of(grids=[tiny, beyond]),
        "a grid of tiny cells": record_of(grids=[tiny, grid]),
        "grids over each other": record_of(grids=[grid] * 100_000),
        "a grid of huge numbers": record_of(grids=[{**grid, "rows": 2**62}]),
        "weights of 1e30": record_of(WEIGHTS * 1e30),
        "a flipped bit": record_of(flipped),
        "heads with equal hashes": dumped(
            {"attn": torch.zeros(32_000, 1, 16), "meta": {}, "partial": {"schema": 1, "heads": twins, "entropy": {}}}
        ),
        "scores of a model without bounds": dumped(
            {"attn": torch.zeros(1, 1, 2**22), "meta": {}, "partial": partial_of(2**10, 2**10)}
        ),
    }


def exchange(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of safetensors; its header as it is, if it is bytes."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(head) if length is None else length).to_bytes(8, "little") + head + data


def hostile_exchange() -> dict[str, bytes]:
    data = WEIGHTS.numpy().tobytes()
    attn = {"dtype": "F32", "shape": [2, 2, 1, 16], "data_offsets": [0, 256]}

    def record(meta: Any = None, **changes: Any) -> bytes:
        text = meta if isinstance(meta, str) else json.dumps(meta or {})
        return exchange({"__metadata__": {"meta": text}, "attn": {**attn, **changes}}, data)

    entry, nothing = json.dumps(attn), {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    deep = b'{"a":' + b"[" * 2**19 + b"]" * 2**19 + b"}"
    grid = {"start": 0, "rows": 4, "cols": 4, "extent_xyxy": [0.0, 0.0, 8.0, 8.0]}
    return {
        "a header without end": exchange(b'{"', length=2**47),
        "a header of 2 GB": exchange(b'{"', length=2**31),
        "a header longer than the file": exchange({"attn": attn}, length=400),
        "a header of 8 MB": exchange(b'{"a":"' + b"x" * 2**23 + b'"}'),
        "a header of many lists": exchange(b'{"a":[' + b"[]," * 340_000 + b"[]]}"),
        "a header of many names": exchange({str(n): nothing for n in range(15_000)}),
        "no header": exchange(b"{"),
        "a header that is no object": exchange(b'{"a"}'),
        "a header in no encoding": exchange(b'{"\xff": 1}'),
        "lists in lists": exchange(deep),
        "objects in objects": exchange(b'{"a":' * 2**17 + b"1" + b"}" * 2**17),
        "a name that is there twice": exchange(f'{{"attn": {entry}, "attn": {entry}}}'.encode(), data),
        "metadata that is there twice": exchange(b'{"__metadata__": {}, "__metadata__": {}}'),
        "metadata of lists": exchange({"__metadata__": {"meta": [1]}, "attn": attn}, data),
        "overlapping tensors": exchange({"attn": attn, "generic": attn}, data),
        "a hole between tensors": exchange({"attn": attn, "generic": {**attn, "data_offsets": [300, 556]}}, data * 3),
        "bytes behind the tensors": exchange({"attn": attn}, data * 2),
        "the end before the beginning": record(data_offsets=[256, 0]),
        "offsets behind the end": record(data_offsets=[2**40, 2**40 + 256]),
        "negative offsets": record(data_offsets=[-256, 0]),
        "offsets that are no integers": record(data_offsets=[0.0, 256.0]),
        "a huge shape": record(shape=[2**20, 2**20, 1, 2**20]),
        "a shape beyond 64 bits": record(shape=[2**32, 2**32, 1, 16]),
        "a shape that overflows to its size": record(shape=[2**62, 4, 1, 64]),
        "a shape without end in an empty tensor": record(shape=[0, 2**47, 2**47], data_offsets=[0, 0]),
        "a shape of many lengths": record(shape=[1] * 100_000 + [64]),
        "a negative shape": record(shape=[-2, -2, 1, 16]),
        "an unknown type": record(dtype="O8"),
        "a type of another size": record(dtype="F64"),
        "a type of 8 bits": record(dtype="F8_E4M3", shape=[4, 4, 1, 16]),
        "complex numbers": record(dtype="C64", shape=[2, 1, 1, 16]),
        "truncated": record()[:-1],
        "truncated in its header": record()[:60],
        "no tensor": exchange({"__metadata__": {"meta": "{}"}}),
        "a tensor of another name": exchange({"weight": attn}, data),
        "lists in lists in meta": record('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        "deep meta": record('{"a": ' + "[" * 60 + "]" * 60 + "}"),
        "a key that is there twice in meta": record('{"query": "a", "query": "b"}'),
        "NaN in meta": record('{"image_size": [NaN, 1]}'),
        "infinity in meta": record('{"image_size": [1e999, 1]}'),
        "an integer of 5,000 digits in meta": record(f'{{"a": {"9" * 5000}}}'),
        "meta that is no object": record("[]"),
        "meta that is no JSON": record("{"),
        "a picture of 65,535 x 65,535": record({"image_size": [65535, 65535]}),
        "a grid without bounds": record({"grids": [{**grid, "extent_xyxy": [-1e300, -1e300, 1e300, 1e300]}]}),
        "grids over each other": record({"grids": [grid] * 10_000}),
        "heads of nothing": record({"partial": {"schema": 1, "heads": [[0, 0]], "entropy": {}}}),
        "partial that is no object": record({"partial": [1]}),
        "weights of 1e30": exchange({"attn": attn}, (WEIGHTS * 1e30).numpy().tobytes()),
        "weights that are no numbers": exchange({"attn": attn}, b"\xff" * 256),
        "a negative weight": exchange({"attn": attn}, (WEIGHTS - 0.5).numpy().tobytes()),
    }  # fmt: skip


def partial_of(layers: int, heads: int) -> dict[str, Any]:
    names = ("attn_sum", "spatial_entropy", "num_components", "bottom_row_max")
    return {"schema": 1, "heads": [[0, 0]], "entropy": {}, **{name: np.zeros((layers, heads), "f2") for name in names}}
