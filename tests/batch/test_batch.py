"""stage=batch: what is asked together, what a failure takes with it, and runs of many processes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import lab.batch.batcher
import lab.batch.run
from lab.base.errors import DiskFull, NotWritten, UserError
from lab.base.paths import PROJECT
from lab.base.processes import Processes, only_run
from lab.base.shards import LOCK
from lab.base.workers import done_elsewhere
from lab.batch.batcher import AdaptiveBatcher, automatic_size
from lab.batch.plan import MOST_EXPRESSIONS, plan_rows
from lab.batch.rows import RowDataset, feed
from lab.batch.run import writers
from lab.batch.writer import Writer
from lab.datasets import Sample
from lab.records.files import load_record, save_record
from lab.stages.finish import LOCATING, RANKING
from pipeline import run
from tests.conftest import configuration

PICTUREBOOK = "examples-models-picturebook"
CAT, DOG, BIRD = (str(PROJECT / f"examples/images/{name}.png") for name in ("cat", "dog", "bird"))
ASKED = [
    ("a", "the cat", CAT),
    ("b", "a small dog wearing a collar", DOG),
    ("c", "a cat on the floor", CAT),
    ("d", "the bird", BIRD),
]
LONG = "cat " * 3000


@pytest.fixture
def _shipped(monkeypatch, picturebook):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)


def write_lines(path: Path, asked) -> Path:
    path.write_text(
        "".join(json.dumps({"id": i, "prompt": query, "image_path": image}) + "\n" for i, query, image in asked)
    )
    return path


def batch(tmp_path: Path, *overrides: str, asked=ASKED, out: str = "out") -> int:
    data = write_lines(tmp_path / "data.jsonl", asked)
    paths = (f"data.data_file={data}", f"data.output_dir={tmp_path / out}")
    return run(configuration("stage=batch", "data.process_all=true", *paths, *overrides))


def attention(tmp_path: Path, sample: str, out: str = "out") -> np.ndarray:
    return load_record(tmp_path / out / PICTUREBOOK / f"{sample}.pkl").attn


def errors(tmp_path: Path) -> dict[str, str]:
    return {
        e["id"]: e["error"]
        for e in map(json.loads, (tmp_path / "out" / PICTUREBOOK / "errors.jsonl").read_text().splitlines())
    }


# what is asked together


def samples(*asked: tuple[str, str]) -> list[Sample]:
    return [Sample(f"s{i}", query, Path(image)) for i, (query, image) in enumerate(asked)]


def test_expressions_on_one_image_form_one_row_and_long_rows_come_first():
    found = plan_rows(samples(("a", "x"), ("the small dog", "y"), ("b", "x"), ("c", "x")), share_image=True)
    assert [[s.id for s in row] for row in found] == [["s0", "s2", "s3"], ["s1"]]
    assert [len(row) for row in plan_rows(samples(("a", "x"), ("b", "x")), share_image=False)] == [1, 1]


def test_many_expressions_on_one_image_are_spread_over_rows_and_none_is_lost():
    asked = samples(*[(f"expression {i}", "x") for i in range(2 * MOST_EXPRESSIONS + 1)])
    rows = plan_rows(asked, share_image=True)
    assert sorted(map(len, rows)) == [1, MOST_EXPRESSIONS, MOST_EXPRESSIONS]
    assert sorted(s.id for row in rows for s in row) == sorted(s.id for s in asked)


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize(
    "overrides",
    [(), ("data.batch_size=3",), ("data.share_image=false",), ("data.workers=1",), ("model.attention=fused",)],
)
def test_a_record_is_the_same_however_it_is_asked(tmp_path, overrides):
    assert batch(tmp_path, "data.batch_size=1", "data.share_image=false", out="alone") == 0
    assert batch(tmp_path, *overrides) == 0
    for sample, _, _ in ASKED:
        np.testing.assert_allclose(attention(tmp_path, sample), attention(tmp_path, sample, "alone"), rtol=0, atol=1e-5)


def test_workers_prepare_what_this_process_would(picturebook):
    rows = RowDataset(
        plan_rows([Sample(i, q, Path(f)) for i, q, f in ASKED], share_image=True),
        picturebook,
        configuration().model,
        generic=False,
    )
    here, there = (list(feed(rows, workers=workers, pin=False)) for workers in (0, 1))
    for one, other in zip(here, there, strict=True):
        assert one.samples == other.samples
        assert one.question.prompts == other.question.prompts
        assert one.question.picture.grids == other.question.picture.grids
        for key, values in one.question.picture.inputs.items():
            assert np.array_equal(values, other.question.picture.inputs[key])


@pytest.mark.usefixtures("_shipped")
def test_answers_are_generated_one_by_one(tmp_path):
    assert batch(tmp_path, "model.use_generate=true", "data.save_generic=true") == 0
    record = load_record(tmp_path / "out" / PICTUREBOOK / "c.pkl")
    assert record.meta["generated_text"]
    assert record.generic is not None


@pytest.mark.usefixtures("_shipped")
def test_a_run_that_reads_other_tokens_asks_again(tmp_path):
    path = tmp_path / "out" / PICTUREBOOK / "c.pkl"
    for read in ("expression", "answer", "last"):
        assert batch(tmp_path, f"model.read={read}", "model.max_new_tokens=3", "data.save_generic=true") == 0
        record = load_record(path)
        assert record.meta.get("read", "last") == read
        text = " ".join(token["text"].strip() for token in record.meta.get("tokens", ()))
        said = record.meta["generated_text"]
        assert text == {"expression": "a cat on the floor", "answer": said, "last": ""}[read]
        assert record.attn.shape[2] == max(1, len(text.split()))
        assert (said is None) == (read != "answer")


@pytest.mark.usefixtures("_shipped")
def test_a_word_that_an_expression_lacks_fails_it_alone(tmp_path):
    assert batch(tmp_path, "model.read=word:cat") == 1
    folder = tmp_path / "out" / PICTUREBOOK
    failed = {row["id"]: row["error"] for row in map(json.loads, (folder / "errors.jsonl").read_text().splitlines())}
    assert failed["d"] == "model.read=word:cat: 'the bird' has no such word"
    assert set(failed) == {"b", "d"}
    assert [token["text"].strip() for token in load_record(folder / "c.pkl").meta["tokens"]] == ["cat"]


# failures


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("size", [1, 4])
def test_what_cannot_be_asked_fails_alone(tmp_path, size):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(CAT).read_bytes()[:500])
    huge = tmp_path / "huge.png"
    Image.open(DOG).resize((3000, 1500)).save(huge)
    asked = [
        *ASKED,
        ("e", LONG, CAT),
        ("f", "the cat", str(broken)),
        ("g", "the dog", str(huge)),
        ("h", "the cat", str(broken)),
    ]
    assert batch(tmp_path, f"data.batch_size={size}", asked=asked) == 1
    found = errors(tmp_path)
    assert list(found) == ["e", "f", "h"]
    assert "shorten the query" in found["e"]
    assert "broken.png cannot be read" in found["f"]
    assert attention(tmp_path, "a").shape == attention(tmp_path, "g").shape


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("most", [3, 1])
def test_what_does_not_fit_in_memory_is_asked_in_parts(tmp_path, monkeypatch, most):
    asked_at_once = []
    ask = lab.batch.batcher.ask

    def limited(loaded, questions, config):
        asked_at_once.append(sum(len(question.queries) for question in questions))
        if asked_at_once[-1] > most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return ask(loaded, questions, config)

    monkeypatch.setattr(lab.batch.batcher, "ask", limited)
    assert batch(tmp_path, "data.batch_size=4") == 0
    assert max(asked_at_once) == 4
    assert min(asked_at_once) >= 1
    monkeypatch.undo()
    assert {s for s, _, _ in ASKED} == {p.stem for p in (tmp_path / "out" / PICTUREBOOK).glob("?.pkl")}


def fail_on(word: str, error: Exception, monkeypatch) -> None:
    """A forward with the word in an expression raises the error."""
    ask = lab.batch.batcher.ask

    def flawed(loaded, questions, config):
        if any(word in query for question in questions for query in question.queries):
            raise error
        return ask(loaded, questions, config)

    monkeypatch.setattr(lab.batch.batcher, "ask", flawed)


@pytest.mark.usefixtures("_shipped")
def test_a_sample_that_never_fits_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    fail_on(
        "collar",
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        monkeypatch,
    )
    assert batch(tmp_path, "data.batch_size=4") == 1
    assert list(errors(tmp_path)) == ["b"]
    assert errors(tmp_path)["b"].startswith("out of memory, although it was asked alone")


@pytest.mark.usefixtures("_shipped")
def test_an_unforeseen_error_costs_one_sample(tmp_path, monkeypatch):
    fail_on("floor", ZeroDivisionError("of all things"), monkeypatch)
    assert batch(tmp_path) == 1
    assert errors(tmp_path) == {"c": "ZeroDivisionError: of all things"}


def test_the_size_of_a_batch_halves_on_a_full_memory_and_stays_there(picturebook, monkeypatch):
    monkeypatch.setattr(
        lab.batch.batcher, "ask", lambda loaded, questions, config: _full() if len(questions) > 2 else questions
    )
    asking = AdaptiveBatcher(picturebook, configuration().model, size=8, grows=True, apart=False)
    rows = [_Asked() for _ in range(16)]
    assert sum(answers is not None for _, answers, _ in asking.answers(rows)) == 16
    assert asking.size == 2


def _full():
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_a_batch_on_a_gpu_grows_while_twice_its_peak_fits_beside_what_others_hold(picturebook, monkeypatch):
    sizes = []
    gpu = Namespace(device=torch.device("cuda"))
    state = {"memory_allocated": 10, "max_memory_allocated": 10, "memory_reserved": 30, "mem_get_info": (70, 1000)}
    for name in state:
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: state[name])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)

    def take(loaded, questions, config):
        sizes.append(len(questions))
        state["max_memory_allocated"] = 10 + 4 * len(questions)  # of (70 + 30) * 0.8
        return questions

    monkeypatch.setattr(lab.batch.batcher, "ask", take)
    asking = AdaptiveBatcher(gpu, configuration().model, size=automatic_size(gpu), grows=True, apart=False)
    assert sum(answers is not None for _, answers, _ in asking.answers(_Asked() for _ in range(56))) == 56
    assert sizes == [8, 16, 16, 16]  # 10 + 2 * 32 fits, 10 + 2 * 64 does not


@pytest.mark.parametrize(("device", "expected"), [("cpu", [2, 1, 1]), ("cuda", [4])])
def test_pictures_of_unlike_size_share_a_forward_on_a_gpu_alone(monkeypatch, device, expected):
    sizes = []
    monkeypatch.setattr(lab.batch.batcher, "ask", lambda loaded, questions, config: sizes.append(len(questions)))
    loaded = Namespace(device=torch.device(device))
    monkeypatch.setattr(AdaptiveBatcher, "_allocated", lambda self: 0)
    asking = AdaptiveBatcher(loaded, configuration().model, size=8, grows=False, apart=False)
    rows = [_Asked(_of_tokens(tokens)) for tokens in (576, 576, 300, 576)]
    assert [row for row, *_ in asking.answers(rows)] == rows
    assert sizes == expected


def _of_tokens(number: int) -> Namespace:
    return Namespace(picture=Namespace(tokens=number))


@dataclass
class _Asked:
    question: object = field(default_factory=lambda: _of_tokens(576))
    samples: tuple = ()
    failed: tuple = ()


def test_an_automatic_size_divides_what_a_process_takes(picturebook):
    assert automatic_size(picturebook) in (1, 2, 4, 8)


# writing beside the model


def test_a_writer_does_every_task_and_lets_few_wait():
    done, gate = [], threading.Event()
    with Writer(threads=1, ahead=2) as writer:
        writer.put(gate.wait)
        threading.Timer(0.1, gate.set).start()
        for number in range(20):
            writer.put(lambda number=number: done.append(number))
    assert done == list(range(20))
    assert writer.waited > 0


def test_a_writer_without_threads_works_in_the_callers():
    done = []
    with Writer(threads=0, ahead=1) as writer:
        writer.put(lambda: done.append(threading.current_thread()))
    assert done == [threading.main_thread()]


def test_what_goes_wrong_in_a_writer_stops_the_run():
    def fail():
        raise UserError("the disk is full")

    def run_on():
        with Writer(threads=2, ahead=4) as writer:
            for _ in range(1000):
                writer.put(fail)

    with pytest.raises(UserError, match="the disk is full"):
        run_on()


@pytest.mark.usefixtures("_shipped")
def test_processes_write_the_same_bytes_as_threads(tmp_path, monkeypatch):
    asked = [*ASKED, ("x", "the cat", CAT)]
    assert batch(tmp_path, asked=asked, out="threads") == 0
    monkeypatch.setattr(lab.batch.run, "writers", lambda *_, **__: (2, 2))
    assert batch(tmp_path, asked=asked) == 0
    here, there = (sorted((tmp_path / out / PICTUREBOOK).glob("?[._]*")) for out in ("threads", "out"))
    assert len(here) == 5 * len(asked)  # record, ranking twice, mask, box
    assert [(path.name, path.read_bytes()) for path in here] == [(path.name, path.read_bytes()) for path in there]


@pytest.mark.usefixtures("_shipped")
def test_what_a_writing_process_meets_reaches_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lab.batch.run, "writers", lambda *_, **__: (2, 2))
    (tmp_path / "out" / PICTUREBOOK / "a.pkl").mkdir(parents=True)  # cannot be replaced
    assert batch(tmp_path) == 1
    assert list(errors(tmp_path)) == ["a"]


@pytest.mark.usefixtures("_shipped")
def test_a_full_disk_met_by_a_writing_process_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lab.batch.run, "writers", lambda *_, **__: (1, 1))
    monkeypatch.setattr(lab.batch.run, "write_row", first_fits)
    with pytest.raises(DiskFull, match="full; 3 of 4 samples are missing; the same command continues with them"):
        batch(tmp_path)


def first_fits(_written, job):
    return [None, DiskFull("full")]


def test_a_worker_that_is_killed_ends_the_run_in_one_line():
    with (
        done_elsewhere(kill_oneself, 1) as call,
        pytest.raises(UserError, match="one of 1 worker processes was killed"),
    ):
        call(signal.SIGKILL)


def kill_oneself(number):
    os.kill(os.getpid(), number)


def test_writers_are_processes_where_the_model_is_on_a_gpu():
    assert writers(None, 16, accelerated=True, windows=False) == (4, 4)
    on_cpu = writers(None, 16, accelerated=False, windows=False)
    assert writers(None, 2, accelerated=True, windows=False) == on_cpu == (1, 0)
    assert writers(1, 16, accelerated=True, windows=False) == (1, 0)
    assert writers(None, 16, accelerated=True, windows=True) == (0, 0)


# one run or many


@pytest.mark.usefixtures("_shipped")
def test_a_second_run_on_the_same_folder_is_refused(tmp_path):
    folder = tmp_path / "out" / PICTUREBOOK
    folder.mkdir(parents=True)
    with (
        FileLock(folder / LOCK),
        pytest.raises(UserError, match=r"another run writes to .*: wait for it, or set data.output_dir"),
    ):
        batch(tmp_path)
    assert not list(folder.glob("*.pkl"))
    assert batch(tmp_path) == 0  # the lock of a run that ended, however it did, is free


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_files_cannot_be_locked_the_run_says_so_and_goes_on(tmp_path, monkeypatch, caplog, number):
    monkeypatch.setattr("fcntl.flock", fail_with(number))
    assert batch(tmp_path, asked=ASKED[:1]) == 0
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert line.endswith("start no second run that writes there")


@pytest.mark.usefixtures("_shipped")
def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "out" / PICTUREBOOK
    monkeypatch.setattr("fcntl.flock", fail_with(errno.EIO))
    with pytest.raises(
        UserError, match=r"\.running\.lock: cannot be locked \(Input/output error\); if no other run"
    ) as caught:
        batch(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    (folder / LOCK).unlink()
    (folder / LOCK).mkdir()
    with pytest.raises(UserError, match=r"\.running\.lock: cannot be locked \(Is a directory\)"):
        only_lock(folder)


def only_lock(folder: Path) -> None:
    with only_run(folder, Processes()):
        pass


def fail_with(number: int):
    """A function that fails as the system does."""

    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


# what an earlier run has finished


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The names of the records that a resumed run has read."""
    read: list[str] = []

    def load(path, logic):
        read.append(path.name)
        return load_record(path, logic)

    monkeypatch.setattr("lab.batch.resume.load_record", load)
    return read


def times(tmp_path: Path, *endings: str) -> dict[str, int]:
    folder = tmp_path / "out" / PICTUREBOOK
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name.endswith(endings)}


@pytest.mark.usefixtures("_shipped")
def test_what_is_finished_by_the_same_rules_is_neither_read_nor_written_again(tmp_path, loads):
    results = ("pkl", "_analysis.json", "_mask.png", "_bbox.json", "_top3.png", "finished.json")
    drawn = ("data.visualize_batch=true", "viz.heads=false")
    assert batch(tmp_path, *drawn, asked=ASKED[:2]) == 0
    before = times(tmp_path, *results)
    assert len(before) == 2 * 6 + 1
    for same in ((), ("data.workers=1", "logic.select.trials=3", "data.batch_size=1")):
        assert batch(tmp_path, *drawn, *same, asked=ASKED[:2]) == 0
        assert (loads, times(tmp_path, *results)) == ([], before)
    assert json.loads((tmp_path / "out" / PICTUREBOOK / "summary.json").read_text())["skipped"] == 2
    assert batch(tmp_path, *drawn, "logic.entropy.weight=area", asked=ASKED[:2]) == 0
    assert sorted(loads) == ["a.pkl", "b.pkl"]
    changed = times(tmp_path, *results)
    assert all(changed[name] > before[name] for name in before if name not in ("a.pkl", "b.pkl"))


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize(
    "changed",
    [
        ["model.image_aspect_ratio=crop"],
        ["model.drop_space_tokens=false"],
        ["model.question='Where is {query}?'"],
        ["model.system=Look."],
        ["model.use_generate=true"],
    ],
)
def test_a_record_that_was_asked_otherwise_is_made_again(tmp_path, loads, changed):
    def done() -> tuple[int, int]:
        summary = json.loads((tmp_path / "out" / PICTUREBOOK / "summary.json").read_text())
        return summary["done"] - summary["skipped"], summary["skipped"]

    assert batch(tmp_path, asked=ASKED[:2]) == 0
    for again in range(2):
        assert batch(tmp_path, *changed, asked=ASKED[:2]) == 0
        assert done() == ((0, 2) if again else (2, 0))
    if changed == ["model.use_generate=true"]:
        assert batch(tmp_path, *changed, "model.num_beams=2", asked=ASKED[:2]) == 0
        assert done() == (2, 0)


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("name", ["a.pkl", "a_analysis.pkl", "a_analysis.json", "a_mask.png", "a_bbox.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:9])])
def test_a_file_that_is_gone_or_cut_is_made_again_and_no_other(tmp_path, loads, name, damage):
    drawn = ("data.visualize_batch=true", "save_fig=false")
    assert batch(tmp_path, *drawn, asked=ASKED[:2]) == 0
    path = tmp_path / "out" / PICTUREBOOK / name
    content, others = path.read_bytes(), times(tmp_path, "b.pkl", "b_analysis.pkl", "b_mask.png")
    record = load_record(path.parent / "a.pkl")
    damage(path)
    assert batch(tmp_path, *drawn, asked=ASKED[:2]) == 0
    if name == "a.pkl":  # asked alone this time: some processors then round otherwise
        again = load_record(path)
        assert again.meta == record.meta
        np.testing.assert_allclose(again.attn, record.attn, rtol=0, atol=1e-6)
    else:
        assert path.read_bytes() == content
    assert times(tmp_path, "b.pkl", "b_analysis.pkl", "b_mask.png") == others
    assert "b.pkl" not in loads


@pytest.mark.usefixtures("_shipped")
def test_a_replaced_record_another_question_and_a_damaged_list_are_read_again(tmp_path, loads):
    assert batch(tmp_path, asked=ASKED[:2]) == 0
    folder = tmp_path / "out" / PICTUREBOOK
    save_record(folder / "a.pkl", replace(load_record(folder / "a.pkl"), attn=attention(tmp_path, "b")))
    expected = (folder / "b_analysis.json").read_text()
    assert batch(tmp_path, asked=ASKED[:2]) == 0
    assert loads == ["a.pkl"]
    assert (folder / "a_analysis.json").read_text() == expected
    loads.clear()
    assert batch(tmp_path, asked=[ASKED[0], ("b", "the dog", DOG)]) == 0
    assert loads == ["b.pkl"]
    assert load_record(folder / "b.pkl").meta["query"] == "the dog"
    loads.clear()
    for content in ("[", "[]", '{"a": 3, "b": {"by": 1, "files": []}}'):
        (folder / "finished.json").write_text(content)
        assert batch(tmp_path, asked=ASKED[:2]) == 0
    assert sorted(loads) == 3 * ["a.pkl"] + 3 * ["b.pkl"]
    (folder / "a.pkl.gz").write_bytes(b"")  # the same sample twice: asked again, and one of them goes
    assert batch(tmp_path, asked=ASKED[:2]) == 0
    assert not (folder / "a.pkl.gz").exists()


def test_every_key_of_logic_decides_a_ranking_or_a_box_or_is_known_not_to():
    assert set(vars(configuration().logic)) == {*RANKING, *LOCATING, "select", "refine"}


# what cannot be written


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("number", [errno.EIO, errno.EFBIG])
def test_a_run_whose_files_cannot_be_written_stops_after_a_few_and_goes_on_later(tmp_path, monkeypatch, number):
    many = [(f"s{i}", "the cat", CAT) for i in range(24)]
    write, tried = lab.batch.run.write_record, []

    def fail(folder, name, *rest):
        tried.append(name)
        if len(tried) > 2:
            raise NotWritten(f"{name}: cannot be written ({os.strerror(number)})")
        return write(folder, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(lab.batch.run, "write_record", fail)
        missing = r"so it was with 5 samples in a row; 22 of 24 samples are missing; the same command continues"
        with pytest.raises(NotWritten, match=rf"^s\d+: cannot be written .*{missing} with them$"):
            batch(tmp_path, "data.share_image=false", asked=many)
    assert len(tried) < 24
    assert batch(tmp_path, asked=many) == 0


@pytest.mark.usefixtures("_shipped")
def test_a_folder_that_is_removed_meanwhile_ends_the_run_and_does_not_appear_again(tmp_path, monkeypatch):
    write = lab.batch.run.write_row

    def gone(written, job):
        if any(sample.id == "b" for sample in written[0]):
            shutil.rmtree(job.folder)
        return write(written, job)

    monkeypatch.setattr(lab.batch.run, "write_row", gone)
    with pytest.raises(NotWritten, match=r"is not there any more: .*; 4 of 4 samples are missing; the same command"):
        batch(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))
    for name in ("summary.json", "errors.jsonl", "finished.json"):
        (tmp_path / "new" / PICTUREBOOK / name).mkdir(parents=True)
        with pytest.raises(UserError, match=rf"{name} is a folder"):
            batch(tmp_path, out="new")
        (tmp_path / "new" / PICTUREBOOK / name).rmdir()


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("name", ["finished.json", "errors.jsonl", "summary.json"])
def test_a_disk_that_is_full_at_the_end_is_one_line(tmp_path, monkeypatch, name):
    write = Path.replace

    def full(self, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskFull, match=rf"{name}: no space left on the disk for [\d,]+ bytes") as caught:
        batch(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()


def in_processes(
    tmp_path: Path, out: str, *launcher: str, overrides: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    data = write_lines(tmp_path / "data.jsonl", ASKED)
    arguments = (
        "stage=batch",
        f"data.data_file={data}",
        "data.process_all=true",
        f"data.output_dir={tmp_path / out}",
        "data.batch_size=1",
    )
    return subprocess.run([*launcher, *arguments, *overrides], cwd=PROJECT, capture_output=True, text=True, timeout=120)


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("launcher", ["torchrun", "submitit"])
def test_two_processes_write_the_same_bytes_as_one(tmp_path, launcher):
    commands = {
        "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "pipeline.py"),
        "submitit": (
            "pipeline.py",
            "-m",
            "hydra/launcher=submitit_local",
            "hydra.launcher.tasks_per_node=2",
            f"hydra.sweep.dir={tmp_path / 'logs'}",
        ),
    }
    if launcher == "submitit":
        pytest.importorskip("submitit")
    done = in_processes(tmp_path, "two", sys.executable, *commands[launcher])
    assert done.returncode == 0, done.stderr
    assert batch(tmp_path, "data.batch_size=1") == 0
    one, two = (tmp_path / out / PICTUREBOOK for out in ("out", "two"))
    assert json.loads((two / "summary.json").read_text())["processes"] == 2
    for sample, _, _ in ASKED:
        for suffix in (".pkl", "_analysis.pkl", "_analysis.json"):
            assert (one / f"{sample}{suffix}").read_bytes() == (two / f"{sample}{suffix}").read_bytes()


@pytest.mark.usefixtures("_shipped")
def test_another_number_of_processes_finishes_what_is_missing(tmp_path, monkeypatch):
    assert batch(tmp_path) == 0
    folder = tmp_path / "out" / PICTUREBOOK
    before = (folder / "a.pkl").stat().st_mtime_ns
    (folder / "b.pkl").unlink()
    (folder / "d.pkl").write_bytes(b"cut")
    shares = [Processes(rank, 2) for rank in range(2)]
    monkeypatch.setattr(Processes, "gather", lambda self, found: found)
    monkeypatch.setattr(Processes, "end", lambda self: None)
    for share in shares:
        monkeypatch.setattr("lab.stages.batch.processes", lambda share=share: share)
        assert batch(tmp_path) == 0
    assert (folder / "a.pkl").stat().st_mtime_ns == before
    assert attention(tmp_path, "b").shape == attention(tmp_path, "d").shape == (8, 8, 1, 256)


def test_other_stages_refuse_to_run_many_times(monkeypatch):
    of_two = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in of_two.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="stage=pipeline runs in one process"):
        run(configuration("stage=pipeline"))
