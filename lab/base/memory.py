"""What becomes of the memory that a process frees, and when it looks for more to free."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
NEVER = 2**31 - 1  # bytes, the most that a C int holds


def keep_freed_memory() -> None:
    """Memory that this process frees stays with it for the next use, until it ends or `give_back` is called.

    By default large tensors are taken from the system again and again, which empties them page by page: on a CPU, a
    good part of the time of a forward. Does nothing where the C library is not glibc, nor does `give_back`.
    """
    _call("mallopt", M_MMAP_THRESHOLD, NEVER)
    _call("mallopt", M_TRIM_THRESHOLD, NEVER)


def give_back() -> None:
    """Gives freed memory back to the system."""
    _call("malloc_trim", 0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within the block Python looks for no garbage, and after the first one never again among what is there by then.

    For imports: a quarter of the time of torch's and transformers' goes into looking through a million objects that
    stay, again and again. What comes later, models and what loading them leaves behind, is looked at as ever.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if was_on:
            gc.enable()


def _call(name: str, *arguments: int) -> None:
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), name):
        getattr(library, name)(*arguments)
