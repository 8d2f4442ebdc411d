"""One run in one process or in many: who this process is, what all of them found, and that no other run writes here.

Started by `accelerate launch --num_processes N` or by several tasks of a SLURM job, a process knows its number from the
environment; alone, it is number 0 of 1 and nothing is set up.
"""

import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from lab.base.errors import UserError, shown
from lab.base.shards import LOCK, WHOLE, Shard, files_of_shards

log = logging.getLogger(__name__)

T = TypeVar("T")
# What torch must know about a process of many, and how others than accelerate and torchrun tell it.
TOLD = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
STARTERS = (
    TOLD,
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
)
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # where the processes find each other
START = "start many with accelerate launch or torchrun, or set these; one without WORLD_SIZE, or by srun --ntasks=1"
PATIENCE = 10.0  # seconds that a part waits for others which also ask whether the whole is being done
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without locks


@dataclass(frozen=True)
class Processes:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among those of the same machine
    local_world: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, found: list[T]) -> list[T]:
        """What all processes found, in order of their numbers; every process must call it."""
        if self.world == 1:
            return found
        from accelerate.utils import gather_object

        return gather_object(found)

    def first(self, function: Callable[[], object]) -> None:
        """The main process calls the function while the others wait. All of them raise its UserError."""
        problem: UserError | None = None
        if self.main:
            try:
                function()
            except UserError as error:
                problem = error
        if problem := next(filter(None, self.gather([problem])), None):
            raise problem

    def end(self) -> None:
        """Ends the communication, once nobody needs it any more."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()

    def device(self, wanted: str) -> str:
        """The device of this process, where `wanted` leaves it open."""
        if self.world == 1 or wanted not in ("auto", "cuda"):
            return wanted
        import torch

        return f"cuda:{self.local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else wanted


def processes() -> Processes:
    """Sets up the communication of a run of many processes, once; does nothing in a run of one."""
    if _number_of_processes() == 1:
        return Processes()
    import torch
    from accelerate import PartialState

    if _in_submitit():
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    here = one_of_many(os.environ)
    os.environ.update(here)
    try:
        socket.getaddrinfo(here["MASTER_ADDR"], here["MASTER_PORT"])  # which torch would try for minutes
        state = PartialState(cpu=not torch.cuda.is_available())
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{here['MASTER_ADDR']}:{here['MASTER_PORT']} (MASTER_ADDR, MASTER_PORT)"
        why = shown(next(iter(str(error).splitlines()), type(error).__name__), 200)
        raise UserError(f"the {here['WORLD_SIZE']} processes do not meet at {where}: {why}") from error
    local_world = int(here["LOCAL_WORLD_SIZE"])
    return Processes(state.process_index, state.num_processes, state.local_process_index, local_world)


def _number_of_processes() -> int:
    if _in_submitit():
        from submitit import JobEnvironment

        return JobEnvironment().num_tasks
    return int(one_of_many(os.environ).get("WORLD_SIZE", "1"))


def _in_submitit() -> bool:
    return "SUBMITIT_EXECUTOR" in os.environ and not os.environ.get("RANK")


def one_of_many(environment: Mapping[str, str]) -> dict[str, str]:
    """What torch must know about this process of many, by the variables of a launcher, srun or mpirun; alone, {}.

    Raises UserError if it is one of many and something is missing: no two processes may do the same work.
    """
    set_ = {name: value for name, value in environment.items() if value}
    if "SLURM_JOB_ID" in set_ and "SLURM_STEP_ID" not in set_:  # a batch script, whose tasks srun has yet to start
        set_ = {name: value for name, value in set_.items() if not name.startswith("SLURM_")}
    told = [{ours: set_[name] for ours, name in zip(TOLD, names, strict=True) if name in set_} for names in STARTERS]
    # Scripts for SLURM often set WORLD_SIZE alone: srun tells the rest.
    here = next((one for one in told if {"WORLD_SIZE", "RANK"} <= one.keys()), told[0])
    world = _number(here, "WORLD_SIZE", 1)
    if world == 1:
        return {}
    here |= {name: set_[name] for name in MEETING if name in set_}
    if missing := [name for name in (*TOLD[1:3], *MEETING) if name not in here]:
        raise UserError(f"this is one process of {world}, without {', '.join(missing)}: {START}")
    if max(_number(here, "RANK"), _number(here, "LOCAL_RANK")) >= world:
        raise UserError(f"RANK={here['RANK']}, LOCAL_RANK={here['LOCAL_RANK']}: expected 0 to {world - 1}; {START}")
    here["LOCAL_WORLD_SIZE"] = here.get("LOCAL_WORLD_SIZE", "1").partition("(")[0]  # SLURM's may be 4(x2)
    return here | {"LOCAL_WORLD_SIZE": str(max(1, _number(here, "LOCAL_WORLD_SIZE")))}


def _number(told: Mapping[str, str], name: str, default: int = 0) -> int:
    value = told.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", value) or (name == "WORLD_SIZE" and int(value) == 0):
        raise UserError(f"{name}={shown(value)}: expected a number; {START}")
    return int(value)


def first_process() -> bool:
    """Whether this process is number 0 of its run, as its launcher says, or runs alone."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def leave(code: int) -> NoReturn:
    """Ends this process.

    One of many does not clean up behind Python, where gloo aborts it now and then (torch 2.13).
    """
    if _number_of_processes() == 1:
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def refuse_many(what: str) -> None:
    """Raises UserError if this is one process of many: only batch divides its work."""
    if _number_of_processes() > 1:
        raise UserError(
            f"{what} runs in one process: start it with python, without a launcher (only stage=batch runs in many)"
        )


@contextmanager
def only_run(folder: Path, run: Processes, shard: Shard = WHOLE) -> Iterator[None]:
    """Within the block, no other run may enter it for the same folder; where files cannot be locked, it says so.

    Parts of the samples may be done beside each other, but not beside the whole. Raises UserError in all processes if
    another run is there already, or if a lock file cannot be opened.
    """
    lock = _lock(folder / shard.name(LOCK))
    try:
        run.first(partial(_take_alone, lock, folder, shard))
        yield
    finally:
        with suppress(OSError):  # it ends with the process
            lock.release()
        run.end()


def _lock(path: Path) -> BaseFileLock:
    return FileLock(path, timeout=0, fallback_to_soft=False)


def _take_alone(lock: BaseFileLock, folder: Path, shard: Shard) -> None:
    _take(lock, folder)
    others = [path for part, path in files_of_shards(folder, LOCK) if (part.of == 1) != (shard.of == 1)]
    for path in others:  # of the whole beside a part, of every part beside the whole
        other = _lock(path)
        _take(other, folder, 0 if shard.of == 1 else PATIENCE)
        other.release()


def _take(lock: BaseFileLock, folder: Path, patience: float = 0) -> None:
    elsewhere = "set data.output_dir to another folder"
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise UserError(f"another run writes to {folder}: wait for it, or {elsewhere}") from None
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno not in NO_LOCKS:
            hint = f"if no other run writes there, remove it, or {elsewhere}"
            raise UserError(f"{lock.lock_file}: cannot be locked ({why}); {hint}") from None
        log.warning("%s cannot be locked (%s): start no second run that writes there", folder, why)
