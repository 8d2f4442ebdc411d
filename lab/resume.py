"""What a run does with a record, new or found: rank it and, if asked for, draw it; and which records of an earlier run will do."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from analyze import rank_heads
from conf.schema import Config
from lab.cli import progress
from lab.datasets import Sample
from lab.errors import DiskFull, UserError, reason
from lab.records import Record, load_record
from lab.stages import box_json, figure_files, localize_record, sibling, wants_generic, write_localization, write_ranking
from lab.storage import ENDINGS, find_record, serves
from lab.workers import in_workers, worker_count

DRAWING = threading.Lock()  # matplotlib is not made for threads


def finish_records(cfg: Config, folder: Path, samples: Sequence[Sample], *, workers: int) -> Iterator[tuple[Sample, str | None]]:
    """The samples whose record is there and will do, each with None if it is finished or else why it could not be.

    They are read in worker processes. Raises DiskFull.
    """
    files = [sample for sample in samples if any((folder / f"{sample.id}{ending}").exists() for ending in ENDINGS)]
    outcomes = in_workers(partial(_finished, cfg=cfg, folder=folder), files, min(workers, worker_count(None, len(files))))
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


def finish(cfg: Config, path: Path, record: Record, *, fresh: bool) -> None:
    """Ranking and, if asked for, mask, box and figure; the latter are left alone if they are what they would become."""
    ranking = rank_heads(record, cfg.logic)
    write_ranking(path, ranking)
    if not cfg.data.visualize_batch:
        return
    result = localize_record(record, ranking, cfg)
    box, mask, *figures = sibling(path, "_bbox.json"), sibling(path, "_mask.png"), *figure_files(cfg, path, result)
    there = box.exists() and mask.exists() and (not cfg.save_fig or all(figure.exists() for figure in figures))
    if fresh or not there or box.read_text() != box_json(record, result):
        with DRAWING:
            write_localization(cfg, path, record, result)
