"""Numbers and texts from files, checked, and numbers for files."""

import math
from collections.abc import Mapping
from typing import Any

from lab.base.errors import quoted


def whole(number: Any) -> int:
    """The number as an int. Raises TypeError or ValueError unless it is a whole one; True and False are none."""
    if isinstance(number, bool) or int(number) != number:
        raise ValueError(f"{number!r} is not a whole number")
    return int(number)


def text_or_none(content: Mapping[str, Any], key: str) -> str | None:
    """The text under a key, None where there is none or null. Raises ValueError if it is something else."""
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its {key!r} is {quoted(value)}, expected a text or null")
    return value


def in_64_bits(number: int) -> int:
    """The number, if a computer's integer holds it. Raises ValueError if not."""
    if not -(2**63) <= number < 2**64:
        raise ValueError("an integer of more than 64 bits")
    return number


def size(number: float) -> str:
    """Bytes in words: 950 bytes, 1.2 MB, 35 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5 or (unit == "bytes" and number < 1000):
            break
        number /= 1000
    else:
        unit = "TB"
    return f"{number:.0f} {unit}" if number >= 99.5 or unit == "bytes" else f"{number:.2g} {unit}"


def many(number: int, noun: str) -> str:
    """A number of things in words: 1 file, 1,200 files."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def finite(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: null instead, however deep."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
