"""Strategies of hypothesis that change what is valid: bytes, the opcodes of a pickle, a value of JSON, a header.

data.draw(changed_bytes(valid))
"""

import io
import json
import pickletools
import zipfile
from typing import Any

from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([2**31, -(2**31) - 1, 2**53, 2**63, -(2**63), 2**64, 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from(["", "a" * 300, "../x", "\ud800", "\0", "NaN", "F16", "xyxy", "-1", "1e999"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF]


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes, most: int = 4) -> bytes:
    """The bytes with a few places set, removed, doubled, swapped or filled up, or with the end cut off."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 1, 1, 2, 4, 8, 64]))
        part = bytes(data[at : at + length])
        how = draw(st.sampled_from(["set", "set", "set", "number", "remove", "double", "move", "cut"]))
        if how == "set":
            data[at : at + 1] = bytes([draw(st.one_of(st.sampled_from(NUMBERS), st.integers(0, 255)))])
        elif how == "number":
            data[at : at + length] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f"])) * length
        elif how == "remove":
            del data[at : at + length]
        elif how == "double":
            data[at:at] = part
        elif how == "move":
            data += part
        else:
            del data[at:]
    return bytes(data)


@st.composite
def changed_pickle(draw: st.DrawFn, valid: bytes) -> bytes:
    """A pickle with a few opcodes removed, doubled, exchanged, or replaced by those of another kind."""
    starts = [at for _, _, at in pickletools.genops(valid) if at is not None]
    parts = [valid[a:b] for a, b in zip(starts, [*starts[1:], len(valid)], strict=True)]
    for _ in range(draw(st.integers(1, 4))):
        at, other = (draw(st.integers(0, len(parts) - 1)) for _ in range(2))
        how = draw(st.sampled_from(["remove", "double", "exchange", "copy", "plain", "argument"]))
        if how == "remove" and len(parts) > 1:
            del parts[at]
        elif how == "double":
            parts.insert(at, parts[at])
        elif how == "exchange":
            parts[at], parts[other] = parts[other], parts[at]
        elif how == "copy":
            parts.insert(at, parts[other])
        elif how == "plain":
            parts[at] = draw(st.sampled_from(PLAIN))
        elif how == "argument" and len(parts[at]) > 1:
            parts[at] = parts[at][:1] + draw(changed_bytes(parts[at][1:], most=1))
    return b"".join(parts)


PLAIN = [  # opcodes with their arguments
    *(b"N", b"\x88", b"K\xff", b"J\xff\xff\xff\xff", b"G\x7f\xf8" + bytes(6), b"G\x7f\xf0" + bytes(6), b"I9\n"),
    *(
        b")",
        b"]",
        b"}",
        b"(",
        b"0",
        b"2",
        b"R",
        b"b",
        b"t",
        b"\x85",
        b"u",
        b"s",
        b"a",
        b"e",
        b".",
        b"Q",
        b"\x81",
        b"\x93",
    ),
    *(b"X" + bytes(4), b"\x95" + bytes(8), b"\x8a\x09" + b"\xff" * 8 + b"\x7f", b"h\0", b"q\0"),
    *(b"cos\nsystem\n", b"cnumpy\ndtype\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
]


@st.composite
def changed_archive(draw: st.DrawFn, valid: bytes) -> bytes:
    """A file of torch.save with its pickle changed, and a sound archive around it."""
    source, buffer = zipfile.ZipFile(io.BytesIO(valid)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = draw(changed_pickle(content))
            elif "/data/" in name:
                content = draw(st.one_of(st.just(content), changed_bytes(content, most=2)))
            archive.writestr(name, content)
    return buffer.getvalue()


@st.composite
def changed_value(draw: st.DrawFn, valid: Any) -> Any:
    """A value of JSON in which one place, however deep, is another value, missing, or there under another name."""
    inside = isinstance(valid, dict | list) and len(valid) > 0 and draw(st.integers(0, 5)) > 0
    if not inside:
        return draw(VALUES)
    content = dict(valid) if isinstance(valid, dict) else list(valid)
    key = draw(st.sampled_from(sorted(content) if isinstance(content, dict) else range(len(content))))
    if draw(st.integers(0, 7)) == 0:
        del content[key]
    else:
        content[key] = draw(changed_value(content[key]))
    if isinstance(content, dict) and draw(st.integers(0, 9)) == 0:
        content[draw(st.text(max_size=5))] = draw(VALUES)
    return content


@st.composite
def changed_header(draw: st.DrawFn, valid: bytes) -> bytes:
    """A file of safetensors with another header, or with meta changed in it."""
    length = int.from_bytes(valid[:8], "little")
    header, rest = json.loads(valid[8 : 8 + length]), valid[8 + length :]
    if draw(st.booleans()):
        meta = draw(changed_value(json.loads(header["__metadata__"]["meta"])))
        header["__metadata__"]["meta"] = json.dumps(meta)
    else:
        header = draw(changed_value(header))
    head = json.dumps(header).encode()
    if draw(st.integers(0, 9)) == 0:
        head = draw(changed_bytes(head))
    told = draw(st.sampled_from([len(head)] * 9 + [len(head) + 1, 0, 2**40, 2**63]))
    return told.to_bytes(8, "little") + head + rest
