"""The criteria that need other records of the same thing, in the study's table."""

import json

import pytest

from lab.base.errors import UserError
from lab.datasets import read_jsonl
from lab.datasets.__main__ import main
from lab.picturebook.make import make
from lab.study.find import split
from pipeline import run
from tests.conftest import configuration, study_settings

MODEL = "examples-models-picturebook"
QUICK = ("study.discovery=[2]", "evaluate.draws=2", "evaluate.resamples=20", "logic.select.trials=2", "save_fig=false")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, picturebook):
    """A folder with the scenes, their mirrored pictures, and the records of both."""
    folder = tmp_path_factory.mktemp("scenes")
    data, turned = make(folder / "data", 5, 3, wordings=2), folder / "turned.jsonl"
    main(["convert", "jsonl", str(data), "--mirrored", "--out", str(turned)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
        for path, out in ((data, "out"), (turned, "out_turned")):
            run(configuration("stage=batch", f"data.data_file={path}", f"data.output_dir={folder / out}"))
    return folder


def study(folder, *options: str) -> dict:
    data, out = folder / "data" / "picturebook.jsonl", folder / "out"
    assert run(configuration("stage=study", f"data.data_file={data}", f"data.output_dir={out}", *QUICK, *options)) == 0
    return json.loads((out / MODEL / "study.json").read_text())["tables"]["criteria"]


def test_both_criteria_have_their_rows_where_the_records_are(scenes):
    found = study(scenes, f"study.mirrored={scenes}/out_turned/{MODEL}")
    names = [row["labels"][1] for row in found["rows"] if row["labels"][0] == "fixed"]
    assert names == ["both", "sum only", "entropy only", "selection_v1", "peak", "focus", "wordings", "mirrored"]
    assert "relative needs the generic prompt's attention" in found["note"]
    assert ["per sample", "mirrored"] in [row["labels"] for row in found["rows"]]


def test_without_them_the_note_says_what_would_be_needed(scenes):
    found = study(scenes)
    assert "mirrored" not in {row["labels"][1] for row in found["rows"]}
    assert "mirrored needs records of the mirrored pictures (python -m lab.datasets convert" in found["note"]


def test_other_wordings_are_those_of_the_same_thing_in_the_same_picture(scenes):
    config = configuration("stage=study", f"data.data_file={scenes}/data/picturebook.jsonl", *QUICK)
    samples = read_jsonl(scenes / "data" / "picturebook.jsonl")
    parts = split(samples, scenes / "out" / MODEL, study_settings(config))
    for sample in samples:
        beside = parts.beside[parts.files[sample.id]]
        same = [one for one in samples if one.thing == sample.thing and one.query != sample.query]
        assert beside.wordings == tuple(parts.files[one.id] for one in same)
        assert beside.mirrored is None


@pytest.mark.parametrize(("folder", "message"), [("out", "is not of the mirrored picture"), ("data", "no record")])
def test_a_folder_of_other_records_is_refused(scenes, folder, message):
    where = scenes / folder / MODEL if folder == "out" else scenes / folder
    with pytest.raises(UserError, match=message) as caught:
        study(scenes, f"study.mirrored={where}")
    assert "study.mirrored" in str(caught.value)
    assert "\n" not in str(caught.value)
