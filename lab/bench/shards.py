"""What a folder of very many samples takes: the scores of LLaVA-1.5-7B's heads in shards, and a run that resumes.

The records are made up: the same few maps under as many names as samples are wanted. No model is loaded.
"""

import json
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from conf.schema import configuration
from lab.base.paths import PROJECT
from lab.batch.finished import digest
from lab.batch.job import BatchJob
from lab.batch.storage import as_stored
from lab.bench import ranking
from lab.bench.usage import Usage, usage
from lab.datasets import read_samples
from lab.heads.choice import head_choice
from lab.records.folder import pack_record
from lab.records.record import Record
from lab.records.shards import FOLDER, RECORDS, write_shard
from lab.stages.batch import batch_job
from lab.stages.common import model_folder

KEYS = ("model=llava15_7b", "data.save_attention=none", "data.record_format=shards", "save_fig=false")
DIFFERENT = 32  # records
EXPRESSIONS = 7  # of a picture
SELECTED = 1000  # samples that stage=select wants unless it is told otherwise


def measure(folder: Path, number: int) -> tuple[dict[str, float], dict[str, Usage]]:
    """Figures of a folder of so many samples, and what each command over it takes, start-up included."""
    keys, figures = fill(folder, number)
    commands = {stage: [sys.executable, "pipeline.py", f"stage={stage}", *keys] for stage in ("batch", "select")}
    if number < SELECTED:
        commands["select"].append("logic.select.samples=null")
    return figures, {f"stage={stage}": usage(command, cwd=str(PROJECT)) for stage, command in commands.items()}


def fill(folder: Path, number: int) -> tuple[tuple[str, ...], dict[str, float]]:
    """The keys of a run whose records are all there, and figures of its folder."""
    data = folder / "many.jsonl"
    data.write_text("".join(_line(i) for i in range(number)))
    keys = (*KEYS, f"data.data_file={data}", f"data.output_dir={folder}")
    config = configuration(["stage=batch", *keys])
    job = batch_job(config, head_choice(config.logic, config.model), model_folder(config))
    began = time.process_time()
    packed = [pack_record(as_stored(record, job.data, job.logic, job.choice), "x") for record in _records()]
    scored = time.process_time() - began
    began = time.monotonic()
    _write(job, data, packed)
    written = time.monotonic() - began
    files = list((job.folder / FOLDER).iterdir())
    return keys, {
        "files": float(len(files)),
        "bytes a sample": sum(path.stat().st_size for path in files) / number,
        "ms to score and pack a record": 1000 * scored / DIFFERENT,
        "ms to read its line and write it": 1000 * written / number,
    }


def _line(number: int) -> str:
    row = {"id": f"sample_{number:08}", "prompt": f"the thing on the left, number {number}"}
    return json.dumps(row | {"image_path": f"pictures/{number // EXPRESSIONS:08}.jpg"}) + "\n"


def _records() -> list[Record]:
    """Records that differ in which head sees what."""
    rng, base = np.random.default_rng(0), ranking.record()
    heads = base.attn.reshape(-1, *base.attn.shape[2:])
    told = {**base.meta, "model_name": "llava-hf/llava-1.5-7b-hf", "dtype": "float16", "query": "the thing on the left"}
    return [
        replace(base, attn=heads[rng.permutation(len(heads))].reshape(base.attn.shape), meta=told)
        for _ in range(DIFFERENT)
    ]


def _write(job: BatchJob, data: Path, packed: list[bytes]) -> None:
    """The shards as a run would leave them."""
    samples = iter(read_samples(data))
    while some := list(islice(samples, RECORDS)):
        records = {sample.id: packed[number % DIFFERENT] for number, sample in enumerate(some)}
        write_shard(job.folder, records, [digest(job, sample) for sample in some], 1)
