"""Numbers from files, checked."""

from typing import Any


def whole(number: Any) -> int:
    """The number as an int. Raises TypeError or ValueError unless it is a whole one; True and False are none."""
    if isinstance(number, bool) or int(number) != number:
        raise ValueError(f"{number!r} is not a whole number")
    return int(number)
