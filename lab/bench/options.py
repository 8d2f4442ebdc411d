"""What the commands of this room are given, checked before the work: each function is the type of an argument."""

import argparse
import math
import os
from pathlib import Path


def count(text: str) -> int:
    """A whole number, at least 1. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, at least 1")
    return int(text)


def count_or_auto(text: str) -> int | None:
    """The same, or None for auto. Raises ArgumentTypeError."""
    return None if text == "auto" else count(text)


def seconds(text: str) -> float:
    """A number of seconds, zero or more. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds, zero or more")
    return number


def new_file(text: str) -> Path:
    """A file that can be written when the work is done. Raises ArgumentTypeError."""
    path = Path(text)
    try:
        fits = path.parent.is_dir() and not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)
    except (OSError, ValueError):  # a name that no file can have
        fits = False
    if not (text and fits):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a file in a folder that is there and can be written to")
    return path
