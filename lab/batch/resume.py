"""Which records of an earlier run can be kept, so that their samples need not be asked again."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from conf.schema import Dtype
from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.workers import in_workers, worker_count
from lab.batch.finished import IN_SHARD, Result, attempt, digest, entry, is_finished, read_finished
from lab.batch.job import BatchJob
from lab.batch.storage import serves
from lab.datasets import Sample
from lab.records.files import load_record
from lab.records.folder import ENDINGS, find_record, packed_records
from lab.records.record import Record
from llava.conversation import ANSWERED_WITH, ASKED_WITH, FAMILY_TEMPLATES, asked_with


def finish_records(job: BatchJob, samples: Iterable[Sample], *, workers: int) -> Iterator[tuple[int, Sample, Result]]:
    """Finishes the samples whose record can be kept; yields the number of each among them, it, and its entry or the
    reason why that failed.

    Those that are finished by the same rules are not read. The others are, in worker processes. Raises DiskFull.
    """
    known, packed = read_finished(job.folder), packed_records(job.folder)
    alone = _record_files(job.folder) if job.in_shards else frozenset()
    others: list[tuple[int, Sample, bool]] = []
    for number, sample in enumerate(samples):
        own = any(f"{sample.id}{ending}" in alone for ending in ENDINGS)  # counts before what a shard holds
        if job.in_shards and not own and packed.by(sample.id) == digest(job, sample):
            yield number, sample, IN_SHARD
        elif is_finished(known.get(sample.id), job, sample):
            yield number, sample, known[sample.id]
        elif sample.id in packed or any((job.folder / f"{sample.id}{ending}").exists() for ending in ENDINGS):
            others.append((number, sample, sample.id in known))
    outcomes = in_workers(partial(_finished, job=job), others, min(workers, worker_count(None, len(others))))
    for (number, sample, _), outcome in progress(outcomes, "resume", total=len(others)):
        if outcome is not None:
            yield number, sample, outcome


def _record_files(folder: Path) -> frozenset[str]:
    """The files of a folder that may be records; there are few where records are in shards."""
    with suppress(FileNotFoundError):
        return frozenset(path.name for path in folder.iterdir() if path.name.endswith(ENDINGS))
    return frozenset()


def _finished(found: tuple[int, Sample, bool], job: BatchJob) -> Result | None:
    """The sample's entry, or what went wrong when its results were written; None if its record cannot be kept.

    `found` also tells whether its files have changed since they were finished, or are by other rules.
    """
    _, sample, changed = found
    try:
        path = find_record(job.folder, sample.id)
        record = load_record(path, job.logic) if path is not None else None
        if path is None or record is None or not _same_question(record, sample, job):
            return None
        if not serves(record, job.data, job.logic, job.choice):
            return None
    except UserError:
        return None
    return attempt(lambda: entry(job, sample, job.finish(path, record, fresh=changed)))


def _same_question(record: Record, sample: Sample, job: BatchJob) -> bool:
    """Whether the record is of the same question, asked in the same way."""
    meta, model = record.meta, job.model
    same_sample = meta.get("query") == sample.query and meta.get("image_file") == str(sample.image_file)
    same_sample = same_sample and (sample.image_size is None or record.image_size in (None, sample.image_size))
    templates = (model.conv_mode,) if model.conv_mode else FAMILY_TEMPLATES
    same_way = meta.get("conv_mode") in templates and model.dtype in (Dtype.auto, meta.get("dtype"))
    names = (*ASKED_WITH, *(ANSWERED_WITH if model.answers else ()))
    same_way = same_way and {name: meta[name] for name in names if name in meta} == asked_with(model)
    same_way = same_way and meta.get("read", "last") == model.read
    answered = meta.get("generated_text") is not None or not model.answers
    return same_sample and same_way and answered and (record.generic is not None or not job.generic)
