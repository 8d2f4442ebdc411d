"""The study's table of the tokens that can be read: its rows are what stage=evaluate measures, and what is refused."""

import json
import shutil

import pytest

from lab.base.errors import UserError
from lab.records.folder import list_samples
from pipeline import run
from tests.conftest import configuration

MODEL = "examples-models-picturebook"
QUICK = ("study.discovery=[4]", "study.draws=2", "evaluate.draws=2", "evaluate.resamples=50", "save_fig=false")


@pytest.fixture(scope="module")
def last(collect_scenes):
    """The data file, and a folder of records of the last prompt token."""
    return collect_scenes(8, 5)


@pytest.fixture(scope="module")
def answers(collect_scenes):
    """Records of the answer's tokens of the same samples."""
    return collect_scenes(8, 5, "model.read=answer", "model.max_new_tokens=3")[1] / MODEL


def study(last, *overrides: str) -> dict:
    data, out = last
    paths = (f"data.data_file={data}", f"data.attention_dir={out / MODEL}")
    run(configuration("stage=study", *paths, *QUICK, *overrides))
    return json.loads((out / MODEL / "study.json").read_text())


def test_each_token_finds_its_own_heads_and_is_scored_as_evaluate_does(last, answers, tmp_path):
    found = study(last, f"study.reads=[{answers}]")
    tokens = {(one["read"], one["token"]): one for one in found["tokens"]}
    assert list(tokens) == [("last", "mean"), ("answer", "mean"), ("answer", "first"), ("answer", "last")]
    own = found["tables"]["heads"]["rows"][0]
    assert tokens["last", "mean"]["metrics"] == own["metrics"]
    assert tokens["last", "mean"]["Acc@0.5 gain"] == {"value": 0, "low": 0, "high": 0}
    first = tokens["answer", "first"]
    run(
        configuration(
            "stage=evaluate", f"data.data_file={last[0]}", f"data.attention_dir={answers}",
            f"data.output_dir={tmp_path}", "logic.token=first", "evaluate.controls=[]", "save_fig=false",
            f"logic.heads={first['heads']}".replace(" ", ""),
        )
    )  # fmt: skip
    measured = json.loads((tmp_path / MODEL / "metrics.json").read_text())["metrics"]["chosen"]
    values = {one["metric"]: one["value"] for one in measured if one["group"] == "all"}
    for name, estimate in first["metrics"].items():
        assert estimate["value"] == pytest.approx(values[name], abs=1e-6)
    gain = first["metrics"]["Acc@0.5"]["value"] - tokens["last", "mean"]["metrics"]["Acc@0.5"]["value"]
    assert first["Acc@0.5 gain"]["value"] == pytest.approx(gain, abs=1e-6)
    text = (last[1] / MODEL / "study.md").read_text()
    assert "## Which token" in text
    assert "| answer | first | L" in text


def test_records_of_one_token_make_no_table_and_those_of_several_make_one_by_themselves(last, answers):
    assert study(last)["tokens"] == []
    assert "Which token" not in (last[1] / MODEL / "study.md").read_text()
    alone = study((last[0], answers.parent))
    assert [one["token"] for one in alone["tokens"]] == ["mean", "first", "last"]


def test_folders_that_cannot_be_compared_are_refused(last, answers, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(answers, fewer)
    next(iter(list_samples(fewer)["records"].values())).unlink()
    for overrides, message in (
        ((f"study.reads=[{fewer}]",), "do not hold the same samples"),
        (("study.reads=[nowhere]",), "no such folder"),
        ((f"study.reads=[{answers}]", f"study.find={answers}"), "choose from all, half"),
    ):
        with pytest.raises(UserError, match=message):
            study(last, *overrides)
