"""One batch in 1, 2 and 4 processes: speed, who was idle, whether the files are the same, and what a killed one costs.

The samples are uneven: a fifth of them are expressions about one picture, the others are spread over few or many.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.bench.usage import usage
from lab.picturebook.make import make
from lab.records.folder import packed_records
from lab.records.shards import FOLDER

SCENES = 40  # that are drawn, in turn under many names
PROCESSES = (1, 2, 4)
ONE_THREAD = "1"  # for each process, as torchrun sets it for several
SHARES = {"records": (), "records in shards": ("data.record_format=shards",)}


@dataclass(frozen=True)
class Run:
    """What a batch took, and what it left."""

    wall: float  # seconds, start-up included
    cpu: float
    busy: Sequence[float]  # seconds of each process
    same: bool  # its records and rankings are those of one process, to the byte

    @property
    def idle(self) -> float:
        """The share of the run that the first process to end waits for the last."""
        return 1 - min(self.busy) / max(self.busy)


@dataclass(frozen=True)
class Killed:
    """What became of a batch of which one process was killed."""

    there: int  # records when all had ended
    again: int  # samples that the same command then asked for
    seconds: float  # that it took, start-up included


def uneven(folder: Path, number: int) -> Path:
    """A data file of so many samples: a fifth about the first picture, the others about 1 to 8 a picture."""
    scenes = make(folder / "scenes", SCENES, 50)
    rows = [json.loads(line) for line in scenes.read_text().splitlines()]
    pictures = [picture for picture in range(1, number + 1) for _ in range(1 + picture % 8)]
    lines = []
    for i in range(number):
        picture = 0 if i < number // 5 else pictures[i]
        image = scenes.parent / f"{picture}.png"
        if not image.exists():
            os.link(scenes.parent / rows[picture % SCENES]["image_path"], image)
        lines.append(json.dumps({"id": f"s{i}", "prompt": rows[i % SCENES]["prompt"], "image_path": image.name}) + "\n")
    target = scenes.with_name("uneven.jsonl")
    target.write_text("".join(lines))
    return target


def runs(folder: Path, data: Path) -> Iterator[tuple[int, Run]]:
    """The same batch in each number of processes."""
    first: dict[str, bytes] = {}
    for number in PROCESSES:
        out = folder / f"of_{number}"
        found = usage([*_launcher(number), *_keys(data, out)], cwd=str(PROJECT))
        (summary,) = out.glob("*/summary.json")
        paths = [path for ending in (".pkl", "_analysis.json") for path in summary.parent.glob(f"*{ending}")]
        files = {path.name: path.read_bytes() for path in paths}
        first = first or files
        yield number, Run(found.wall, found.cpu, json.loads(summary.read_text())["busy"], files == first)


def _launcher(number: int) -> list[str]:
    os.environ["OMP_NUM_THREADS"] = ONE_THREAD
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}", "pipeline.py"]


def _keys(data: Path, out: Path) -> tuple[str, ...]:
    return "stage=batch", f"data.data_file={data}", f"data.output_dir={out}", "data.save_masks=false"


def killed(folder: Path, data: Path, number: int) -> Iterator[tuple[str, Killed]]:
    """Two processes, or two jobs, of which one is killed with a third of the samples done; then the same command."""
    for name, keys in SHARES.items():
        command = [*_launcher(2), *_keys(data, folder / name.replace(" ", "_")), *keys]
        yield f"2 processes, {name}", _killed([command], folder / name.replace(" ", "_"), number)
    alone = [sys.executable, "pipeline.py", *_keys(data, folder / "jobs")]
    yield "2 jobs, records", _killed([[*alone, f"data.shard={part}/2"] for part in (1, 2)], folder / "jobs", number)


def _killed(commands: Sequence[Sequence[str]], out: Path, number: int) -> Killed:
    quiet = {"cwd": PROJECT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(command, **quiet) for command in commands]  # type: ignore[call-overload]
    while _there(out) < number // 3:
        if any(one.poll() is not None for one in running):
            raise UserError(f"{' '.join(commands[0])} ended before it could be killed: take more samples")
        time.sleep(0.2)
    victim = next(iter(_workers(running[0].pid)), psutil.Process(running[0].pid))
    victim.send_signal(signal.SIGKILL)
    for one in running:
        one.wait()
    there = _there(out)
    began = time.monotonic()
    usage(commands[0], cwd=str(PROJECT))
    return Killed(there, _there(out) - there, time.monotonic() - began)


def _there(out: Path) -> int:
    """The records of a run."""
    own = sum(not path.name.endswith("_analysis.pkl") for path in out.glob("*/*.pkl"))
    return own + sum(len(packed_records(path.parent)) for path in out.glob(f"*/{FOLDER}"))


def _workers(launcher: int) -> list[psutil.Process]:
    """The processes that a launcher has started."""
    with suppress(psutil.Error):
        return [one for one in psutil.Process(launcher).children(recursive=True) if "pipeline.py" in one.cmdline()]
    return []
