"""stage=batch in parts: jobs that share a folder and know nothing of each other."""

import json
import subprocess
import sys

import pytest

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.records.folder import list_samples
from lab.report.folder import read_folder
from pipeline import run
from tests.batch.test_batch import ASKED, PICTUREBOOK, batch, write_lines
from tests.conftest import configuration

EACH = "data.batch_size=1"  # blocks of one picture, so that few samples make several parts


@pytest.fixture(autouse=True)
def _shipped(monkeypatch, picturebook):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)


def test_all_parts_together_are_the_whole_and_no_sample_is_asked_twice(tmp_path, caplog):
    parts = tmp_path / "parts" / PICTUREBOOK
    counts = []
    for part in ("2/3", "3/3", "1/3"):
        assert batch(tmp_path, EACH, f"data.shard={part}", out="parts") == 0
        counts.append(json.loads((parts / f"summary-{part.replace('/', 'of')}.json").read_text())["samples"])
        left = 3 - len(counts)
        list_samples(parts)
        unfinished = f"{parts}: {left} of 3 parts {'is' if left == 1 else 'are'} not finished: run data.shard="
        assert caplog.messages[-1].startswith(unfinished) or not left
    assert sorted(counts) == [1, 1, 2]  # those of one picture together
    assert batch(tmp_path, EACH, out="whole") == 0
    whole = tmp_path / "whole" / PICTUREBOOK
    for path in whole.iterdir():
        if path.suffix in (".pkl", ".png") or path.name.endswith(("_analysis.json", "_bbox.json")):
            assert (parts / path.name).read_bytes() == path.read_bytes(), path.name
    assert read_folder(parts).summary["samples"] == 4
    assert "shard: null" in (parts / "config.yaml").read_text()


def test_a_part_that_is_done_is_not_done_again_nor_by_the_whole(tmp_path, monkeypatch, picturebook):
    for part in ("1/2", "2/2"):
        assert batch(tmp_path, EACH, f"data.shard={part}") == 0
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))
    monkeypatch.setattr("lab.batch.resume.load_record", lambda *_: pytest.fail("a record was read"))
    assert batch(tmp_path, EACH, "data.shard=1/2") == 0
    assert batch(tmp_path, EACH, "data.shard=2/3") == 0  # of another division
    assert batch(tmp_path, EACH) == 0
    folder = tmp_path / "out" / PICTUREBOOK
    assert json.loads((folder / "summary.json").read_text())["skipped"] == 4
    assert not list(folder.glob("summary-*"))  # the whole is told at once now


def test_what_fails_in_a_part_is_told_with_the_others(tmp_path, caplog):
    asked = [*ASKED, ("lost", "a cat", "nowhere.png")]
    assert sorted(batch(tmp_path, EACH, f"data.shard={part}", asked=asked) for part in ("1/2", "2/2")) == [0, 1]
    folder = read_folder(tmp_path / "out" / PICTUREBOOK)
    assert list(folder.errors) == ["lost"]
    assert caplog.messages[-1] == f"{folder.path}: 1 sample failed (lost)"


def test_later_stages_read_all_parts_and_refuse_to_be_one(tmp_path):
    for part in ("1/2", "2/2"):
        assert batch(tmp_path, EACH, f"data.shard={part}") == 0
    folder = tmp_path / "out" / PICTUREBOOK
    select = ("stage=select", f"data.attention_dir={folder}", "logic.select.samples=4", "save_fig=false")
    assert run(configuration(*select)) == 0
    assert json.loads((folder / "localization_heads.json").read_text())["samples"] == 4
    with pytest.raises(UserError, match=r"data.shard=1/2: only stage=batch is done in parts; run this stage without"):
        run(configuration(*select, "data.shard=1/2"))


def test_m_runs_the_parts_one_after_another(tmp_path):
    data = write_lines(tmp_path / "data.jsonl", ASKED)
    command = [sys.executable, "pipeline.py", "-m", "stage=batch", EACH, "data.shard=1/2,2/2"]
    keys = [f"data.data_file={data}", f"data.output_dir={tmp_path}", f"hydra.sweep.dir={tmp_path / 'jobs'}"]
    done = subprocess.run([*command, *keys], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / PICTUREBOOK
    assert sorted(path.name for path in folder.glob("summary*")) == [f"summary-{k}of2.json" for k in (1, 2)]
    assert sorted(list_samples(folder)["records"]) == ["a", "b", "c", "d"]
