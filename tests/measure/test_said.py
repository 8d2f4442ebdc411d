"""The row of stage=evaluate that tells what the model says itself."""

import json

import pytest

from lab.base.errors import UserError
from lab.records.files import load_record, save_record
from lab.records.folder import list_samples
from pipeline import run
from tests.conftest import configuration

MODEL = "examples-models-picturebook"


def test_the_first_box_of_the_answer_is_measured_as_a_box(collect_scenes):
    data, out = collect_scenes(4, 5)
    truth = {line["id"]: line["bbox"] for line in map(json.loads, data.read_text().splitlines())}
    paths = (f"data.data_file={data}", f"data.output_dir={out}")
    asked = ("stage=evaluate", *paths, "evaluate.controls=[said,centre]", "evaluate.resamples=10")
    with pytest.raises(UserError, match=r"holds no answer with boxes: collect with model\.use_generate=true"):
        run(configuration(*asked))
    for number, (name, path) in enumerate(sorted(list_samples(out / MODEL)["records"].items())):
        record = load_record(path)
        x, y, width, height = truth[name]
        boxes = [[], [[x, y, x + width, y + height]], [[x, y, x + width, y + height / 2], [0, 0, 9, 9]], []][number]
        record.meta["answer_boxes"] = boxes
        save_record(path, record)
    run(configuration(*asked))
    rows = json.loads((out / MODEL / "metrics.json").read_text())["metrics"]
    said = {one["metric"]: one["value"] for one in rows["what the model says itself"] if one["group"] == "all"}
    assert said["box IoU"] == pytest.approx((1 + 0.5) / 4)
    assert said["Acc@0.5"] == pytest.approx(0.5)
    assert "cIoU" not in said or said["cIoU"] is None
