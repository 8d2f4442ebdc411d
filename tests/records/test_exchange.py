"""Records as files of safetensors: what other tools find in them, and that every stage reads them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors import safe_open

from lab.base.errors import UserError
from lab.records.files import load_record, save_record
from lab.records.folder import list_samples
from lab.records.record import Record
from pipeline import run
from tests.conftest import configuration
from tests.records.test_records import META, weights

MODEL = "examples-models-picturebook"


@pytest.mark.parametrize("generic", [False, True], ids=["", "generic"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_saved_record_is_read_back_to_the_last_bit(tmp_path, dtype, generic):
    record = Record.from_tensor(weights(dtype), META, weights(dtype).flip(0) if generic else None)
    save_record(tmp_path / "a.safetensors", record)
    again = load_record(tmp_path / "a.safetensors")
    assert torch.equal(again.tensor(), weights(dtype))
    assert (again.dtype, again.meta) == (record.dtype, META)
    assert (again.generic is None) is not generic
    if generic:
        assert_array_equal(again.generic, record.generic)


def test_other_tools_find_tensors_and_json_and_equal_records_are_equal_files(tmp_path):
    for name in ("a", "b"):
        save_record(tmp_path / f"{name}.safetensors", Record.from_tensor(weights(torch.float16), META))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert list(file.keys()) == ["attn"]
        assert torch.equal(file.get_tensor("attn"), weights(torch.float16))
        assert json.loads(file.metadata()["meta"]) == META
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_bare_tensor_of_double_precision_under_any_name_is_read(tmp_path):
    from safetensors.numpy import save_file

    save_file({"attn": weights().double().numpy()}, tmp_path / "a.pkl")
    record = load_record(tmp_path / "a.pkl")
    assert (record.dtype, record.meta) == ("float32", {})
    assert_array_equal(record.attn, weights().numpy())


def test_meta_that_json_does_not_have_is_refused_before_anything_is_written(tmp_path):
    for meta in ({"x": b"bytes"}, {"x": float("nan")}):
        with pytest.raises(
            UserError, match=r"a\.safetensors: its meta cannot be written as JSON .* set data.record_for"
        ):
            save_record(tmp_path / "a.safetensors", Record.from_tensor(weights(), meta))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def runs(collect_scenes):
    """The same scenes, collected into pickles and into files of safetensors: {format: (data file, outputs)}."""
    return {form: collect_scenes(6, 3, f"data.record_format={form}") for form in ("pkl", "safetensors")}


@pytest.fixture
def stage(runs, monkeypatch, picturebook):
    """stage(name, format, *overrides): the exit code of a stage on one of them."""
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)

    def ran(name: str, form: str, *overrides: str) -> int:
        data, out = runs[form]
        return run(configuration(f"stage={name}", f"data.data_file={data}", f"data.output_dir={out}", *overrides))

    return ran


def files_of(out: Path, pattern: str) -> dict[str, bytes]:
    there = str(out.parent).encode()
    return {path.name: path.read_bytes().replace(there, b"") for path in sorted((out / MODEL).glob(pattern))}


def test_a_batch_writes_them_and_does_not_collect_again(runs, stage):
    _, out = runs["safetensors"]
    records = list_samples(out / MODEL)["records"]
    assert len(records) == 6
    assert {path.suffix for path in records.values()} == {".safetensors"}
    for name, path in records.items():
        pickled = load_record(runs["pkl"][1] / MODEL / f"{name}.pkl")
        assert_array_equal(load_record(path).attn, pickled.attn)
        assert {**load_record(path).meta, "image_file": ""} == {**pickled.meta, "image_file": ""}
    before = {path: path.stat().st_mtime_ns for path in records.values()}
    assert stage("batch", "safetensors", "logic=paper") == 0  # other rules: every record is read
    assert stage("batch", "safetensors") == 0
    assert json.loads((out / MODEL / "summary.json").read_text())["skipped"] == 6
    assert {path: path.stat().st_mtime_ns for path in records.values()} == before


@pytest.mark.parametrize(
    ("name", "overrides", "written"),
    [
        ("analyze", ["data.attention_dir=FOLDER"], "*_analysis.*"),
        ("visualize", ["data.attention_dir=FOLDER", "save_fig=false"], "*_bbox.json"),
        ("select", ["logic.select.samples=null", "save_fig=false"], "selection_frequency.csv"),
        ("evaluate", ["evaluate.resamples=20", "evaluate.draws=2", "save_fig=false"], "predictions.coco.json"),
        ("study", ["evaluate.resamples=20", "save_fig=false"], "study.md"),
    ],
)
def test_every_stage_makes_the_same_of_them(runs, stage, name, overrides, written):
    found = {}
    for form, (_, out) in runs.items():
        assert stage(name, form, *(word.replace("FOLDER", str(out / MODEL)) for word in overrides)) == 0
        found[form] = files_of(out, written)
    assert found["pkl"]
    assert found["safetensors"] == found["pkl"]


def test_a_report_shows_them(runs, stage):
    assert stage("report", "safetensors") == 0
    page = (runs["safetensors"][1] / MODEL / "report.html").read_text()
    assert not re.search(r"cannot be read|not a record", page)


def test_a_single_file_is_analysed_and_drawn(runs):
    path = next(iter(list_samples(runs["safetensors"][1] / MODEL)["records"].values()))
    for name in ("analyze", "visualize"):
        assert run(configuration(f"stage={name}", f"data.attention_file={path}")) == 0
    assert path.with_name(f"{path.stem}_heads.png").exists()
    box = json.loads(path.with_name(f"{path.stem}_bbox.json").read_text())
    assert np.prod(np.subtract(box["bbox_xyxy"][2:], box["bbox_xyxy"][:2])) > 0
