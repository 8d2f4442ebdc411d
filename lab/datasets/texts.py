"""JSON as people save it: in UTF-8, with or without a byte order mark, in UTF-16, in GB18030, in Windows-1252.

Every reader here ends in a UserError of one line, whatever the bytes are.
"""

import json
from typing import Any

from lab.base.errors import UserError

# How what compressed files begin with is unpacked.
UNPACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
MOST_DEPTH = 50  # lists and objects in one another
TOO_DEEP = f"lists and objects in one another, deeper than {MOST_DEPTH}"


def refuse_packed(data: bytes, name: str) -> None:
    """Raises UserError, which says how to unpack it, if the content of a file of that name is compressed."""
    for begin, unpack in UNPACKED.items():
        if data.startswith(begin):
            raise UserError(f"is compressed; expected it unpacked: {unpack} {name}")


def decode(data: bytes) -> str:
    """Text of UTF-8, UTF-16 or UTF-32. Raises UserError, which says in which line, if it is none of them."""
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        found = f"byte {error.start} (0x{data[error.start]:02x}) is not {encoding.removesuffix('-sig').upper()}"
        raise UserError(f"line {line}: {found}; save the file as UTF-8") from None


def decode_any(data: bytes) -> str:
    """The same, or text of GB18030 (which holds GBK) or Windows-1252. Raises UserError if it is none of them.

    The last two cannot be told apart for certain: it is GB18030 if most of its characters beyond ASCII would be the
    common Chinese ones of GB2312; the accents and quotes of Windows-1252 hardly ever make those.
    """
    try:
        return decode(data)
    except UserError:
        for encoding in ("gb18030", "cp1252"):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                continue
            if encoding == "cp1252" or _mostly_common(text):
                return text
        raise UserError("neither UTF-8 nor UTF-16, GB18030 or Windows-1252; save it as UTF-8") from None


def _mostly_common(text: str) -> bool:
    """Whether most characters beyond ASCII are of GB2312."""
    rare = "".join(character for character in text if character > "\x7f")
    return 2 * len(rare.encode("gb2312", "ignore").decode("gb2312")) > len(rare)


def parse(text: str) -> Any:
    """The content of a JSON text. Raises UserError if it is none, or one that no file of annotations needs."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} " if "\n" in text.strip() else ""
        raise UserError(f"not JSON ({error.msg} at {where}column {error.colno})") from None
    except RecursionError:
        raise UserError(f"not usable JSON ({TOO_DEEP})") from None
    except ValueError:  # Python reads no integers of more digits than 4,300
        raise UserError("not usable JSON (a number of thousands of digits)") from None
    if text.count("[") + text.count("{") > MOST_DEPTH and too_deep(content):
        raise UserError(f"not usable JSON ({TOO_DEEP})")
    if ("\\ud" in text or "\\uD" in text) and _has_half(content):
        raise UserError("not usable JSON (a text holds half a character, a lone surrogate such as \\ud83d)")
    return content


def too_deep(content: Any) -> bool:
    """Whether it holds lists and objects in one another, deeper than MOST_DEPTH."""
    level = [content]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _has_half(content: Any) -> bool:
    """Whether a text in the content has a lone surrogate, which no file can be written with."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
