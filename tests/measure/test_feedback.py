"""What is written about samples is read by others, and by this tool: every output that can be an input gives IoU 1."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

from lab.datasets import Sample, read_jsonl, read_truth, rle
from lab.measure.metrics import Score
from lab.measure.spreadsheet import HEADER, csv_line
from lab.records.files import load_record, save_record
from lab.records.folder import list_samples
from pipeline import run
from tests.conftest import configuration
from tests.examples.test_guides import shown

MODEL = "examples-models-picturebook"
N = 6
GUIDE_FOLDER = "runs/studied/examples-models-picturebook"


@pytest.fixture(scope="module")
def scenes(collect_scenes):
    """The data file, and the folder of records and results of scenes that were evaluated."""
    data, out = collect_scenes(N, 5)
    evaluate(data, out)
    run(configuration("stage=select", f"data.output_dir={out}", "logic.select.samples=null", "save_fig=false"))
    return data, out / MODEL


def evaluate(data: Path, out: Path, *overrides: str) -> dict[str, float]:
    """The chosen heads' figures over all samples."""
    quick = "evaluate.controls=[]", "evaluate.resamples=10", "save_fig=false"
    run(configuration("stage=evaluate", f"data.data_file={data}", f"data.output_dir={out}", *quick, *overrides))
    rows = json.loads((out / MODEL / "metrics.json").read_text())["metrics"]["chosen"]
    return {row["metric"]: row["value"] for row in rows if row["group"] == "all"}


# every output that can be an input: what it tells of a sample, as a data file has it


def of_predictions(folder: Path, name: str) -> dict:
    found = {row["id"]: row for row in json.loads((folder / "predictions.coco.json").read_text())}[name]
    return {"bbox": found["bbox"], "segmentation": found["segmentation"]}


def of_table(folder: Path, name: str) -> dict:
    row = pandas.read_csv(folder / "samples.csv", dtype={"id": str}).set_index("id").loc[name]
    return {"bbox": [int(row[edge]) for edge in ("x0", "y0", "x1", "y1")], "bbox_format": row["bbox_format"]}


def of_box(folder: Path, name: str) -> dict:
    found = json.loads((folder / f"{name}_bbox.json").read_text())
    return {"bbox": found["bbox_xyxy"], "bbox_format": found["bbox_format"]}


def of_xywh(folder: Path, name: str) -> dict:
    return {"bbox": json.loads((folder / f"{name}_bbox.json").read_text())["bbox_xywh"]}


def of_mask(folder: Path, name: str) -> dict:
    return {"mask_path": str(folder / f"{name}_mask.png"), **of_box(folder, name)}


OUTPUTS = {
    "predictions.coco.json": of_predictions,
    "samples.csv": of_table,
    "X_bbox.json": of_box,
    "X_bbox.json, xywh": of_xywh,
    "X_mask.png": of_mask,
}


def as_truth(scenes, tmp_path: Path, tell) -> Path:
    """The data file with another truth: what `tell(folder, id)` gives."""
    data, folder = scenes
    rows = [
        {"id": s.id, "prompt": s.query, "image_path": str(s.image_file), **tell(folder, s.id)} for s in read_jsonl(data)
    ]
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "again.jsonl"


@pytest.mark.parametrize("output", OUTPUTS)
def test_boxes_and_masks_that_were_written_are_found_again(scenes, tmp_path, output):
    data = as_truth(scenes, tmp_path, OUTPUTS[output])
    shutil.copytree(scenes[1], tmp_path / MODEL, ignore=shutil.ignore_patterns("*_analysis*"))
    found = evaluate(data, tmp_path)
    assert found["box IoU"] == found.get("mIoU", 1) == 1
    assert ("mIoU" in found) == (output in ("predictions.coco.json", "X_mask.png"))


def test_predictions_are_the_same_by_either_convention_of_the_metrics(scenes, tmp_path):
    shutil.copytree(scenes[1], tmp_path / MODEL)
    evaluate(scenes[0], tmp_path, "metrics.box=inclusive")
    for name in ("predictions.coco.json", "truth.coco.json"):
        assert (tmp_path / MODEL / name).read_text() == (scenes[1] / name).read_text()


def test_heads_of_a_file_make_the_boxes_of_the_same_heads_by_number(scenes, tmp_path):
    file = scenes[1] / "localization_heads.json"
    heads = [[row["layer"], row["head"]] for row in json.loads(file.read_text())["heads"]][:3]
    shutil.copytree(scenes[1], tmp_path / MODEL)
    evaluate(scenes[0], tmp_path, f"logic.heads={heads}")
    data = as_truth((scenes[0], tmp_path / MODEL), tmp_path, of_predictions)
    assert evaluate(data, tmp_path, f"logic.heads={file}")["box IoU"] == 1


@pytest.mark.parametrize("ending", ["pkl", "pkl.gz", "safetensors"])
def test_records_make_the_same_boxes_in_every_format(scenes, tmp_path, ending):
    (tmp_path / MODEL).mkdir()
    for name, path in list_samples(scenes[1])["records"].items():
        save_record(tmp_path / MODEL / f"{name}.{ending}", load_record(path))
    found = evaluate(as_truth(scenes, tmp_path, of_predictions), tmp_path)
    assert found["box IoU"] == found["mIoU"] == 1


# COCO's tools


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_cocos_tools_run_in_the_four_lines_of_the_guide(scenes, monkeypatch, kind):
    monkeypatch.chdir(scenes[1])
    names: dict = {}
    code = shown("examples/guides/evaluate-and-study.md", "COCOeval")
    exec(code.replace('"bbox"', f'"{kind}"').replace(GUIDE_FOLDER, "."), names)
    table = pandas.read_csv("samples.csv", dtype={"id": str}).set_index("id")
    ious = {image: pair[0, 0] for (image, _), pair in names["evaluation"].ious.items()}
    assert ious == pytest.approx(table["iou" if kind == "bbox" else "mask_iou"].to_dict(), abs=1e-6)
    assert 0 < names["evaluation"].stats[1] <= 1


def test_the_truth_in_cocos_format_is_that_of_the_data_file(scenes):
    data, folder = scenes
    found = json.loads((folder / "truth.coco.json").read_text())
    truths = [read_truth(sample) for sample in read_jsonl(data)]
    assert [image["expression"] for image in found["images"]] == [sample.query for sample in read_jsonl(data)]
    for row, truth in zip(found["annotations"], truths, strict=True):
        x, y, width, height = row["bbox"]
        assert (row["image_id"], (x, y, x + width, y + height)) == (truth.id, truth.box_xyxy)
        assert np.array_equal(rle.decode(row["segmentation"]), truth.mask)


# the table


HARMFUL = ["=1+1", "+1", "-1", "@A1", "'quoted", "\uff1d1", 'a "cat", red', "zwei\nZeilen", "plain = text"]


def table_of(*samples: Sample) -> bytes:
    return HEADER + b"".join(csv_line(sample, None, Score(sample.id, None, "small", 0.0)) for sample in samples)


def test_no_text_is_a_formula_and_every_text_can_be_read_back():
    data = table_of(*(Sample(f"{i}", text, Path(text)) for i, text in enumerate(HARMFUL)))
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    for row, text in zip(rows, HARMFUL, strict=True):
        for cell in (row["expression"], row["picture"]):
            assert cell[0] not in "=+-@\uff1d"
            assert cell.removeprefix("'") == text


def test_pandas_keeps_ids_as_they_are_in_the_lines_of_the_guide(tmp_path, monkeypatch):
    ids = ["00012", "17", "1e5", "NA", "null", "true", "bird"]
    (tmp_path / "samples.csv").write_bytes(table_of(*(Sample(i, "NA", Path("a.png")) for i in ids)))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(shown("examples/guides/evaluate-and-study.md", "read_csv").replace(GUIDE_FOLDER, "."), names)
    table = names["table"]
    assert table["id"].tolist() == ids
    assert table["expression"].tolist() == ["NA"] * len(ids)
    assert table["x0"].isna().all()
    assert table["iou"].tolist() == [0.0] * len(ids)


def test_a_sample_without_a_record_has_a_line_without_a_box(scenes, tmp_path):
    shutil.copytree(scenes[1], tmp_path / MODEL)
    gone = next(iter(list_samples(tmp_path / MODEL)["records"]))
    (tmp_path / MODEL / f"{gone}.pkl").unlink()
    evaluate(scenes[0], tmp_path)
    table = pandas.read_csv(tmp_path / MODEL / "samples.csv", dtype={"id": str}).set_index("id")
    assert len(table) == N
    assert table.loc[gone, ["x0", "heads"]].isna().all()
    assert table.loc[gone, "iou"] == 0
    assert table.drop(gone)["x0"].notna().all()
