"""Numbers from files, checked, and numbers for files."""

import math
from typing import Any


def whole(number: Any) -> int:
    """The number as an int. Raises TypeError or ValueError unless it is a whole one; True and False are none."""
    if isinstance(number, bool) or int(number) != number:
        raise ValueError(f"{number!r} is not a whole number")
    return int(number)


def finite(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: null instead, however deep."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
