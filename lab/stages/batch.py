"""stage=batch: one record and ranking for every line of a JSONL file."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.schema import Config
from lab.base.console import table
from lab.base.errors import DiskFull, UserError
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.base.processes import Processes, only_run, processes
from lab.base.workers import cores
from lab.batch.resume import finish_records
from lab.batch.run import BLOCK, Outcome, collect_rows
from lab.batch.storage import disk_use, tell_disk_use
from lab.datasets import Sample, read_jsonl
from lab.stages.common import load_model, make_folder, model_folder, wants_generic

if TYPE_CHECKING:
    from llava.model.loaded import LoadedModel


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
    run = processes()
    folder = make_folder(cfg) if run.main else model_folder(cfg)
    run.gather([0])  # until the folder is there
    with only_run(folder, run):
        began = time.time()
        found = run.gather([_run(cfg, folder, chosen, run)])
        if run.main:
            _conclude(cfg, folder, chosen, found, time.time() - began)
        run.gather([0])  # until the summary is there: a launcher may end everyone as soon as one process fails
    return 1 if any(one.errors for one in found) else 0


def _chosen(samples: list[Sample], cfg: Config) -> list[Sample]:
    if cfg.data.process_all:
        return samples
    start, stop = (
        cfg.data.start_index,
        cfg.data.end_index if cfg.data.end_index is not None else cfg.data.start_index + 1,
    )
    if start >= len(samples):
        raise UserError(f"data.start_index={start}: {cfg.data.data_file} has {len(samples)} samples, counted from 0")
    return samples[start:stop]


# one process


def _run(cfg: Config, folder: Path, chosen: Sequence[Sample], run: Processes) -> Outcome:
    """This process's share: what is there is ranked anew, the rest collected."""
    from lab.batch.rows import plan_rows

    outcome = Outcome()
    rows = plan_rows(chosen, share_image=cfg.data.share_image and not cfg.model.use_generate)
    block = cfg.data.batch_size or BLOCK
    mine = [row for rows in run.share([rows[i : i + block] for i in range(0, len(rows), block)]) for row in rows]
    try:
        done = _ranked_anew(cfg, folder, [sample for row in mine for sample in row], run, outcome)
        missing = [left for row in mine if (left := tuple(sample for sample in row if sample.id not in done))]
        if missing:
            loaded = load_model(cfg)
            if run.main:
                _tell_disk_use(
                    cfg, loaded, folder, min(len(chosen), run.world * sum(map(len, missing)))
                )  # of all, about
            collect_rows(cfg, loaded, folder, missing, run, outcome)
    except DiskFull as error:
        outcome.stopped = str(error)
    return outcome


def _ranked_anew(cfg: Config, folder: Path, samples: Sequence[Sample], run: Processes, outcome: Outcome) -> set[str]:
    """The ids of the samples whose records are there and were ranked by today's rules, or could not be."""
    done = set()
    for sample, error in finish_records(
        cfg, folder, samples, workers=cfg.data.workers or max(1, cores() // run.local_world)
    ):
        done.add(sample.id)
        if error is None:
            outcome.before += 1
        else:
            outcome.fail(sample, error)
    if done and run.main:
        log.info("%d of %d samples are collected already", len(done), len(samples))
    return done


def _tell_disk_use(cfg: Config, loaded: "LoadedModel", folder: Path, samples: int) -> None:
    shape, dtype = (loaded.num_layers, loaded.num_heads), str(loaded.dtype).removeprefix("torch.")
    tell_disk_use(
        disk_use(shape, loaded.geometry.tokens, dtype, cfg, samples=samples, generic=wants_generic(cfg)), folder
    )


# all processes


def _conclude(cfg: Config, folder: Path, chosen: Sequence[Sample], found: Sequence[Outcome], seconds: float) -> None:
    """Writes errors.jsonl and summary.json and prints the table. Raises DiskFull if the run had to stop."""
    errors = sorted((error for one in found for error in one.errors), key=lambda error: error["line"])
    new, before = sum(len(one.new) for one in found), sum(one.before for one in found)
    stopped = next((one.stopped for one in found if one.stopped), None)
    if stopped:
        left = len(chosen) - new - before
        raise DiskFull(f"{stopped}; {left} of {len(chosen)} samples are missing; the same command continues with them")
    write_atomic(folder / "errors.jsonl", "".join(json.dumps(e) + "\n" for e in errors))
    summary = {
        "data_file": str(cfg.data.data_file),
        "model": cfg.model.name,
        "samples": len(chosen),
        "done": new + before,
        "skipped": before,
        "failed": len(errors),
        "seconds": round(seconds, 2),
        "processes": len(found),
        "waited": [one.waited for one in found],
    }
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1))
    print(
        table(
            ("samples", "done now", "done before", "failed", "seconds"),
            [(len(chosen), new, before, len(errors), summary["seconds"])],
        )
    )
    print(f"\nwrote {folder} (summary.json{', errors.jsonl lists what failed' if errors else ''})")
