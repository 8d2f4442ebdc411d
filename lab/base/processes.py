"""One run in one process or in many: who this process is, what all of them found, and that no other run writes here.

Started by `accelerate launch --num_processes N` or by several tasks of a SLURM job, a process knows its number from the
environment; alone, it is number 0 of 1 and nothing is set up.
"""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from filelock import BaseFileLock, FileLock, Timeout

from lab.base.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
LOCK = ".running.lock"
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

    def share(self, batches: list[list[T]]) -> list[list[T]]:
        """The batches that are this process's to do. Their contents do not depend on the number of processes."""
        return batches[self.rank :: self.world]

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

    if "WORLD_SIZE" not in os.environ:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    state = PartialState(cpu=not torch.cuda.is_available())
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Processes(state.process_index, state.num_processes, state.local_process_index, local_world)


def _number_of_processes() -> int:
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SUBMITIT_EXECUTOR" in os.environ:
        from submitit import JobEnvironment

        return JobEnvironment().num_tasks
    return 1


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


def refuse_many(stage: str) -> None:
    """Raises UserError if this is one process of many: only batch divides its work."""
    if _number_of_processes() > 1:
        raise UserError(
            f"stage={stage} runs in one process: start it with python, without a launcher (only "
            "stage=batch runs in many)"
        )


@contextmanager
def only_run(folder: Path, run: Processes) -> Iterator[None]:
    """Within the block, no other run may enter it for the same folder; where files cannot be locked, it says so.

    Raises UserError in all processes if one is there already, or if the lock file cannot be opened.
    """
    lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        run.first(partial(_take, lock, folder))
        yield
    finally:
        with suppress(OSError):  # it ends with the process
            lock.release()
        run.end()


def _take(lock: BaseFileLock, folder: Path) -> None:
    elsewhere = "set data.output_dir to another folder"
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another run writes to {folder}: wait for it, or {elsewhere}") from None
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno not in NO_LOCKS:
            hint = f"if no other run writes there, remove it, or {elsewhere}"
            raise UserError(f"{folder / LOCK}: cannot be locked ({why}); {hint}") from None
        log.warning("%s cannot be locked (%s): start no second run that writes there", folder, why)
