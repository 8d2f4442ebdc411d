"""Which records of an earlier run will do, so that their samples need not be asked again."""

from collections.abc import Iterator, Sequence
from functools import partial

from conf.schema import Dtype
from lab.base.console import progress
from lab.base.errors import DiskFull, UserError, reason
from lab.base.workers import in_workers, worker_count
from lab.batch.job import BatchJob
from lab.batch.storage import serves
from lab.datasets import Sample
from lab.records.files import load_record
from lab.records.folder import ENDINGS, find_record
from lab.records.record import Record


def finish_records(job: BatchJob, samples: Sequence[Sample], *, workers: int) -> Iterator[tuple[Sample, str | None]]:
    """Finishes the samples whose record is there and will do; yields each with None, or with why that failed.

    They are read in worker processes. Raises DiskFull.
    """
    names = {sample.id: [job.folder / f"{sample.id}{ending}" for ending in ENDINGS] for sample in samples}
    there = [sample for sample in samples if any(path.exists() for path in names[sample.id])]
    outcomes = in_workers(partial(_finished, job=job), there, min(workers, worker_count(None, len(there))))
    for sample, (serves_again, error) in progress(outcomes, "resume", total=len(there)):
        if serves_again:
            yield sample, error


def _finished(sample: Sample, job: BatchJob) -> tuple[bool, str | None]:
    """Whether the record of an earlier run will do, and what went wrong when its results were written."""
    try:
        path = find_record(job.folder, sample.id)
        record = load_record(path, job.logic.grids) if path is not None else None
        if path is None or record is None or not _same_question(record, sample, job):
            return False, None
        if not serves(record, job.data, job.logic, job.choice):
            return False, None
    except UserError:
        return False, None
    try:
        job.finish(path, record, fresh=False)
    except DiskFull:
        raise
    except Exception as error:  # one sample must not end the others' run
        return True, reason(error)
    return True, None


def _same_question(record: Record, sample: Sample, job: BatchJob) -> bool:
    """Whether the record is of the same question, asked in the same way."""
    meta, model = record.meta, job.model
    same_sample = meta.get("query") == sample.query and meta.get("image_file") == str(sample.image_file)
    same_sample = same_sample and (sample.image_size is None or record.image_size in (None, sample.image_size))
    same_way = meta.get("conv_mode") == model.conv_mode and model.dtype in (Dtype.auto, meta.get("dtype"))
    answered = meta.get("generated_text") is not None or not model.use_generate
    return same_sample and same_way and answered and (record.generic is not None or not job.generic)
