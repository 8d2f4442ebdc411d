"""What a run does with a record, new or found: rank it and, if asked for, draw it; and which records of an earlier run
will do.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from conf.schema import Config
from lab.base.console import progress
from lab.base.errors import DiskFull, UserError, reason
from lab.base.workers import in_workers, worker_count
from lab.batch.storage import serves
from lab.datasets import Sample
from lab.records.files import load_record
from lab.records.folder import ENDINGS, find_record
from lab.records.record import Record
from lab.stages.common import wants_generic
from lab.stages.finish import finish


def finish_records(
    cfg: Config, folder: Path, samples: Sequence[Sample], *, workers: int
) -> Iterator[tuple[Sample, str | None]]:
    """The samples whose record is there and will do, each with None if it is finished or else why it could not be.

    They are read in worker processes. Raises DiskFull.
    """
    files = [sample for sample in samples if any((folder / f"{sample.id}{ending}").exists() for ending in ENDINGS)]
    outcomes = in_workers(
        partial(_finished, cfg=cfg, folder=folder), files, min(workers, worker_count(None, len(files)))
    )
    for sample, (there, error) in progress(outcomes, "resume", total=len(files)):
        if there:
            yield sample, error


def _finished(sample: Sample, cfg: Config, folder: Path) -> tuple[bool, str | None]:
    try:
        path = find_record(folder, sample.id)
        record = load_record(path) if path is not None else None
        if path is None or record is None or not _same_question(record, sample, cfg) or not serves(record, cfg):
            return False, None
    except UserError:
        return False, None
    try:
        finish(cfg, path, record, fresh=False)
    except DiskFull:
        raise
    except Exception as error:  # one sample must not end the others' run
        return True, reason(error)
    return True, None


def _same_question(record: Record, sample: Sample, cfg: Config) -> bool:
    """Whether the record is of the same question, asked in the same way."""
    meta = record.meta
    same_sample = meta.get("query") == sample.query and meta.get("image_file") == str(sample.image_file)
    same_way = meta.get("conv_mode") == cfg.model.conv_mode and cfg.model.dtype in ("auto", meta.get("dtype"))
    answered = meta.get("generated_text") is not None or not cfg.model.use_generate
    return same_sample and same_way and answered and (record.generic is not None or not wants_generic(cfg))
