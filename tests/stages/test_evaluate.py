"""stage=evaluate: the chosen heads beside controls, on scenes whose truth is known."""

import json
import shutil

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.measure.controls import merge_draws, sets_of_same_layers
from lab.measure.intervals import Estimate
from lab.measure.overview import Overview, rank_correlation
from lab.records.folder import list_samples
from pipeline import run
from tests.conftest import configuration

MODEL = "examples-models-picturebook"
N = 10


@pytest.fixture(scope="module")
def scenes(collect_scenes):
    """The data file and the folder of outputs."""
    return collect_scenes(N, 3)


def evaluate(scenes, *overrides: str) -> dict:
    data, out = scenes
    run(configuration("stage=evaluate", f"data.data_file={data}", f"data.output_dir={out}", *overrides))
    return json.loads((out / MODEL / "metrics.json").read_text())


def value(metrics: dict, row: str, metric: str) -> float:
    return next(e["value"] for e in metrics["metrics"][row] if e["metric"] == metric and e["group"] == "all")


def test_every_control_has_a_row_and_everything_is_written(scenes, capsys):
    metrics = evaluate(scenes)
    assert list(metrics["metrics"]) == [
        "chosen", "random, same layers", "all heads", "attention sum only", "entropy only", "picked per sample",
        "oracle, best head", "oracle, best 3 heads", "centre box",
    ]  # fmt: skip
    out = scenes[1] / MODEL
    assert {"metrics.md", "predictions.coco.json", "head_iou.png"} <= {p.name for p in out.iterdir()}
    assert len(json.loads((out / "predictions.coco.json").read_text())) == N
    assert np.array(metrics["head_mean_iou"]).shape == (8, 8)
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines() if str(out) not in line) <= 84
    assert "chosen" in printed


def test_chosen_heads_find_things_and_random_heads_and_the_centre_find_fewer(scenes):
    metrics = evaluate(scenes, "save_fig=false")
    assert value(metrics, "chosen", "Acc@0.5") >= 0.5
    assert value(metrics, "random, same layers", "Acc@0.5") < value(metrics, "chosen", "Acc@0.5")
    assert value(metrics, "centre box", "Acc@0.5") < value(metrics, "chosen", "Acc@0.5")
    assert value(metrics, "oracle, best head", "box IoU") == pytest.approx(np.max(metrics["head_mean_iou"]), abs=1e-4)


def test_a_sample_without_a_record_is_a_miss_and_is_listed(scenes, tmp_path):
    data, out = scenes
    lines = data.read_text().splitlines()
    more = json.loads(lines[0]) | {"id": "never_collected"}
    longer = data.parent / "longer.jsonl"
    longer.write_text("\n".join([*lines, json.dumps(more)]) + "\n")
    before = evaluate(scenes, "evaluate.controls=[]", "save_fig=false")
    after = evaluate((longer, out), "evaluate.controls=[]", "save_fig=false")
    assert list(after["metrics"]) == ["chosen"]
    assert after["misses"] == {"never_collected": "no prediction"}
    assert value(after, "chosen", "Acc@0.5") == pytest.approx(value(before, "chosen", "Acc@0.5") * N / (N + 1))


@pytest.mark.parametrize("stage", ["evaluate", "study", "report"])
def test_records_about_other_expressions_are_told(scenes, caplog, tmp_path, stage):
    data, records = scenes
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines[2]["prompt"] += "."  # the same, as data.final_period makes it
    lines[4]["prompt"] = "another thing"
    other = data.with_name("other.jsonl")
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths = f"data.data_file={other}", f"data.attention_dir={records / MODEL}", f"data.output_dir={tmp_path}"
    run(configuration(f"stage={stage}", *paths, "save_fig=false"))
    told = [one.getMessage() for one in caplog.records if "other expressions" in one.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("1 of ")
    assert "not 'another thing': collect them again with stage=batch" in told[0]


def test_a_record_that_cannot_be_read_is_a_miss_and_the_exit_code_is_1(scenes, tmp_path, caplog):
    data, out = scenes
    shutil.copytree(out, tmp_path / "out")
    broken, empty = list(list_samples(tmp_path / "out" / MODEL)["records"].values())[:2]
    broken.write_bytes(broken.read_bytes()[:100])
    empty.write_bytes(b"")
    quick = ("evaluate.controls=[]", "save_fig=false", f"data.data_file={data}", f"data.output_dir={tmp_path / 'out'}")
    assert run(configuration("stage=evaluate", *quick)) == 1
    metrics = json.loads((tmp_path / "out" / MODEL / "metrics.json").read_text())
    assert set(metrics["unreadable"]) == {broken.name, empty.name}
    assert metrics["misses"] == dict.fromkeys((broken.stem, empty.stem), "no prediction")
    assert f"2 of {N} files cannot be read and count as missing" in caplog.text


def test_the_older_box_convention_gives_other_figures(scenes):
    exclusive, inclusive = (
        evaluate(scenes, "evaluate.controls=[]", "save_fig=false", f"metrics.box={b}")
        for b in ("exclusive", "inclusive")
    )
    assert value(exclusive, "chosen", "box IoU") != value(inclusive, "chosen", "box IoU")


def test_wrong_input_is_refused(scenes, tmp_path):
    data, out = scenes
    with pytest.raises(UserError, match="choose from random, all"):
        evaluate(scenes, "evaluate.controls=[magic]")
    with pytest.raises(UserError, match="bbox"):
        _without_truth(data, out, tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace('"3_', '"x_'))
    with pytest.raises(UserError, match="no sample of 10 has a record"):
        evaluate((other, out))


def _without_truth(data, out, tmp_path):
    plain = tmp_path / "plain.jsonl"
    rows = [
        {k: v for k, v in json.loads(line).items() if k not in ("bbox", "mask_path")}
        for line in data.read_text().splitlines()
    ]
    plain.write_text("\n".join(map(json.dumps, rows)))
    evaluate((plain, out))


def test_without_fixed_heads_there_is_no_random_control(scenes):
    metrics = evaluate(scenes, "logic.heads=null", "evaluate.controls=[random,greedy]", "save_fig=false")
    assert list(metrics["metrics"]) == ["chosen", "picked per sample"]
    assert value(metrics, "chosen", "box IoU") == value(metrics, "picked per sample", "box IoU")


def test_random_heads_are_of_the_same_layers_and_not_the_heads_themselves():
    heads = [(1, 5), (1, 6), (2, 4)]
    few, many = (sets_of_same_layers(heads, number, 20, np.random.default_rng(0)) for number in (8, 32))
    assert (len(few.sets), few.total, few.all) == (105, 105, True)  # (6 choose 2) x 7
    assert (len(many.sets), many.total, many.all) == (20, 435 * 31, False)
    for drawn in (*few.sets, *many.sets):
        assert [layer for layer, _ in drawn] == [1, 1, 2]
        assert len({*drawn, *heads}) == 6
    assert len(set(few.sets)) == 105
    assert "all 105 sets" in few.note
    assert "20 of the 13,485 sets" in many.note
    crowded = sets_of_same_layers([(0, 0), (0, 1), (0, 2)], 4, 20, np.random.default_rng(0))
    assert len(crowded.sets) == 4  # one other head is too few: any three of the layer
    assert crowded.note == (
        "all 4 sets of heads of the same layers, among them chosen ones, since a layer has too few others"
    )


def test_draws_become_one_row_with_their_mean():
    rows = {"chosen": [Estimate("all", "Acc@0.5", 0.8, 0.7, 0.9, 10)]}
    rows |= {f"random {i}": [Estimate("all", "Acc@0.5", v, 0, 1, 10)] for i, v in enumerate((0.1, 0.2, 0.6))}
    merged = merge_draws(rows)
    assert list(merged) == ["chosen", "random, same layers"]
    assert merged["random, same layers"][0].value == pytest.approx(0.3)


def test_rank_correlation_is_one_where_selection_follows_quality():
    counts = np.arange(6.0).reshape(2, 3)
    view = Overview((2, 3), counts, counts, counts, 0, counts**2, samples=1)
    assert rank_correlation(view) == (pytest.approx(1.0), 5)
    assert rank_correlation(Overview.empty((2, 3))) == (None, 0)
