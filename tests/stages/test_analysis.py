"""stage=analyze for a folder.

The same files as one by one, in one process or several, and nothing lost to a bad record.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import lab.base.workers
from analyze import rank_heads, score_heads
from lab.base.chunks import cast, in_chunks
from lab.base.errors import DiskFull, NotWritten, UserError
from lab.base.paths import PROJECT
from lab.base.workers import CHUNK, in_workers, worker_count
from lab.batch.storage import as_stored
from lab.heads.choice import head_choice
from lab.records.files import save_record
from lab.records.record import Record
from pipeline import run
from tests.conftest import configuration
from tests.test_analyze import blobs


def record(seed: int, dtype: torch.dtype = torch.float32, shape: tuple[int, int, int] = (6, 4, 12)) -> Record:
    maps = blobs(np.random.default_rng(seed), *shape)
    return Record.from_tensor(torch.from_numpy(maps.reshape(*shape[:2], 1, -1)).to(dtype))


@pytest.fixture(scope="module")
def _records(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for seed in range(2 * CHUNK + 5):
        save_record(folder / f"s{seed}.pkl{'.gz' if seed % 3 else ''}", record(seed))
    return folder


@pytest.fixture
def folder(_records, tmp_path) -> Path:
    """More records than two workers get at once."""
    for path in _records.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def fail_with(number: int):
    """A function that fails as the system does."""

    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def analyze_stage(folder: Path, *overrides: str) -> int:
    return run(configuration("stage=analyze", "model=llava15_7b", f"data.attention_dir={folder}", *overrides))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_analysis*")}


# a folder


@pytest.mark.parametrize("workers", [1, 2])
def test_every_record_of_a_folder_gets_the_ranking_that_it_gets_alone(folder, workers, capsys):
    assert analyze_stage(folder, f"data.workers={workers}") == 0
    number = 2 * CHUNK + 5
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == [str(number), "0"]
    together = contents(folder)
    assert len(together) == 2 * number
    for path in (folder / "s0.pkl", folder / "s31.pkl.gz"):
        run(configuration("stage=analyze", "model=llava15_7b", f"data.attention_file={path}"))
    assert contents(folder) == together


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_record_is_listed_and_the_others_are_ranked(folder, workers, capsys):
    (folder / "s3.pkl").write_bytes(b"nothing")
    cfg = configuration("model=llava15_7b", "data.save_attention=none", "logic=paper")
    part = as_stored(record(0), cfg.data, cfg.logic, head_choice(cfg.logic, cfg.model))
    save_record(folder / "zz.pkl", part)  # its scores are by other rules
    assert analyze_stage(folder, f"data.workers={workers}") == 1
    listed = [json.loads(line) for line in (folder / "analysis_errors.jsonl").read_text().splitlines()]
    assert [error["id"] for error in listed] == ["s3", "zz"]
    assert "truncated or not a record" in listed[0]["error"]
    assert "logic.entropy" in listed[1]["error"]
    assert len(contents(folder)) == 2 * (2 * CHUNK + 4)
    assert "analysis_errors.jsonl" in capsys.readouterr().out
    for name in ("s3.pkl", "zz.pkl"):
        (folder / name).unlink()
    assert analyze_stage(folder, f"data.workers={workers}") == 0
    assert not (folder / "analysis_errors.jsonl").exists()


@pytest.mark.parametrize("failure", [RuntimeError("surprise"), DiskFull("x: no space left")])
def test_a_surprise_does_not_end_the_others_ranking_but_a_full_disk_does(folder, failure, monkeypatch):
    def fail(path, *_):
        if path.name == "s12.pkl":
            raise failure

    monkeypatch.setattr("lab.stages.analyze.write_ranking", fail)
    if isinstance(failure, DiskFull):
        with pytest.raises(DiskFull, match="no space left"):
            analyze_stage(folder, "data.workers=1")
    else:
        assert analyze_stage(folder, "data.workers=1") == 1
        assert "RuntimeError: surprise" in (folder / "analysis_errors.jsonl").read_text()


def test_a_folder_without_records_or_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"no records in .*: set data.attention_dir to a folder of .pkl, .pkl.gz or .safetensors"
    ):
        analyze_stage(tmp_path)
    with pytest.raises(UserError, match="cannot read the folder"):
        analyze_stage(tmp_path / "missing")
    with pytest.raises(UserError, match="give one of the two"):
        analyze_stage(tmp_path, "data.attention_file=x.pkl")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr("lab.stages.analyze.load_record", lambda *_: pytest.fail("a record was read"))
    (folder / "analysis_errors.jsonl").mkdir()
    with pytest.raises(UserError, match=r"analysis_errors.jsonl is a folder"):
        analyze_stage(folder)
    monkeypatch.setattr(os, "fsync", fail_with(errno.EROFS))
    (folder / "analysis_errors.jsonl").rmdir()
    with pytest.raises(UserError, match=r"cannot write into .* \(Read-only file system\): make it writable, or set"):
        analyze_stage(folder)


def test_rankings_that_cannot_be_written_end_the_stage_after_a_few(folder, monkeypatch, caplog):
    written = []

    def fail(path, *_):
        written.append(path)
        raise NotWritten(f"{path.name}: cannot be written")

    monkeypatch.setattr("lab.stages.analyze.write_ranking", fail)
    with pytest.raises(NotWritten, match=r"s12.pkl: cannot be written; so it was with 5 samples in a row"):
        analyze_stage(folder, "data.workers=1")
    assert len(written) == 5


def test_the_command_analyzes_a_folder_in_worker_processes(folder):
    command = [
        sys.executable,
        str(PROJECT / "pipeline.py"),
        "stage=analyze",
        f"data.attention_dir={folder}",
        "data.workers=2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(contents(folder)) == 2 * (2 * CHUNK + 5)


# workers


def test_results_come_in_order_and_few_items_are_under_way(monkeypatch):
    submitted = []
    monkeypatch.setattr(lab.base.workers, "ProcessPoolExecutor", _counting(submitted))
    items = list(range(100 * CHUNK))
    for done, (item, result) in enumerate(in_workers(str, items, 2)):
        assert (item, result) == (done, str(done))
        assert len(submitted) * CHUNK <= done + 5 * CHUNK
    assert done == items[-1]


def _counting(submitted: list):
    """A pool that runs everything at once, here, and keeps count."""
    from concurrent.futures import Future

    class Pool:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def shutdown(self, **_):
            pass

        def submit(self, function, *args):
            submitted.append(args)
            future = Future()
            future.set_result(function(*args))
            return future

    return Pool


def test_a_few_items_are_done_in_this_process():
    assert worker_count(None, 10) == 1
    assert worker_count(None, 100_000) == len(os.sched_getaffinity(0))
    assert worker_count(7, 100) == 7
    assert worker_count(7, 3) == 3
    assert list(in_workers(lambda item: os.getpid(), [1, 2])) == [(1, os.getpid()), (2, os.getpid())]


def test_no_items_no_work():
    assert list(in_workers(str, [], 2)) == []


def test_a_worker_that_is_killed_ends_in_one_line():
    with pytest.raises(
        UserError, match=r"one of 2 worker processes was killed, perhaps for want of memory: set data.workers=1"
    ):
        list(in_workers(os._exit, [1] * 40, 2))


def test_an_exception_in_a_worker_is_raised_here():
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_workers(int, ["1"] * 40 + ["x"], 2))


# ranking beside a model


def test_ranking_leaves_torchs_threads_alone(monkeypatch):
    """A model may run in another thread, and a thread that starts meanwhile keeps the number that it finds."""

    def refuse(number):
        raise AssertionError(f"set_num_threads({number})")

    monkeypatch.setattr(torch, "set_num_threads", refuse)
    rank_heads(record(0), configuration("model=llava15_7b").logic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_scores_do_not_depend_on_the_number_of_threads(dtype):
    logic = configuration("model=llava15_7b", "logic.threshold.method=none").logic
    one = record(0, dtype, (16, 16, 24))  # more than one piece
    threads, tables = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            tables.append(score_heads(one, logic))
    finally:
        torch.set_num_threads(threads)
    for table in tables[1:]:
        assert_array_equal(table.attn_sum, tables[0].attn_sum)
        assert_array_equal(table.spatial_entropy, tables[0].spatial_entropy)


def test_rankings_made_in_several_threads_at_once_are_those_made_alone():
    logic = configuration("model=llava15_7b").logic
    records = [record(seed) for seed in range(8)]
    alone = [rank_heads(one, logic) for one in records]
    found: dict[int, list] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: rank_heads(records[i], logic)})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == alone


def test_pieces_are_small_enough_for_one_thread_and_lose_no_row():
    rows = torch.arange(7.0 * 10_000).reshape(7, 10_000) / 70_000
    some = list(in_chunks(rows, torch.float16))
    assert [len(piece) for piece in some] == [3, 3, 1]
    assert all(piece.numel() < 2**15 and piece.dtype == torch.float16 for piece in some)
    assert torch.equal(torch.cat(list(in_chunks(rows))), rows)
    assert torch.equal(cast(rows.T, torch.bfloat16), rows.T.to(torch.bfloat16))
    assert cast(rows, torch.float32) is rows
