"""Which criterion finds the best heads: its table, its winner, and what the model is asked about them."""

import json
import re

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.datasets import read_jsonl
from lab.heads.choice import HeadChoice
from lab.measure.intervals import numbered
from lab.measure.presence import separation
from lab.picturebook.make import make
from lab.presence.swap import asks
from lab.stages.ablate import ablate
from lab.stages.calibrate import ask_all
from lab.stages.study_model import check_asking, drawn, knock_outs, presence
from lab.study.best import Best, BestRow
from llava.model.builder import load_model
from pipeline import run
from tests.conftest import choice_of, configuration
from tests.llava.tiny_families import write_llava_next

MODEL = "examples-models-picturebook"
QUICK = ("study.discovery=[2]", "evaluate.draws=2", "evaluate.resamples=20", "logic.select.trials=2", "save_fig=false")
HEADS = ((1, 5), (1, 6), (2, 4))


@pytest.fixture(scope="module")
def few():
    """Few pictures do for a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.presence.swap.LEAST", 2)
        patch.setattr("lab.stages.study_model.LEAST", 2)
        yield patch


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, picturebook, few):
    folder = tmp_path_factory.mktemp("scenes")
    make(folder, 5, 3, expressions=2)
    few.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    run(configuration("stage=batch", *paths(folder)))
    return folder


def paths(folder) -> tuple[str, str]:
    return f"data.data_file={folder}/picturebook.jsonl", f"data.output_dir={folder}/out"


def test_the_table_stands_in_the_study_with_and_without_asking_the_model(scenes, capsys):
    for ask, columns in ((0, {"Acc@0.5", "cIoU"}), (6, {"Acc@0.5", "cIoU", "auroc", "zero exact", "swap other"})):
        assert run(configuration("stage=study", *paths(scenes), *QUICK, f"study.ask={ask}")) == 0
        found = json.loads((scenes / "out" / MODEL / "study.json").read_text())["best"]
        rows = {row["criterion"]: row for row in found["rows"]}
        assert {"both", "sum only", "selection_v1", "peak", "focus", "oracle", "random, same layers"} <= set(rows)
        for name in ("both", "selection_v1"):
            assert rows[name].keys() - {"criterion", "heads"} == columns
        assert found["asked"] == (0 if ask == 0 else 6)
        assert rows["both"]["Acc@0.5"]["value"] <= rows[found["winner"]]["Acc@0.5"]["value"]
        text = (scenes / "out" / MODEL / "study.md").read_text()
        assert ("study.ask=500 asks the model" in text) is (ask == 0)
        assert found["settings"] in text
        assert found["settings"] in capsys.readouterr().out


def test_presence_and_knock_outs_are_those_of_calibrate_and_ablate(scenes, picturebook):
    config = configuration("ablate.interventions=[zero,swap]", "ablate.sets=[]", *paths(scenes))
    samples = read_jsonl(scenes / "picturebook.jsonl")
    sets = {"both": (HEADS,), "again": (HEADS,)}

    wanted = asks(samples, config.calibrate.swaps, np.random.default_rng(config.seed))
    asked, _ = ask_all(picturebook, wanted, config, HEADS)
    scores = np.array([numbers["focus"] for numbers in asked.numbers])
    pictures = numbered([str(sample.image_file) for sample in asked.samples])
    expected = separation(scores, asked.own, pictures, {"all": np.ones(len(scores), bool)}, resamples=1000)[0]
    told = presence(picturebook, samples, sets, config)
    assert told["both"]["auroc"] == told["again"]["auroc"] == (expected.value, expected.low, expected.high)

    lost = knock_outs(picturebook, samples, sets, config)
    found = ablate(picturebook, samples, config, choice_of(config))
    assert lost["both"] == lost["again"]
    assert lost["both"]["zero exact"][0] == found.of("zero", "exact")["chosen"].difference
    assert lost["both"]["swap other"][0] == found.of("swap", "other")["chosen"].value


def test_a_second_family_is_asked_as_calibrate_and_ablate_ask_it(scenes, tmp_path, monkeypatch):
    name = f"model.name={write_llava_next(tmp_path / 'tiny')}"
    config = configuration("ablate.interventions=[zero,swap]", "ablate.sets=[]", "logic.top_k=2", name, *paths(scenes))
    loaded = load_model(config.model.name, device="cpu")
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: loaded)
    out = ("logic.top_k=2", "study.top_k=[2]", name, *paths(scenes)[:1], f"data.output_dir={tmp_path}/out")
    run(configuration("stage=batch", *out))
    run(configuration("stage=study", *out, *QUICK, "study.ask=10"))
    (path,) = (tmp_path / "out").rglob("study.json")
    rows = {row["criterion"]: row for row in json.loads(path.read_text())["best"]["rows"]}
    columns = {"Acc@0.5", "cIoU", "auroc", "zero exact", "swap other"}
    assert all(rows[one].keys() - {"criterion", "heads"} == columns for one in ("both", "peak", "oracle"))
    heads = rows["both"]["heads"][0]

    samples = read_jsonl(scenes / "picturebook.jsonl")
    found = ablate(loaded, samples, config, HeadChoice(2, tuple(map(tuple, heads))))
    assert rows["both"]["zero exact"]["value"] == found.of("zero", "exact")["chosen"].difference
    assert rows["both"]["swap other"]["value"] == found.of("swap", "other")["chosen"].value
    asked, _ = ask_all(loaded, asks(samples, config.calibrate.swaps, np.random.default_rng(config.seed)), config, heads)
    focus = np.array([numbers["focus"] for numbers in asked.numbers])
    one = {"all": np.ones(len(focus), bool)}
    expected = separation(focus, asked.own, numbered([str(s.image_file) for s in asked.samples]), one, resamples=20)[0]
    assert rows["both"]["auroc"]["value"] == expected.value


def test_whole_pictures_are_drawn_until_there_are_enough_samples(scenes):
    samples = read_jsonl(scenes / "picturebook.jsonl")
    some = drawn(samples, 3, 0)
    assert 3 <= len(some) <= 4
    left = {sample.image_file for sample in samples if sample not in some}
    assert not left & {sample.image_file for sample in some}
    assert drawn(samples, 10_000, 0) == samples


@pytest.mark.parametrize(
    ("option", "message"), [("model.read=expression", "leave out model.read"), ("study.ask=1", "about 1 pictures")]
)
def test_what_cannot_be_asked_is_refused_before_anything_is_measured(scenes, option, message):
    config = configuration("study.ask=5", *paths(scenes), option)
    with pytest.raises(UserError, match=message):
        check_asking(read_jsonl(scenes / "picturebook.jsonl"), config)


@pytest.mark.parametrize(
    ("heads", "gain", "text"),
    [
        ((HEADS[2], HEADS[0], HEADS[1]), (0.0, 0.0, 0.0), "No criterion finds better heads than the paper's two"),
        (((3, 1),), (0.02, -0.01, 0.04), r"by Acc@0.5: peak, \+2.0 points .*, which is not clear: logic.heads=\[\[3,1"),
        (((3, 1),), (0.02, 0.01, 0.04), r"\(\+1.0 to \+4.0\) over the paper's two: logic.heads=\[\[3,1\]\]"),
    ],
)
def test_the_winner_is_told_with_the_settings_to_copy(heads, gain, text):
    best = Best([BestRow("both", (HEADS,)), BestRow("peak", (heads,))], "peak", gain)
    assert re.search(text, best.verdict())
