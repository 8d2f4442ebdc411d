"""data.record_format=shards: the records of a batch in files of many, read by every stage as single files are."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from lab.base.errors import DiskFull, UserError
from lab.batch import shelf
from lab.records.files import load_or_why, load_record
from lab.records.folder import list_samples
from lab.records.shards import FOLDER
from pipeline import run
from tests.batch.test_batch import ASKED, CAT, PICTUREBOOK, attention, batch, errors, write_lines
from tests.conftest import configuration

SHARDS = "data.record_format=shards"


@pytest.fixture(autouse=True)
def _shipped(monkeypatch, picturebook):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)


@pytest.fixture
def no_model(monkeypatch):
    return lambda: monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))


def shards(tmp_path: Path, out: str = "out") -> list[Path]:
    return sorted((tmp_path / out / PICTUREBOOK / FOLDER).iterdir())


def summary(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / PICTUREBOOK / "summary.json").read_text())


def test_a_batch_keeps_its_records_in_shards_and_nothing_beside_them(tmp_path, monkeypatch, no_model):
    monkeypatch.setattr(shelf, "RECORDS", 3)
    assert batch(tmp_path, SHARDS) == 0
    assert batch(tmp_path, out="single") == 0
    folder = tmp_path / "out" / PICTUREBOOK
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert names == ["config.yaml", "errors.jsonl", FOLDER, "summary.json"]
    assert len(shards(tmp_path)) == 2
    records = list_samples(folder)["records"]
    for name, _, _ in ASKED:
        assert np.array_equal(load_record(records[name]).attn, attention(tmp_path, name, "single"))
    no_model()
    monkeypatch.setattr("lab.batch.resume.load_record", lambda *_: pytest.fail("a record was read"))
    assert batch(tmp_path, SHARDS) == 0
    assert summary(tmp_path)["skipped"] == 4
    assert len(shards(tmp_path)) == 2


@pytest.mark.parametrize("keep", ["all", "none"])
def test_every_stage_reads_them_as_single_files(tmp_path, keep):
    asked = [(f"s{i}", query, image) for i, (_, query, image) in enumerate(ASKED)]
    kept = (f"data.save_attention={keep}",)
    assert batch(tmp_path, SHARDS, *kept, asked=asked) == 0
    assert batch(tmp_path, *kept, asked=asked, out="single") == 0
    found = []
    for out in ("out", "single"):
        folder = tmp_path / out / PICTUREBOOK
        paths = (f"data.attention_dir={folder}", f"data.output_dir={tmp_path / out / 'results'}", "save_fig=false")
        for stage in ("select", "analyze", "report"):
            assert run(configuration(f"stage={stage}", "logic.select.samples=4", *paths)) == 0
        results = tmp_path / out / "results" / PICTUREBOOK
        heads = json.loads((results / "localization_heads.json").read_text())
        found.append((heads["heads"], {path.name: path.read_bytes() for path in results.glob("s*_analysis.*")}))
        assert (results / "report.html").stat().st_size > 10_000
    assert found[0] == found[1]
    assert len(found[0][1]) == 8


def test_one_record_of_a_shard_is_named_as_a_path_and_drawn_beside_the_others(tmp_path):
    assert batch(tmp_path, SHARDS) == 0
    path = shards(tmp_path)[0] / "a.safetensors"
    assert run(configuration("stage=visualize", f"data.attention_file={path}", "save_fig=false")) == 0
    assert (tmp_path / "out" / PICTUREBOOK / "a_mask.png").exists()


def test_samples_with_the_truth_are_evaluated_from_shards(tmp_path):
    data = tmp_path / "truth.jsonl"
    boxed = [{"id": i, "prompt": q, "image_path": f, "bbox": [10, 10, 100, 100]} for i, q, f in ASKED]
    data.write_text("".join(json.dumps(line) + "\n" for line in boxed))
    keys = (f"data.data_file={data}", f"data.output_dir={tmp_path}", "save_fig=false", "evaluate.resamples=10")
    assert run(configuration("stage=evaluate", "data.process_all=true", SHARDS, *keys)) == 0
    metrics = json.loads((tmp_path / PICTUREBOOK / "metrics.json").read_text())
    assert (
        run(configuration("stage=evaluate", "data.process_all=true", *keys, f"data.output_dir={tmp_path / 'b'}")) == 0
    )
    assert json.loads((tmp_path / "b" / PICTUREBOOK / "metrics.json").read_text())["metrics"] == metrics["metrics"]


def test_what_a_run_that_ended_had_not_written_is_asked_again_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "RECORDS", 1)
    assert batch(tmp_path, SHARDS) == 0
    before = shards(tmp_path)
    before[0].unlink()
    assert batch(tmp_path, SHARDS) == 0
    assert summary(tmp_path)["skipped"] == 3
    assert len(shards(tmp_path)) == 4
    assert set(before[1:]) < set(shards(tmp_path))


def test_other_rules_take_the_place_of_the_shards_before_them(tmp_path, no_model):
    assert batch(tmp_path, SHARDS, "data.save_attention=none") == 0
    old = shards(tmp_path)
    assert batch(tmp_path, SHARDS) == 0  # the maps are wanted now
    assert summary(tmp_path)["skipped"] == 0
    assert len(shards(tmp_path)) == 1
    assert shards(tmp_path) != old
    no_model()
    assert batch(tmp_path, SHARDS, "data.save_attention=none") == 0  # what holds more serves
    assert batch(tmp_path, "data.save_masks=false") == 0  # also where single files are wanted
    assert (tmp_path / "out" / PICTUREBOOK / "a_analysis.json").exists()
    assert summary(tmp_path)["skipped"] == 4


def test_single_files_serve_a_run_of_shards(tmp_path, no_model):
    assert batch(tmp_path) == 0
    no_model()
    assert batch(tmp_path, SHARDS) == 0
    assert summary(tmp_path)["skipped"] == 4


def other_question(tmp_path: Path) -> None:
    asked = [(name, f"{query} on a mat", image) for name, query, image in ASKED]
    assert batch(tmp_path, "data.save_masks=false", asked=asked) == 0


def damaged(tmp_path: Path) -> None:
    for name, _, _ in ASKED:
        (tmp_path / "out" / PICTUREBOOK / f"{name}.pkl").write_bytes(b"no record")


@pytest.mark.parametrize("spoil", [other_question, damaged])
def test_a_file_of_its_own_that_does_not_serve_is_replaced_though_a_shard_holds_what_would(tmp_path, spoil):
    assert batch(tmp_path, SHARDS) == 0
    spoil(tmp_path)
    assert batch(tmp_path, SHARDS) == 0
    records = list_samples(tmp_path / "out" / PICTUREBOOK)["records"]
    assert [load_record(records[name]).meta["query"] for name, _, _ in ASKED] == [query for _, query, _ in ASKED]
    assert summary(tmp_path)["skipped"] == 0
    assert batch(tmp_path, SHARDS) == 0
    assert summary(tmp_path)["skipped"] == 4


def test_a_shard_that_cannot_be_written_fails_its_own_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "RECORDS", 2)
    replace, failed = Path.replace, []

    def once(self, target):
        if Path(target).parent.name == FOLDER and not failed:
            failed.append(target)
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", once)
    assert batch(tmp_path, SHARDS) == 1
    assert len(errors(tmp_path)) == 2
    assert len(shards(tmp_path)) == 1
    assert batch(tmp_path, SHARDS) == 0
    assert summary(tmp_path)["skipped"] == 2


def test_a_disk_that_is_full_ends_the_run_in_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch):
    replace = Path.replace

    def full(self, target):
        if Path(target).parent.name == FOLDER:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskFull, match=r"no space left on the disk .*; 4 of 4 samples are missing; the same command"):
        batch(tmp_path, SHARDS)
    monkeypatch.setattr(Path, "replace", replace)
    assert batch(tmp_path, SHARDS) == 0


def test_what_needs_files_of_single_samples_is_refused_in_one_line(tmp_path):
    data = write_lines(tmp_path / "data.jsonl", [("a", "the cat", CAT)])
    with pytest.raises(UserError, match=r"data.record_format=shards keeps no files of single samples: leave out"):
        configuration("stage=batch", f"data.data_file={data}", SHARDS, "data.visualize_batch=true")
    with pytest.raises(UserError, match=r"data\.record_format to single files"):
        batch(tmp_path, SHARDS, "logic.refine=sam")


def test_a_shard_with_a_damaged_record_is_named_and_made_again_once_it_is_deleted(tmp_path):
    assert batch(tmp_path, SHARDS) == 0
    [shard] = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(byte ^ 255 for byte in data[middle : middle + 3000])
    shard.write_bytes(data)
    folder = tmp_path / "out" / PICTUREBOOK
    told = [why for path in list_samples(folder)["records"].values() if isinstance(why := load_or_why(path), str)]
    assert told
    assert all(why.endswith(f"; it lies in {shard}: delete it, and run stage=batch again") for why in told)
    shard.unlink()
    assert batch(tmp_path, SHARDS) == 0
    assert not any(isinstance(load_or_why(path), str) for path in list_samples(folder)["records"].values())
