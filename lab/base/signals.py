"""Ctrl-C and SIGTERM: one line, exit code 130 or 143, and the clean-up of whatever was under way.

This file imports nothing that takes time, so that a script can call `end_at_once` before its other imports.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def end_at_once() -> None:
    """From now on both end this process where it stands, in one line: for as long as there is nothing to keep."""
    for number in WORDS:
        signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    os.write(2, f"{WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


@contextmanager
def raised() -> Iterator[list[signal.Signals]]:
    """Within the block both raise KeyboardInterrupt in the main thread. The signals that came, in order."""
    came: list[signal.Signals] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only that one may say what becomes of signals
        yield came
        return
    before = {number: signal.signal(number, stop) for number in WORDS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
