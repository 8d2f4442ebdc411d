"""Ctrl-C and SIGTERM: one line, exit code 130 or 143, and the clean-up of whatever was under way.

This file imports nothing that takes time, so that a script can call `end_at_once` before its other imports.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
PATIENCE = 5.0  # seconds


def end_at_once() -> None:
    """From now on both end this process where it stands, in one line: for as long as there is nothing to keep."""
    for number in _heard():
        signal.signal(number, _end)


def is_command(package: str) -> bool:
    """Whether a module of the package is what Python was told to run, as by `python -m lab.app`."""
    told = sys.orig_argv
    return "-m" in told[1:-1] and told[told.index("-m") + 1].partition(".")[0] == package


def _heard() -> list[signal.Signals]:
    """Those that are not ignored, as Ctrl-C is by a command that a script has put into the background."""
    return [number for number in WORDS if signal.getsignal(number) != signal.SIG_IGN]


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
    before = {number: signal.signal(number, stop) for number in _heard()}
    reading, writing = os.pipe()  # Python writes the number of each signal to it, whatever the main thread is doing
    os.set_blocking(writing, False)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, came), daemon=True).start()
    try:
        yield came
    finally:
        signal.set_wakeup_fd(wakeup)
        os.close(writing)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _watch(reading: int, came: list[signal.Signals]) -> None:
    """Ends this process if a library keeps the main thread from hearing of a signal, as when processes do not meet."""
    while number := os.read(reading, 1):
        time.sleep(PATIENCE)
        if not came and number[0] in WORDS:
            _end(number[0], None)
    os.close(reading)
