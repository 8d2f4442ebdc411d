"""What becomes of the memory that a process frees. Does nothing where the C library is not glibc."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
NEVER = 2**31 - 1  # bytes, the most that a C int holds


def keep_freed_memory() -> None:
    """Memory that this process frees stays with it for the next use, until it ends or `give_back` is called.

    By default large tensors are taken from the system again and again, which empties them page by page: on a CPU, a
    good part of the time of a forward.
    """
    _call("mallopt", M_MMAP_THRESHOLD, NEVER)
    _call("mallopt", M_TRIM_THRESHOLD, NEVER)


def give_back() -> None:
    """Gives freed memory back to the system."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), name):
        getattr(library, name)(*arguments)
