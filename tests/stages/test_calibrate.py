"""stage=calibrate, and what the other stages make of a calibration: on the shipped model and drawn scenes."""

import csv
import json

import pytest

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.heads.files import KNOWN
from lab.picturebook.make import make
from llava.model.builder import load_model
from pipeline import run
from tests.conftest import configuration
from tests.llava.tiny_families import write_llava_next

HEADS = ((1, 5), (2, 4))


@pytest.fixture(autouse=True)
def _shipped_model(monkeypatch, picturebook):
    monkeypatch.setattr("lab.stages.common.load_model", lambda config: picturebook)
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"), 52, 80)


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    return make(tmp_path_factory.mktemp("absent"), 8, 81, absent=["neither"])


def test_a_calibration_lies_beside_its_heads_and_is_used_with_them(scenes, absent, tmp_path, capsys):
    rows = [{"layer": layer, "head": head} for layer, head in HEADS]
    heads = tmp_path / "localization_heads.json"
    heads.write_text(json.dumps({"num_layers": 8, "num_heads": 8, "model": None, "heads": rows}))
    named = (f"logic.heads={heads}", "logic.top_k=2", f"data.output_dir={tmp_path}/out", "save_fig=false")
    assert run(configuration("stage=calibrate", f"data.data_file={scenes}", "calibrate.swaps=2", *named)) == 0
    content = json.loads((tmp_path / "presence.json").read_text())
    assert content["heads"] == [list(head) for head in HEADS]
    assert (content["own"], content["pictures"]) == (52, 52)
    assert 90 < content["swapped"] <= 104
    assert min(content["rule"]["weights"].values()) >= 0
    swapped = next(row for row in content["separation"] if (row["group"], row["metric"]) == ("swapped", "auroc"))
    assert 0.7 < swapped["value"] <= 1
    assert "swapped" in capsys.readouterr().out
    assert "AUROC" in (tmp_path / "presence.md").read_text()

    asked = ("stage=evaluate", f"data.data_file={absent}", "evaluate.controls=[]", "evaluate.resamples=20", *named)
    assert run(configuration(*asked, "data.process_all=true", "logic.presence.threshold=0.5")) == 0
    folder = next((tmp_path / "out").iterdir())
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = {one["metric"]: one["value"] for one in metrics["without_target"]["figures"]}
    separation = {(one["group"], one["metric"]): one["value"] for one in metrics["without_target"]["presence"]}
    assert separation["absent neither", "auroc"] > 0.9
    assert figures["N-acc"] > 0.7
    lines = list(csv.DictReader((folder / "samples.csv").read_text("utf-8-sig").splitlines()))
    for line in lines:
        assert (line["present"] == "0") == line["id"].endswith("neither")
        assert (line["x0"] == "") == (float(line["presence"]) < 0.5)
    found = json.loads((folder / "predictions.coco.json").read_text())
    assert all(0.5 <= row["score"] <= 1 for row in found)
    truth = json.loads((folder / "truth.coco.json").read_text())
    assert len(truth["images"]) == len(lines) == 2 * len(truth["annotations"])

    assert run(configuration(*asked)) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = {one["metric"]: one["value"] for one in metrics["without_target"]["figures"]}
    assert (figures["N-acc"], figures["T-acc"]) == (0, 1), "without a threshold there is always a box"


def test_a_second_family_is_calibrated_and_known_heads_get_no_file_among_them(scenes, tmp_path, monkeypatch):
    name = write_llava_next(tmp_path / "tiny")
    loaded = load_model(str(name), device="cpu")
    monkeypatch.setattr("lab.stages.common.load_model", lambda config: loaded)
    model = ("model=auto", f"model.name={name}", "logic.heads=[[0,0],[1,1]]", f"data.output_dir={tmp_path}/out")
    assert run(configuration("stage=calibrate", *model, f"data.data_file={scenes}", "calibrate.swaps=1")) == 0
    written = next((tmp_path / "out").rglob("presence.json"))
    assert json.loads(written.read_text())["model"] == str(name)
    assert run(configuration("stage=pipeline", *model, f"logic.presence.file={written}", "save_fig=false")) == 0
    found = json.loads((written.parent / "bird_bbox.json").read_text())
    assert 0 <= found["presence"] <= 1


def test_heads_of_the_project_get_no_calibration_beside_them(scenes, tmp_path, capsys):
    before = sorted(KNOWN.iterdir())
    named = ("logic.heads=picturebook", f"data.output_dir={tmp_path}/out")
    assert run(configuration("stage=calibrate", *named, f"data.data_file={scenes}", "calibrate.swaps=1")) == 0
    assert sorted(KNOWN.iterdir()) == before
    written = next((tmp_path / "out").rglob("presence.json"))
    assert f"use it: logic.presence.file={written}" in capsys.readouterr().out


def test_what_cannot_be_calibrated_is_told_in_one_line(absent, scenes, tmp_path, caplog):
    with pytest.raises(UserError, match="8 expressions about 8 pictures are too few"):
        run(configuration("stage=calibrate", f"data.data_file={absent}"))
    with pytest.raises(UserError, match="needs fixed heads"):
        run(configuration("stage=calibrate", f"data.data_file={scenes}", "logic.heads=null"))
    with pytest.raises(UserError, match=r"model\.read=last or expression"):
        run(configuration("stage=calibrate", "model=picturebook_answer", f"data.data_file={scenes}"))
    same, gone = tmp_path / "same.jsonl", tmp_path / "gone.jsonl"
    lines = [json.loads(line) for line in scenes.read_text().splitlines()]
    for line in lines:
        line["image_path"] = str(scenes.parent / line["image_path"])
        del line["mask_path"]
    same.write_text("\n".join(json.dumps(line | {"prompt": "a thing"}) for line in lines))
    with pytest.raises(UserError, match="all pictures have the same expressions"):
        run(configuration("stage=calibrate", f"data.data_file={same}"))
    gone.write_text(
        "\n".join(json.dumps(one | {"image_path": f"{i}.png"} if i < 3 else one) for i, one in enumerate(lines))
    )
    with pytest.raises(UserError, match="49 expressions about 49 pictures are too few"):
        run(configuration("stage=calibrate", f"data.data_file={gone}", "calibrate.swaps=1"))
    assert "of 104 expressions could not be asked, the first one because: No such image" in caplog.text
    with pytest.raises(UserError, match=r"logic\.presence\.threshold=2"):
        configuration("logic.presence.threshold=2")
