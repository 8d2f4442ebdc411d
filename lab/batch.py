"""stage=batch: one record and ranking for every line of a JSONL file, the model loaded once, in one process or in many.

    python pipeline.py stage=batch data.data_file=samples.jsonl data.process_all=true
    accelerate launch --num_processes 8 pipeline.py stage=batch data.data_file=samples.jsonl data.process_all=true

Images are read ahead in worker processes, expressions on one image are asked together, and records are written while the model
goes on, by a thread or, beside a GPU, by processes; `summary.json` tells how long it waited for them. Batches are planned from all
samples before anything runs, so that a record does not depend on the number of processes.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.schema import Config
from lab.cli import find, progress, table
from lab.datasets import Sample, read_jsonl
from lab.errors import DiskFull, UserError, reason
from lab.memory import keep_freed_memory
from lab.processes import Processes, only_run, processes
from lab.records import write_atomic
from lab.resume import finish, finish_records
from lab.stages import load_model, make_folder, model_folder, wants_generic
from lab.storage import as_stored, disk_use, tell_disk_use, write_record
from lab.workers import cores, done_elsewhere
from lab.writer import Writer

if TYPE_CHECKING:
    from collector import Answers
    from lab.asking import Asking
    from lab.feed import Prepared, Row
    from lab.records import Record
    from llava.model.loaded import LoadedModel

    Written = tuple[Row, Sequence[Record]]  # samples and their records
    Problems = list[str | DiskFull | None]
    Write = Callable[[Written], Problems]

log = logging.getLogger(__name__)

BLOCK = 8  # rows of samples that one process takes at a time; automatic batches are parts of it
AHEAD = 8  # rows that may wait for the writers
MOST_WORKERS, MOST_WRITERS = 8, 4  # processes that read images, that write records


@dataclass
class Outcome:
    """What one process did."""

    new: list[str] = field(default_factory=list)  # ids of the samples collected; threads append to it
    before: int = 0  # samples whose record was there
    errors: list[dict[str, Any]] = field(default_factory=list)  # lines of errors.jsonl
    waited: dict[str, float] = field(default_factory=dict)  # seconds that the model stood still, and what for
    stopped: str | None = None  # why the run had to end early

    def fail(self, sample: Sample, why: str) -> None:
        log.error("%s: %s", sample.id, why)
        self.errors.append({"id": sample.id, "line": sample.line, "error": why})


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
    start, stop = cfg.data.start_index, cfg.data.end_index if cfg.data.end_index is not None else cfg.data.start_index + 1
    if start >= len(samples):
        raise UserError(f"data.start_index={start}: {cfg.data.data_file} has {len(samples)} samples, counted from 0")
    return samples[start:stop]


# one process


def _run(cfg: Config, folder: Path, chosen: Sequence[Sample], run: Processes) -> Outcome:
    """This process's share: what is there is ranked anew, the rest collected."""
    from lab.feed import plan_rows

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
                _tell_disk_use(cfg, loaded, folder, min(len(chosen), run.world * sum(map(len, missing))))  # of all, about
            collect_rows(cfg, loaded, folder, missing, run, outcome)
    except DiskFull as error:
        outcome.stopped = str(error)
    return outcome


def _ranked_anew(cfg: Config, folder: Path, samples: Sequence[Sample], run: Processes, outcome: Outcome) -> set[str]:
    """The ids of the samples whose records are there and were ranked by today's rules, or could not be."""
    done = set()
    for sample, error in finish_records(cfg, folder, samples, workers=cfg.data.workers or max(1, cores() // run.local_world)):
        done.add(sample.id)
        if error is None:
            outcome.before += 1
        else:
            outcome.fail(sample, error)
    if done and run.main:
        log.info("%d of %d samples are collected already", len(done), len(samples))
    return done


def collect_rows(cfg: Config, loaded: "LoadedModel", folder: Path, rows: "Sequence[Row]", run: Processes, outcome: Outcome) -> None:
    """Collects, ranks and writes the samples of some rows; what fails, and what the model waited for, goes into `outcome`."""
    from lab.asking import Asking, automatic_size
    from lab.feed import Preparing, feed

    size = cfg.data.batch_size or min(BLOCK, automatic_size(loaded))
    apart = cfg.model.use_generate or (size == 1 and not cfg.data.share_image)
    asking = Asking(loaded, cfg.model, size=1 if apart else size, grows=cfg.data.batch_size is None, apart=apart)
    accelerated = loaded.device.type != "cpu"
    if not accelerated:
        keep_freed_memory()
    mine = max(1, cores() // run.local_world)
    workers = cfg.data.workers if cfg.data.workers is not None else min(MOST_WORKERS, mine - 1) if accelerated else 0
    waiting = Waiting(feed(Preparing(rows, loaded, cfg.model, generic=wants_generic(cfg)), workers=workers, pin=accelerated))
    threads, elsewhere = writers(cfg, mine, accelerated=accelerated)
    with (
        done_elsewhere(partial(write_row, cfg=cfg, folder=folder), elsewhere) as write,
        Writer(threads=threads, ahead=AHEAD) as writer,
    ):
        answered = _answered(asking, waiting, write, writer, outcome)
        for _ in progress(answered, "collect", total=sum(map(len, rows))) if run.main else answered:
            pass
    outcome.waited = {"images": round(waiting.seconds, 2), "writer": round(writer.waited, 2)}


def _tell_disk_use(cfg: Config, loaded: "LoadedModel", folder: Path, samples: int) -> None:
    shape, dtype = (loaded.num_layers, loaded.num_heads), str(loaded.dtype).removeprefix("torch.")
    tell_disk_use(disk_use(shape, loaded.geometry.tokens, dtype, cfg, samples=samples, generic=wants_generic(cfg)), folder)


class Waiting:
    """Prepared rows, and the seconds that were spent waiting for them."""

    def __init__(self, rows: "Iterator[Prepared]") -> None:
        self.rows, self.seconds = rows, 0.0

    def __iter__(self) -> "Waiting":
        return self

    def __next__(self) -> "Prepared":
        began = time.perf_counter()
        try:
            return next(self.rows)
        finally:
            self.seconds += time.perf_counter() - began


def writers(cfg: Config, cores: int, *, accelerated: bool) -> tuple[int, int]:
    """How many threads hand answers over, and how many processes rank and write them; with 0 processes the threads do it.

    A GPU can answer more in a second than one process can rank and write; a CPU cannot.
    """
    if cfg.show_plot:  # windows can be opened from the main thread only
        return 0, 0
    most = MOST_WRITERS if cfg.data.workers is None else min(MOST_WRITERS, cfg.data.workers)
    processes = min(most, cores // 4) if accelerated and most > 1 else 0
    return max(1, processes), processes


def _answered(asking: "Asking", prepared: "Iterator[Prepared]", write: "Write", writer: Writer, outcome: Outcome) -> Iterator[Sample]:
    """The samples, one after the other, as they are answered and handed to the writer, or have failed."""
    for row, answers, number in asking.answers(prepared):
        for sample, why in row.failed:
            outcome.fail(sample, why)
            yield sample
        if answers is not None:
            writer.put(partial(_hand_over, write, row.samples, answers, number, outcome))
            yield from row.samples


def _hand_over(write: "Write", samples: "Row", answers: "Answers", number: int, outcome: Outcome) -> None:
    """Waits for the answers of one row and has them written; runs in a writer's thread. Raises DiskFull."""
    for sample, problem in zip(samples, write((samples, answers.of(number))), strict=False):  # it ends early if the disk is full
        if isinstance(problem, DiskFull):
            raise problem
        if problem is None:
            outcome.new.append(sample.id)
        else:
            outcome.fail(sample, problem)


def write_row(written: "Written", cfg: Config, folder: Path) -> "Problems":
    """Ranks the records of some samples and writes their files; for each sample None, or why it failed. A full disk ends the list."""
    problems: Problems = []
    for sample, record in zip(*written, strict=True):
        try:
            record = as_stored(record, cfg)
            finish(cfg, write_record(folder, sample.id, record, cfg), record, fresh=True)
            problems.append(None)
        except DiskFull as error:
            return [*problems, error]
        except Exception as error:  # one sample must not end the others' run
            problems.append(reason(error))
    return problems


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
