"""What a command takes together with the processes that it starts: seconds, processor time, memory."""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from lab.base.errors import UserError

EVERY = 0.1  # seconds between two looks at the processes


@dataclass(frozen=True)
class Usage:
    """Seconds and bytes."""

    wall: float
    cpu: float  # of all processes, as last seen of those that have ended
    own: int  # bytes, the most that the first process held
    tree: int  # bytes, the most that all of them held at once, what they share counted once


def usage(command: Sequence[str], cwd: str | None = None) -> Usage:
    """Runs a command to its end. Raises UserError with its last line if it fails."""
    began, cpu, own, tree = time.monotonic(), dict[int, float](), 0, 0
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        main = psutil.Process(process.pid)
        while process.poll() is None:
            held = 0
            with suppress(psutil.Error):
                for one in (main, *main.children(recursive=True)):
                    with suppress(psutil.Error):
                        times, memory = one.cpu_times(), one.memory_full_info()
                        cpu[one.pid] = times.user + times.system
                        held += memory.pss
                        own = max(own, memory.rss if one.pid == main.pid else 0)
            tree = max(tree, held)
            time.sleep(EVERY)
        output.seek(0)
        said = output.read().decode(errors="replace").splitlines()
    if process.returncode:
        raise UserError(f"{' '.join(command)} ended with {process.returncode}: {said[-1] if said else ''}")
    return Usage(time.monotonic() - began, sum(cpu.values()), own, tree)
