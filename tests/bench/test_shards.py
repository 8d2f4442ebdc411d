"""Some thousand samples in shards: few files, little memory, and a run that asks for nothing again."""

import json
import tracemalloc
from pathlib import Path

import pytest

from lab.bench import shards
from lab.records.folder import list_samples
from pipeline import run
from tests.conftest import configuration


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))
    monkeypatch.setattr(shards, "DIFFERENT", 2)


def peak(folder: Path, number: int) -> int:
    """The most that finding every sample done takes, in bytes."""
    folder.mkdir()
    keys, figures = shards.fill(folder, number)
    assert figures["files"] == -(-number // 256)
    tracemalloc.start()
    assert run(configuration("stage=batch", *keys)) == 0
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (summary,) = folder.glob("*/summary.json")
    assert json.loads(summary.read_text())["skipped"] == number
    assert not (summary.parent / "finished.json").exists()
    return most


def test_memory_hardly_grows_with_the_samples(tmp_path):
    peak(tmp_path / "warm", 10)
    few, many = peak(tmp_path / "few", 300), peak(tmp_path / "many", 2300)
    assert many - few < 2000 * 600  # bytes; a list of samples takes more than twice as many


def test_thousands_of_samples_are_counted_from_their_scores(tmp_path):
    keys, _ = shards.fill(tmp_path, 1000)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert len(list_samples(folder)["records"]) == 1000
    assert run(configuration("stage=select", *keys, "data.workers=1")) == 0
    found = json.loads((folder / "localization_heads.json").read_text())
    assert (found["samples"], found["num_layers"], found["num_heads"]) == (1000, 32, 32)


def test_what_select_wants_of_fewer_samples_is_all_of_them():
    assert configuration().logic.select.samples == shards.SELECTED
