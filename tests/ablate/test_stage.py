"""stage=ablate on drawn scenes, with and without answers, and on a second family."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from collector import collect, prepare
from lab.ablate.report import to_json
from lab.ablate.speaking import Spoken, first_box
from lab.attention.capture import use_attention
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.datasets import read_jsonl
from lab.picturebook.make import make
from lab.stages.ablate import ablate
from llava.model.builder import load_model
from pipeline import run
from tests.conftest import choice_of, configuration
from tests.llava.tiny_families import write_llava_next

QUICK = (
    "ablate.draws=2", "ablate.resamples=50", "ablate.sets=[best,random,any,matched,others,all]", "ablate.best=[1,3]",
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"), 7, 40, expressions=2)


@pytest.fixture
def ablated(picturebook, monkeypatch, tmp_path):
    """ablated(data, overrides) -> what is in ablate.json"""
    monkeypatch.setattr("lab.stages.common.load_model", lambda config: picturebook)

    def asked(data, *overrides: str) -> dict:
        paths = (f"data.data_file={data}", f"data.output_dir={tmp_path}/out")
        assert run(configuration("stage=ablate", *paths, *QUICK, *overrides)) == 0
        return json.loads((tmp_path / "out/examples-models-picturebook/ablate.json").read_text())

    return asked


def value(content: dict, intervention: str, metric: str, name: str) -> float:
    keys = (name, intervention, metric)
    return next(r["value"] for r in content["rows"] if (r["name"], r["intervention"], r["metric"]) == keys)


def test_the_chosen_heads_steer_and_suffice_and_others_do_not(ablated, scenes, tmp_path, capsys):
    content = ablated(scenes, "ablate.sets=[random,others,all]")
    assert content["heads"] == [[1, 5], [1, 6], [2, 4]]
    assert {row["intervention"] for row in content["rows"]} == {
        "redirect", "swap", "background", "keep_uniform", "zero", "mean", "uniform", "block",
    }  # fmt: skip
    for intervention in ("redirect", "swap"):
        chosen, random = (value(content, intervention, "other", name) for name in ("chosen", "random"))
        assert random <= 0.1 < 0.5 <= chosen
    assert value(content, "keep_uniform", "first_word", "chosen") > value(content, "keep_uniform", "first_word", "none")
    assert value(content, "zero", "exact", "chosen") < value(content, "zero", "exact", "random")
    assert value(content, "zero", "divergence", "untouched") == 0
    assert value(content, "redirect", "others_there", "untouched") == 0
    looks = {(row["intervention"], row["metric"]) for row in content["rows"] if row["metric"].startswith("others_")}
    assert {name for name, metric in looks if metric == "others_there"} == {"redirect", "background"}
    assert ("swap", "others_target") in looks
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:10])) <= 80
    folder = tmp_path / "out/examples-models-picturebook"
    assert {"ablate.md", "ablate.png", "config.ablate.yaml"} <= {path.name for path in folder.iterdir()}
    assert "Do they steer?" in (folder / "ablate.md").read_text()


def test_a_file_without_answers_and_truth_is_measured_by_divergence(ablated, scenes, tmp_path):
    lines = [json.loads(line) for line in scenes.read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    kept = [{key: line[key] for key in ("id", "prompt")} for line in lines]
    rows = [
        {**row, "image_path": str(scenes.parent / line["image_path"])} for row, line in zip(kept, lines, strict=True)
    ]
    bare.write_text("".join(json.dumps(row) + "\n" for row in rows[:6]))
    content = ablated(bare, "ablate.interventions=[redirect,swap,zero]", "logic.heads=null")
    assert {(row["intervention"], row["metric"]) for row in content["rows"]} == {
        ("swap", "divergence"), ("zero", "divergence"),
    }  # fmt: skip
    assert content["heads"] == content["heads_by_selection"][:3]
    assert value(content, "swap", "divergence", "all") > 0


def test_boxes_that_it_writes_are_compared_with_what_was_meant_and_with_the_other(
    ablated, scenes, tmp_path, monkeypatch
):
    lines = [json.loads(line) for line in scenes.read_text().splitlines()]
    first, second = next((a, b) for a, b in pairwise(lines) if a["image_path"] == b["image_path"])
    x, y, width, height = first["bbox"]
    monkeypatch.setattr("lab.ablate.trial.first_box", lambda *_: (x, y, x + width, y + height))  # it never follows
    pair = scenes.parent / "pair.jsonl"
    pair.write_text("".join(json.dumps(line) + "\n" for line in (first, second)))
    content = ablated(pair, "ablate.written=true", "ablate.interventions=[redirect,swap]", "ablate.sets=[random]")
    for name in ("untouched", "chosen", "random"):
        assert value(content, "swap", "box_target", name) == 0.5  # right for the first, wrong for the second
        assert value(content, "swap", "box_other", name) == 0.5  # and the other way round
        assert value(content, "redirect", "box_target", name) == 0.5


def test_the_first_box_of_an_answer_is_in_pixels_of_the_picture(picturebook):
    question = prepare(picturebook, Image.new("RGB", (300, 180)), ["a cat"])
    tokenizer = SimpleNamespace(decode=lambda ids: "at [0.25, 0.25, 0.5, 0.75], or [0, 0, 1, 1]" if ids else "no")
    picture = SimpleNamespace(loaded=SimpleNamespace(family=picturebook.family, tokenizer=tokenizer), question=question)
    assert first_box(picture, Spoken((1,), torch.zeros(1))) == pytest.approx((75, 15, 150, 165))  # of the padded square
    assert first_box(picture, Spoken((), torch.zeros(1))) is None


def test_at_the_last_prompt_token_alone_the_answer_goes_on_untouched(ablated, scenes):
    onward, last = (
        ablated(scenes, "ablate.interventions=[zero]", "data.end_index=4", f"ablate.tokens={tokens}", "save_fig=false")
        for tokens in ("onward", "last")
    )
    assert value(last, "zero", "first_word", "all") == value(onward, "zero", "first_word", "all")
    assert value(last, "zero", "logprob", "all") > value(onward, "zero", "logprob", "all")


def test_a_sample_that_is_malformed_fails_alone(ablated, scenes, tmp_path, caplog):
    lines = [json.loads(line) for line in scenes.read_text().splitlines()][:4]
    for line in lines:
        line["image_path"] = str(scenes.parent / line["image_path"])
        line["mask_path"] = str(scenes.parent / line["mask_path"])
    lines[0]["mask_path"] = "gone.png"
    data = tmp_path / "one.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    quick = ("ablate.sets=[]", "ablate.interventions=[redirect]", "ablate.best=[1,99]", "save_fig=false")
    asked = configuration("stage=ablate", f"data.data_file={data}", f"data.output_dir={tmp_path}/out", *quick)
    assert run(asked) == 1
    content = json.loads((tmp_path / "out/examples-models-picturebook/ablate.json").read_text())
    assert list(content["failed"]) == [lines[0]["id"]]
    assert content["samples"] == 3
    assert content["random_sets"] == ""
    data.write_text("\n".join(json.dumps(line | {"mask_path": "gone.png"}) for line in lines))
    with pytest.raises(UserError, match=r"no sample could be asked, the first because: .*gone\.png"):
        run(asked)


def test_what_is_not_measured_is_told(ablated, scenes, caplog):
    ablated(scenes, "ablate.sets=[best]", "ablate.best=[1,99]", "ablate.interventions=[zero]", "data.end_index=4")
    assert "left out: the best [99] heads (ablate.best), for there are 64" in caplog.text


@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_a_second_family_runs(tmp_path, scenes, attention):
    model = f"model.name={write_llava_next(tmp_path / 'tiny')}"
    config = configuration(
        "stage=ablate", model, f"model.attention={attention}", f"data.data_file={scenes}", *QUICK, "logic.top_k=2",
        "ablate.box=[0,0,0.5,0.5]", "ablate.interventions=[redirect,swap,background,box,mean,block,keep_zero]",
    )  # fmt: skip
    loaded = load_model(config.model.name, device="cpu")
    use_attention(loaded.model, attention)
    found = ablate(loaded, read_jsonl(scenes)[:5], config, choice_of(config))
    assert not found.failed
    assert set(found.measured) == set(config.ablate.interventions)
    assert len(found.heads) == 2
    json.dumps(to_json(found), allow_nan=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ablate.interventions=[zer]"], "choose from redirect"),
        (["ablate.sets=[worst]"], "choose from alone"),
        (["ablate.interventions=[box]"], "set ablate.box"),
        (["data.data_file=null"], "no data file"),
    ],
)
def test_what_cannot_be_is_told_before_the_model_is_loaded(overrides, message):
    with pytest.raises(UserError, match=message):
        run(configuration("stage=ablate", *overrides))
    with pytest.raises(UserError, match=r"ablate\.box"):
        configuration("ablate.box=[0.5,0,0.2,1]")


def test_an_exact_answer_is_what_the_model_writes(picturebook, scenes):
    samples = read_jsonl(scenes)[:8]
    asked = replace(configuration().model, use_generate=True)
    written = [
        collect(picturebook, open_image(one.image_file), one.query, asked).meta["generated_text"] for one in samples
    ]
    right = [text == one.extra["answer"] for text, one in zip(written, samples, strict=True)]
    config = configuration("ablate.interventions=[zero]", "ablate.sets=[]", *QUICK[:2])
    found = ablate(picturebook, samples, config, choice_of(config))
    assert found.of("zero", "exact")["untouched"].value == pytest.approx(sum(right) / len(right))
    assert 0 < sum(right) < len(right)
