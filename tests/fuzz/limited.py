"""One made-up case in a process of its own: a right result, or one line and exit code 2, in bounded time and memory.

    check(function, argument)      # fails, with what the case printed, if it is neither

The process is a fork of this one, which has all imported already: a case takes some milliseconds.
"""

import logging
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.base.console import exit_in_one_line

SECONDS, BYTES = 10, 2 * 2**30  # of the clock and the processor; of memory beyond what the process has already
MOST_TOLD = 2000  # characters of the line


def check(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls the function, which raises AssertionError if its result is wrong."""
    with tempfile.TemporaryFile() as told:
        if (child := os.fork()) == 0:
            os._exit(_case(function, arguments, told.fileno()))
        _, status = os.waitpid(child, 0)
        told.seek(0)
        text = told.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if code == 2 and text.startswith("error: ") and text.count("\n") == 1 and len(text) < MOST_TOLD:
        return
    if code or text:
        pytest.fail(f"exit code {code}\n{text[-3000:]}", pytrace=False)


def _case(function: Callable[..., Any], arguments: tuple[Any, ...], told: int) -> int:
    """In the child: its exit code. What is printed goes to a file."""
    try:
        os.dup2(told, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr, sys.stdout = os.fdopen(2, "w", errors="replace"), os.fdopen(1, "w", errors="replace")
        logging.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (_size() + BYTES,) * 2)
        with exit_in_one_line():
            function(*arguments)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def _size() -> int:
    """The address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
