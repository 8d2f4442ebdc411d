"""The SAM that ships with the project: small, sharp on unseen scenes, and better than the grid behind the heads."""

import json

import numpy as np
import pytest

from lab.base.paths import PROJECT
from lab.picturebook.sam.evaluate import SamEvaluateConfig, evaluate
from pipeline import run
from tests.conftest import configuration

FOLDER = PROJECT / "examples/models/picturebook_sam"


def test_it_fits_into_eight_megabytes_and_brings_its_card_and_its_logs():
    assert (FOLDER / "model.safetensors").stat().st_size < 8e6
    for name in ("README.md", "config.json", "processor_config.json", "prompts_only.log.jsonl", "all.log.jsonl"):
        assert (FOLDER / name).exists()


def test_with_the_true_box_it_cuts_out_unseen_things():
    scores, off = evaluate(SamEvaluateConfig(str(FOLDER), "cpu", n=12, seed=60))["the true box"]
    assert np.mean([one.intersection / one.union for one in scores]) > 0.85
    assert np.mean(off) < 0.1


def test_behind_the_heads_its_masks_are_sharper_than_the_grids(collect_scenes):
    data, out = collect_scenes(16, 61)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        sharp = "logic.refine=sam", "evaluate.controls=[]", "evaluate.resamples=10", "save_fig=false"
        assert run(configuration("stage=evaluate", f"data.data_file={data}", f"data.output_dir={out}", *sharp)) == 0
    rows = json.loads((out / "examples-models-picturebook/metrics.json").read_text())["refined"]
    ciou = {
        name: next(e["value"] for e in row if (e["group"], e["metric"]) == ("all", "cIoU"))
        for name, row in rows.items()
    }
    assert ciou["box"] > ciou["none: the grid's mask"] + 0.1
    assert ciou["the true box"] > 0.85


def test_a_picture_gets_its_sharp_mask_with_one_more_word(tmp_path, picturebook, monkeypatch):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    monkeypatch.chdir(PROJECT)
    assert run(configuration("logic.refine=sam", f"data.output_dir={tmp_path}", "save_fig=false")) == 0
    told = json.loads((tmp_path / "examples-models-picturebook/bird_bbox.json").read_text())["refine"]
    assert told["checkpoint"] == "examples/models/picturebook_sam"
    assert told["estimate"] > 0.7
