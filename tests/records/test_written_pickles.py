"""Every pickle that a stage writes opens with torch.load(path, weights_only=True), and holds what is read here."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal

from lab.base.paths import PROJECT
from lab.base.pickles import load_plain
from lab.records.files import load_record
from lab.records.record import Record
from pipeline import run
from tests.conftest import configuration


def opened(path: Path) -> Any:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ["pipeline", "save_fig=false", "data.save_generic=true"],
        ["batch", "data.end_index=2", "data.record_format=pkl.gz"],
        ["batch", "data.end_index=2", "data.save_attention=selected", "data.save_dtype=float16"],
        ["batch", "data.end_index=2", "data.save_attention=none", "logic=paper"],
    ],
    ids=["pipeline", "batch", "selected", "none"],
)
def test_every_pickle_opens_with_torch_alone(tmp_path, monkeypatch, picturebook, overrides):
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    name, *rest = overrides
    assert run(configuration(f"stage={name}", f"data.output_dir={tmp_path}", *rest)) == 0
    made = f"data.attention_dir={next(tmp_path.iterdir())}", f"data.output_dir={tmp_path}/again"
    assert run(configuration("stage=analyze", *made, *rest)) == 0
    paths = list(tmp_path.rglob("*.pkl*"))
    rankings = [path for path in paths if "_analysis" in path.name]
    for path in rankings:
        assert opened(path) == load_plain(path)
        endless = [row | {"spatial_entropy": None} for row in opened(path) if row["spatial_entropy"] == math.inf]
        assert [row for row in opened(path) if row["spatial_entropy"] < math.inf] + endless == json.loads(
            path.with_suffix(".json").read_text()
        )
    assert len(rankings) == 2 * len(paths) / 3  # the record, its ranking, and that of stage=analyze
    for path in set(paths) - set(rankings):
        check_record(opened(path), load_record(path))


def check_record(content: dict[str, Any], record: Record) -> None:
    assert content["meta"] == record.meta
    assert_array_equal(content["attn"].float().numpy(), record.subset.kept(record.attn))
    assert (content.get("generic") is None) == (record.generic is None)
    for name, value in content.get("partial", {}).items():
        if isinstance(value, torch.Tensor):
            assert_array_equal(value.numpy(), getattr(record.subset, name))
