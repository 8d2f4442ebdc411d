"""stage=batch: one record and ranking for every line of a JSONL file, the model loaded once."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analyze import rank_heads
from conf.schema import Config
from lab.cli import find, progress, table
from lab.datasets import Sample, read_jsonl
from lab.errors import UserError
from lab.images import open_image
from lab.records import Record, load_record, save_record, write_atomic
from lab.stages import (
    box_json,
    figure_files,
    load_model,
    localize_record,
    make_folder,
    model_folder,
    sibling,
    write_localization,
    write_ranking,
)

log = logging.getLogger(__name__)


def read_samples(path: Path, *, final_period: bool = False) -> list[Sample]:
    """The samples of a JSONL file; lab.datasets.jsonl tells its keys. Raises UserError naming the line that is wrong."""
    if not path.exists():
        raise UserError(f"no data file {path}: set data.data_file to a JSONL file")
    return read_jsonl(path, final_period=final_period)


def run_batch(cfg: Config) -> int:
    """Collects and analyses every chosen sample that is not done yet; returns 1 if any failed, else 0."""
    if cfg.data.data_file is None:
        raise UserError("no data file: set data.data_file=samples.jsonl")
    chosen = _chosen(read_samples(find(cfg.data.data_file), final_period=cfg.data.final_period), cfg)
    began = time.time()
    todo = {sample.id for sample in chosen if not _collected(model_folder(cfg), sample, cfg)}
    if len(todo) < len(chosen):
        log.info("%d of %d samples are collected already", len(chosen) - len(todo), len(chosen))
    loaded = load_model(cfg) if todo else None
    folder = make_folder(cfg)
    errors = list(_run(cfg, folder, chosen, todo, loaded))
    write_atomic(folder / "errors.jsonl", "".join(json.dumps(e) + "\n" for e in errors))
    skipped = len({sample.id for sample in chosen} - todo - {error["id"] for error in errors})
    summary = {
        "data_file": str(cfg.data.data_file),
        "model": cfg.model.name,
        "samples": len(chosen),
        "done": len(chosen) - len(errors),
        "skipped": skipped,
        "failed": len(errors),
        "seconds": round(time.time() - began, 2),
    }
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1))
    print(
        table(
            ("samples", "done now", "done before", "failed", "seconds"),
            [(len(chosen), len(chosen) - len(errors) - skipped, skipped, len(errors), summary["seconds"])],
        )
    )
    print(f"\nwrote {folder} (summary.json{', errors.jsonl lists what failed' if errors else ''})")
    return 1 if errors else 0


def _chosen(samples: list[Sample], cfg: Config) -> list[Sample]:
    if cfg.data.process_all:
        return samples
    start, stop = cfg.data.start_index, cfg.data.end_index if cfg.data.end_index is not None else cfg.data.start_index + 1
    if start >= len(samples):
        raise UserError(f"data.start_index={start}: {cfg.data.data_file} has {len(samples)} samples, counted from 0")
    return samples[start:stop]


def _collected(folder: Path, sample: Sample, cfg: Config) -> bool:
    """Whether an earlier run left a valid record of the same question, asked in the same way."""
    path = folder / f"{sample.id}.pkl"
    if not path.exists():
        return False
    try:
        meta = load_record(path).meta
    except UserError:
        return False
    same_way = meta.get("conv_mode") == cfg.model.conv_mode and cfg.model.dtype in ("auto", meta.get("dtype"))
    answered = meta.get("generated_text") is not None or not cfg.model.use_generate
    return meta.get("query") == sample.query and meta.get("image_file") == str(sample.image_file) and same_way and answered


def _run(cfg: Config, folder: Path, samples: list[Sample], todo: set[str], loaded: Any) -> Iterator[dict[str, object]]:
    """Collects the samples of `todo` with the `loaded` model, ranks every one. Yields a line of errors.jsonl for each that failed."""
    for sample in progress(samples, "batch"):
        path = folder / f"{sample.id}.pkl"
        try:
            if sample.id in todo:
                from collector import collect

                record = collect(loaded, open_image(sample.image_file), sample.query, cfg.model, image_file=str(sample.image_file))
                save_record(path, record)
            else:
                record = load_record(path)
            _finish(cfg, path, record, fresh=sample.id in todo)
        except UserError as error:
            log.error("%s: %s", sample.id, error)
            yield {"id": sample.id, "line": sample.line, "error": str(error)}
        except Exception as error:  # one sample must not end the others' run
            log.exception("%s", sample.id)
            yield {"id": sample.id, "line": sample.line, "error": f"{type(error).__name__}: {error}"}


def _finish(cfg: Config, path: Path, record: Record, *, fresh: bool) -> None:
    """Ranking and, if asked for, mask, box and figure; the latter are left alone if they are what they would become."""
    ranking = rank_heads(record, cfg.logic)
    write_ranking(path, ranking)
    if not cfg.data.visualize_batch:
        return
    result = localize_record(record, ranking, cfg)
    box, mask, *figures = sibling(path, "_bbox.json"), sibling(path, "_mask.png"), *figure_files(cfg, path, result)
    there = box.exists() and mask.exists() and (not cfg.save_fig or all(figure.exists() for figure in figures))
    if fresh or not there or box.read_text() != box_json(record, result):
        write_localization(cfg, path, record, result)
