"""stage=batch: one record and ranking for every line of a JSONL file, the model loaded once, in one process or in many.

    python pipeline.py stage=batch data.data_file=samples.jsonl
    accelerate launch --num_processes 8 pipeline.py stage=batch data.data_file=samples.jsonl

`summary.json` tells how long each process was busy, and how long its model waited for images and writers;
`errors.jsonl` lists the samples that failed. With `data.shard=k/n` the job does its part alone, and its files have the
part in their names.
"""

import json
import logging
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from conf.schema import END, SHARDS, Config, DataConfig, Refine
from lab.attention.tokens import most_tokens
from lab.base.console import table
from lab.base.errors import NotWritten, UserError
from lab.base.files import check_writable, write_atomic
from lab.base.numbers import many
from lab.base.paths import find
from lab.base.processes import Processes, only_run, processes
from lab.base.shards import ERRORS, FINISHED, LOCK, SUMMARY, Shard, remove_otherwise_divided
from lab.base.workers import cores
from lab.batch.dealing import share_of
from lab.batch.finished import write_finished
from lab.batch.job import BatchJob
from lab.batch.outcome import Outcome
from lab.batch.plan import Rows, plan_rows
from lab.batch.resume import finish_records
from lab.batch.run import BLOCK, collect_rows
from lab.batch.storage import disk_use, tell_disk_use
from lab.datasets import Sample, read_samples
from lab.datasets.stream import SampleFile, Source
from lab.heads.choice import HeadChoice
from lab.records.shards import FOLDER, remove_superseded
from lab.stages import common
from lab.stages.common import make_folder, model_folder, wants_generic
from lab.stages.finish import Finish
from lab.stages.refining import UNREFINED, list_unrefined, refiner_of
from lab.stages.sharp_batch import refine_finished

if TYPE_CHECKING:
    from llava.family import LoadedModel


log = logging.getLogger(__name__)


def run(config: Config, choice: HeadChoice) -> int:
    """Collects and analyses every chosen sample that is not done yet; returns 1 if any failed, else 0."""
    if config.data.data_file is None:
        raise UserError("no data file: set data.data_file=samples.jsonl")
    _check_masks(config, choice)
    chosen = chosen_samples(config.data)
    group = processes()
    folder = model_folder(config)
    group.first(partial(_begin, config))
    shard = Shard.read(config.data.shard)
    with only_run(folder, group, shard):
        group.first(partial(remove_otherwise_divided, folder, shard))
        began = time.time()
        found = group.gather([_share(config, choice, folder, chosen, group)])
        # The others wait: a launcher may end everyone as soon as one process fails.
        group.first(lambda: _conclude(config, folder, chosen.source, found, time.time() - began))
    return 1 if any(one.errors for one in found) else 0


def _check_masks(config: Config, choice: HeadChoice) -> None:
    """Raises UserError if this run is to make sharp masks, but no masks beside which they could lie."""
    if config.stage == "batch" and config.logic.refine != Refine.none and not Finish.of(config, choice).locate:
        keys = "data.save_masks=true, data.save_attention to all or selected, and data.record_format to single files"
        raise UserError(f"logic.refine=sam makes its masks beside the grid's, of which this run makes none: set {keys}")


def _begin(config: Config) -> None:
    """Makes the folder. Raises UserError if what the run writes could not be put there."""
    shard = Shard.read(config.data.shard)
    check_writable(model_folder(config), *map(shard.name, (SUMMARY, ERRORS, FINISHED)))
    if config.data.record_format == SHARDS:
        check_writable(model_folder(config) / FOLDER)
    make_folder(replace(config, data=replace(config.data, shard=None)))  # the same for all parts


def collect_first(config: Config, choice: HeadChoice) -> bool:
    """With `data.process_all`: collects what is missing. Whether a sample failed."""
    if not config.data.process_all:
        return False
    refuse_two_sources(config.data)
    return run(config, choice) != 0


def refuse_two_sources(data: DataConfig) -> None:
    """Raises UserError if records are to be read from a folder and collected from a data file at once."""
    if data.attention_dir is not None:
        both = "data.attention_dir names a folder to read, data.process_all=true a data file to collect"
        raise UserError(f"{both}: give one of the two")


def chosen_samples(data: DataConfig) -> SampleFile:
    """The samples of the data file, all of them or those from `start_index` to `end_index`."""
    samples = read_samples(find(str(data.data_file)), final_period=data.final_period)
    a_range = data.start_index > 0 or data.end_index is not None
    if data.process_all or (data.process_all is None and not a_range):
        return samples
    start = data.start_index
    stop = start + 1 if data.end_index is None else len(samples) if data.end_index == END else data.end_index
    if start >= len(samples):
        raise UserError(
            f"data.start_index={start}: {data.data_file} has {many(len(samples), 'sample')}, counted from 0"
        )
    return samples[start:stop]


def batch_job(config: Config, choice: HeadChoice, folder: Path) -> BatchJob:
    """What a bulk run asks and writes, as a configuration says."""
    finish, generic = Finish.of(config, choice), wants_generic(config)
    return BatchJob(folder, config.model, config.data, config.logic, choice, finish, generic, windows=config.show_plot)


# one process


def _share(config: Config, choice: HeadChoice, folder: Path, chosen: Sequence[Sample], group: Processes) -> Outcome:
    """This process's share: records that are there get today's ranking, and the missing ones are collected."""
    job, refiner = batch_job(config, choice, folder), refiner_of(config)
    mine = _rows(config, chosen, group)
    numbers = mine.numbers
    outcome, began = Outcome(len(numbers)), time.monotonic()
    try:
        done = np.zeros(len(chosen), bool)
        done[numbers[_finish_found(job, mine, group, outcome)]] = True
        missing = mine.without(done)
        if len(missing):
            loaded = common.model_with_heads(config, choice)
            if group.main:
                about = group.world * len(missing.numbers)  # of all processes
                _tell_disk_use(job, loaded, (sample.query for sample in missing.asked()), about)
            collect_rows(job, loaded, missing, group, outcome)
            del loaded  # its memory is for SAM
        refine_finished(refiner, job, mine.asked(), group, outcome)
    except NotWritten as error:
        outcome.stopped = error
    outcome.busy = time.monotonic() - began
    return outcome


def _rows(config: Config, chosen: Sequence[Sample], group: Processes) -> Rows:
    """What this process asks: its share of the blocks that this job has of all samples."""
    shard = Shard.read(config.data.shard)
    rows = plan_rows(chosen, share_image=config.data.share_image and not config.model.answers)
    block = config.data.batch_size or BLOCK
    rows = rows[share_of(rows.costs, block, shard.number - 1, shard.of)]
    return rows[share_of(rows.costs, block, group.rank, group.world)]


def _finish_found(job: BatchJob, rows: Rows, group: Processes, outcome: Outcome) -> Int[np.ndarray, " done"]:
    """Ranks the records of an earlier run by today's rules. Which of the samples those are, failed ones among them."""
    done = array("q")
    workers = job.data.workers or max(1, cores() // group.local_world)
    for number, sample, result in finish_records(job, rows.asked(), workers=workers):
        done.append(number)
        outcome.before += outcome.take(sample, result)
    if done and group.main:
        log.info("%d of %d samples are collected already", len(done), outcome.samples)
    return np.frombuffer(done, np.int64)


def _tell_disk_use(job: BatchJob, loaded: "LoadedModel", queries: Iterable[str], samples: int) -> None:
    shape, dtype = (loaded.num_layers, loaded.num_heads), str(loaded.dtype).removeprefix("torch.")
    tokens = loaded.geometry.tokens
    use = disk_use(
        shape,
        tokens,
        dtype,
        job.data,
        job.choice,
        samples=samples,
        generic=job.generic,
        read=most_tokens(job.model, queries, loaded.tokenizer),
    )
    tell_disk_use(use, job.folder)


# all processes


def _conclude(config: Config, folder: Path, source: Source, found: Sequence[Outcome], seconds: float) -> None:
    """Writes what all processes did and prints the table. Raises NotWritten if the run had to stop."""
    shard, samples = Shard.read(config.data.shard), sum(one.samples for one in found)
    errors = sorted((error for one in found for error in one.errors), key=lambda error: error["line"])
    new, before = sum(len(one.new) + one.packed for one in found), sum(one.before for one in found)
    finished = {sample: entry for one in found for sample, entry in one.finished.items()}
    if stopped := next((one.stopped for one in found if one.stopped), None):
        there = (folder / shard.name(LOCK)).exists()  # else the folder was removed, and all that was written
        if there:
            with suppress(NotWritten):
                write_finished(folder, finished, shard)
        left = samples - new - before if there else samples
        missing = f"{left} of {samples} samples are missing; the same command continues with them"
        raise type(stopped)(f"{stopped}; {missing}")
    write_finished(folder, finished, shard)
    if config.data.record_format == SHARDS:
        remove_superseded(folder)
    if config.logic.refine != Refine.none:
        list_unrefined(folder / shard.name(UNREFINED), [folder / name for name in finished])
    else:
        (folder / shard.name(UNREFINED)).unlink(missing_ok=True)  # of an earlier run
    listed = [error | dict(zip(("file", "line"), source.place(error["line"]), strict=True)) for error in errors]
    write_atomic(folder / shard.name(ERRORS), "".join(json.dumps(one, default=str) + "\n" for one in listed))
    summary = {
        "data_file": str(config.data.data_file),
        "model": config.model.name,
        "samples": samples,
        "done": new + before,
        "skipped": before,
        "failed": len(errors),
        "seconds": round(seconds, 2),
        "processes": len(found),
        "busy": [round(one.busy, 2) for one in found],
        "waited": [one.waited for one in found],
    } | ({} if shard.of == 1 else {"shard": str(shard)})
    write_atomic(folder / shard.name(SUMMARY), json.dumps(summary, indent=1))
    row = (samples, new, before, len(errors), summary["seconds"])
    print(table(("samples", "done now", "done before", "failed", "seconds"), [row]))
    print(f"\nwrote {folder} ({shard.name(SUMMARY)}{f', {shard.name(ERRORS)} lists what failed' if errors else ''})")
