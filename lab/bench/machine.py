"""What the machine gives: memory at its highest, and how fast it multiplies matrices."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch

from lab.workers import cores


def synchronize(device: torch.device) -> None:
    """Waits until the accelerator has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """The machine in words."""
    where = f"{cores()} cores, {platform.machine()}"
    if device.type == "cuda":
        where += f", {torch.cuda.get_device_name(device)}"
    return f"{where}, Python {platform.python_version()}, torch {torch.__version__}"


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Gives a function that tells how many bytes the block took at most, above what was in use before.

    On a GPU, what torch allocated; elsewhere, the resident memory of the process as Linux counts it.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what is free, or the peak would hide in it
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted from now on
    before = _status("VmRSS")
    yield lambda: _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


def matmul_rate(device: torch.device, dtype: torch.dtype, shapes: list[tuple[int, int, int]], seconds: float = 0.5) -> float:
    """Floating point operations per second of plain matrix products [m, k] x [k, n], the ceiling of a model made of them."""
    operations = took = 0.0
    for m, k, n in shapes:
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        product = partial(torch.matmul, a, b)
        took += _seconds(product, device, max(5, int(seconds / max(_seconds(product, device, 3), 1e-9))))
        operations += 2.0 * m * k * n
    return operations / took


def _seconds(run: Callable[[], object], device: torch.device, times: int) -> float:
    """The mean of `times` runs, after one that is not counted."""
    run()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    synchronize(device)
    return (time.perf_counter() - began) / times
