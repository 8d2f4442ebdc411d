"""Sharp masks of a bulk run, made after all records are there: SAM and the model need not share the memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from analyze import rank_heads
from bbox import localize_record
from lab.base.console import progress
from lab.base.processes import Processes
from lab.batch.finished import Entry, entry
from lab.batch.job import BatchJob
from lab.batch.outcome import Outcome
from lab.datasets import Sample
from lab.records.files import load_record
from lab.records.folder import REFINED, find_record
from lab.refine.refiner import Refiner
from lab.stages.finish import Finish
from lab.stages.refining import Located, refine_files, sharp
from lab.stages.results import FigureOptions, picture_of, write_localization

if TYPE_CHECKING:
    from lab.refine.refined import Refined

DONE = "refined"  # of an entry whose sharp mask is there


def refine_finished(
    refiner: Refiner | None, job: BatchJob, samples: Iterable[Sample], group: Processes, outcome: Outcome
) -> None:
    """Sharp masks for those samples of this process that are finished and have none by today's rules.

    Raises NotWritten if several in a row could not be written.
    """
    finish = job.finish
    if refiner is None or not isinstance(finish, Finish) or not finish.locate:
        return
    waiting = {sample.id: sample for sample in samples if _waits(sample, outcome.finished.get(sample.id))}
    of = {path: one for one in waiting.values() if (path := find_record(job.folder, one.id)) is not None}
    figures = finish.figures

    def write(one: Located, refined: "Refined") -> list[Path]:
        return write_localization(one.path, one.record, one.result, job.logic, figures, sharp(refiner, refined))

    def read(path: Path) -> Located:
        return _located(path, finish, figures)

    files = refine_files(of, read, refiner, write)
    for path, result in progress(files, "refine", total=len(of)) if group.main else files:
        sample = of[path]
        if isinstance(result, list):
            known = [job.folder / name for name in outcome.finished[sample.id]["files"]]
            both = dict.fromkeys([*known, *result])
            outcome.finished[sample.id] = entry(job, sample, both) | {DONE: True}
            outcome.unwritten.count(None)
        else:
            outcome.undo(sample, result)


def _waits(sample: Sample, found: Entry | None) -> bool:
    """Whether a finished sample has no sharp mask yet, nor a reason why there is none."""
    return found is not None and DONE not in found and f"{sample.id}{REFINED}" not in found["files"]


def _located(path: Path, finish: Finish, figures: FigureOptions) -> Located:
    record = load_record(path, finish.logic)
    result = localize_record(record, rank_heads(record, finish.logic), finish.logic, finish.choice)
    return Located(path, record, result, picture_of(record, figures.image_file))
