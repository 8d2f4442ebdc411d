"""stage=batch: one record and ranking for every line of a JSONL file, the model loaded once."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from analyze import rank_heads
from conf.schema import Config
from lab.cli import find, progress, table
from lab.datasets import Sample, read_jsonl
from lab.errors import UserError
from lab.images import open_image
from lab.records import load_record, save_record, write_atomic
from lab.stages import load_model, localize_record, make_folder, sibling, write_localization, write_ranking

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
    folder = make_folder(cfg)
    began = time.time()
    todo = [sample for sample in chosen if not _done(folder, sample, cfg)]
    if len(todo) < len(chosen):
        log.info("%d of %d samples are done already", len(chosen) - len(todo), len(chosen))
    errors = list(_run(cfg, folder, todo))
    write_atomic(folder / "errors.jsonl", "".join(json.dumps(e) + "\n" for e in errors))
    summary = {
        "data_file": str(cfg.data.data_file),
        "model": cfg.model.name,
        "samples": len(chosen),
        "done": len(chosen) - len(errors),
        "skipped": len(chosen) - len(todo),
        "failed": len(errors),
        "seconds": round(time.time() - began, 2),
    }
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1))
    print(
        table(
            ("samples", "done now", "done before", "failed", "seconds"),
            [(len(chosen), len(todo) - len(errors), len(chosen) - len(todo), len(errors), summary["seconds"])],
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


def _done(folder: Path, sample: Sample, cfg: Config) -> bool:
    """Whether an earlier run left a valid record of the same question and everything that goes with it."""
    path = folder / f"{sample.id}.pkl"
    wanted = [path, sibling(path, "_analysis.json")]
    if cfg.data.visualize_batch:
        wanted += [sibling(path, "_mask.png"), sibling(path, "_bbox.json")]
    if not all(p.exists() for p in wanted):
        return False
    try:
        meta = load_record(path).meta
    except UserError:
        return False
    return meta.get("query") == sample.query and meta.get("image_file") == str(sample.image_file)


def _run(cfg: Config, folder: Path, samples: list[Sample]) -> Iterator[dict[str, object]]:
    """Yields what to write into errors.jsonl, one entry for every sample that failed."""
    if not samples:
        return
    from collector import collect

    loaded = load_model(cfg)
    for sample in progress(samples, "batch"):
        path = folder / f"{sample.id}.pkl"
        try:
            record = collect(loaded, open_image(sample.image_file), sample.query, cfg.model, image_file=str(sample.image_file))
            save_record(path, record)
            ranking = rank_heads(record, cfg.logic)
            if cfg.data.visualize_batch:
                write_localization(cfg, path, record, localize_record(record, ranking, cfg))
            write_ranking(path, ranking)
        except UserError as error:
            log.error("%s: %s", sample.id, error)
            yield {"id": sample.id, "line": sample.line, "error": str(error)}
