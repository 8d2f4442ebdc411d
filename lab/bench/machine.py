"""What the machine gives: memory at its highest, and how fast it multiplies matrices."""

import gc
import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lab.base.memory import give_back
from lab.base.workers import cores


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


def peak_memory(run: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """How many bytes a run takes at most, above what was in use before.

    Returns the bytes of tensors on the device, and those of the process.

    The former as torch counts them; on a CPU in a run of their own, under torch's profiler. The latter is resident
    memory, which also holds what the C library keeps for later and depends on where it finds room.
    """
    run()
    gc.collect()
    give_back()  # what is free, or the peak would hide in it
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted from now on
    resident = _status("VmRSS")
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before, _status("VmHWM") - resident
    run()
    highest = _status("VmHWM") - resident
    return _profiled(run), highest


def _profiled(run: Callable[[], object]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            run()
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    moments = [event["args"] for event in events if event["name"] == "[memory]"]
    before = moments[0]["Total Allocated"] - moments[0]["Bytes"]
    return max(moment["Total Allocated"] for moment in moments) - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


def matmul_rate(
    device: torch.device, dtype: torch.dtype, shapes: list[tuple[int, int, int]], seconds: float = 0.5
) -> float:
    """Floating point operations per second of plain matrix products [m, k] x [k, n], the ceiling of a model made of
    them.
    """
    operations = took = 0.0
    for m, k, n in shapes:
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        product = partial(torch.matmul, a, b)
        took += seconds_of(product, device, max(5, int(seconds / max(seconds_of(product, device, 3), 1e-9))))
        operations += 2.0 * m * k * n
    return operations / took


def seconds_of(run: Callable[[], object], device: torch.device, times: int) -> float:
    """The mean of `times` runs, after one that is not counted."""
    run()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    synchronize(device)
    return (time.perf_counter() - began) / times
