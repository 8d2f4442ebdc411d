"""The command line as people use it: the shipped pictures, every stage, and what happens when the input is wrong."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import viz
from analyze import rank_heads
from conf.schema import Config, composed, free_text, plain
from lab.base.arguments import hydra_arguments
from lab.base.console import table
from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.measure.metrics import box_iou
from lab.records.files import load_record
from lab.stages import STAGES, again
from lab.stages.common import folder_name
from pipeline import run
from tests.conftest import configuration

EXAMPLES = [json.loads(line) for line in (PROJECT / "examples/localization_data.jsonl").read_text().splitlines()]
MODEL = "examples-models-picturebook"


@pytest.fixture(autouse=True)
def _one_model(monkeypatch, request):
    """Stages that load the shipped model get the one that is loaded already."""
    monkeypatch.chdir(PROJECT)
    if "picturebook" in request.fixturenames:
        loaded = request.getfixturevalue("picturebook")
        monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: loaded)


def stage(name: str, out: Path, *overrides: str) -> int:
    return run(configuration(f"stage={name}", f"data.output_dir={out}", *overrides))


def pipeline_process(*arguments: str, cwd: Path = PROJECT, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run(
        [sys.executable, str(PROJECT / "pipeline.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


# the shipped pictures


@pytest.mark.parametrize("sample", EXAMPLES, ids=[s["id"] for s in EXAMPLES])
def test_fixed_heads_find_the_thing_in_every_shipped_picture(sample, tmp_path, picturebook):
    image = f"examples/{sample['image_path']}"
    assert (
        stage(
            "pipeline", tmp_path, f"data.image_file={image}", f'data.query="{sample["prompt"]}"', "logic.heads=preset"
        )
        == 0
    )
    found = json.loads(next((tmp_path / MODEL).glob("*_bbox.json")).read_text())
    x, y, w, h = sample["bbox"]
    fx0, fy0, fx1, fy1 = found["bbox_xyxy"]
    assert box_iou((x, y, x + w, y + h), (fx0, fy0, fx1 + 1, fy1 + 1)) >= 0.5


def test_pipeline_writes_record_ranking_mask_box_and_figures(tmp_path, picturebook, capsys):
    assert stage("pipeline", tmp_path) == 0
    folder = tmp_path / MODEL
    assert {p.name for p in folder.iterdir()} == {
        "bird.pkl", "bird_analysis.pkl", "bird_analysis.json", "bird_mask.png", "bird_bbox.json", "bird_top3.png",
        "bird_heads.png",
        "config.yaml",
    }  # fmt: skip
    record = load_record(folder / "bird.pkl")
    assert record.attn.shape == (8, 8, 1, 256)
    assert record.meta["query"] == "birds."
    assert record.image_size == Image.open("examples/images/bird.png").size
    mask = np.asarray(Image.open(folder / "bird_mask.png"))
    assert mask.shape == record.image_size[::-1]
    assert set(np.unique(mask)) <= {0, 255}
    box = json.loads((folder / "bird_bbox.json").read_text())
    x0, y0, x1, y1 = box["bbox_xyxy"]
    assert box["bbox_xywh"] == [x0, y0, x1 - x0 + 1, y1 - y0 + 1]
    assert box["image_size"] == list(record.image_size)
    assert len(box["selected_heads"]) == 3
    ranking = json.loads((folder / "bird_analysis.json").read_text())
    assert [set(row) for row in ranking[:1]] == [
        {"layer", "head", "attn_sum", "spatial_entropy", "bottom_row_focus", "num_components"}
    ]
    assert box["selected_heads"] == [[1, 5], [1, 6], [2, 4]]
    assert len(torch.load(folder / "bird_analysis.pkl", weights_only=True)) == len(ranking)
    printed = capsys.readouterr().out
    assert "birds." in printed
    assert "bird_top3.png" in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80


def test_analyze_and_visualize_repeat_what_pipeline_wrote(tmp_path, picturebook):
    stage("pipeline", tmp_path)
    folder = tmp_path / MODEL
    names = ("bird_analysis.json", "bird_mask.png", "bird_bbox.json")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    stage("analyze", tmp_path, f"data.attention_file={folder / 'bird.pkl'}")
    stage("visualize", tmp_path, f"data.attention_file={folder / 'bird.pkl'}")
    assert before == {name: (folder / name).read_bytes() for name in names}


def test_without_fixed_heads_the_ranking_decides(tmp_path, picturebook):
    stage("pipeline", tmp_path, "logic.heads=null", "logic.top_k=4")
    ranking = json.loads((tmp_path / MODEL / "bird_analysis.json").read_text())
    box = json.loads((tmp_path / MODEL / "bird_bbox.json").read_text())
    assert box["selected_heads"] == [[row["layer"], row["head"]] for row in ranking[:4]]
    assert (tmp_path / MODEL / "bird_top4.png").exists()


def test_fixed_heads_replace_the_ranking(tmp_path, picturebook):
    stage("pipeline", tmp_path, "logic.heads=[[4,1],[5,2]]", "save_fig=false")
    box = json.loads((tmp_path / MODEL / "bird_bbox.json").read_text())
    assert box["selected_heads"] == [[4, 1], [5, 2]]
    assert not list((tmp_path / MODEL).glob("*_top*.png"))


def test_a_final_period_is_added_once(tmp_path, picturebook):
    for query in ("the bird", "the bird."):
        stage("collect", tmp_path, f"data.query='{query}'", "data.final_period=true")
        assert load_record(tmp_path / MODEL / "bird.pkl").meta["query"] == "the bird."
    data = jsonl(tmp_path / "data.jsonl", row("a"))
    stage("batch", tmp_path, f"data.data_file={data}", "data.process_all=true", "data.final_period=true")
    assert load_record(tmp_path / MODEL / "a.pkl").meta["query"] == "the cat."


def test_generate_stores_the_answer(tmp_path, picturebook):
    stage("collect", tmp_path, "model.use_generate=true", "data.save_id=answered")
    assert load_record(tmp_path / MODEL / "answered.pkl").meta["generated_text"].split()[0] == "blue"


# batch


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(sample_id: str, image: str = "examples/images/cat.png", prompt: str = "the cat") -> dict:
    return {"id": sample_id, "prompt": prompt, "image_path": image}


def test_batch_does_every_line_and_again_does_nothing(tmp_path, picturebook, capsys):
    for done_before in (0, 4):
        assert stage("batch", tmp_path, "data.process_all=true") == 0
        summary = json.loads((tmp_path / MODEL / "summary.json").read_text())
        assert (summary["samples"], summary["done"], summary["skipped"], summary["failed"]) == (4, 4, done_before, 0)
    assert {p.stem for p in (tmp_path / MODEL).glob("*.pkl") if "analysis" not in p.stem} == {s["id"] for s in EXAMPLES}
    assert "samples" in capsys.readouterr().out


def test_batch_survives_a_bad_sample_lists_it_and_finishes_later(tmp_path, picturebook):
    data = jsonl(tmp_path / "data.jsonl", row("good"), row("bad", str(tmp_path / "later.png")), row("fine"))
    assert stage("batch", tmp_path, f"data.data_file={data}", "data.process_all=true") == 1
    errors = [json.loads(line) for line in (tmp_path / MODEL / "errors.jsonl").read_text().splitlines()]
    assert [(e["id"], e["file"], e["line"]) for e in errors] == [("bad", str(data), 2)]
    assert "later.png" in errors[0]["error"]
    Image.open("examples/images/dog.png").save(tmp_path / "later.png")
    assert stage("batch", tmp_path, f"data.data_file={data}", "data.process_all=true") == 0
    assert json.loads((tmp_path / MODEL / "summary.json").read_text())["skipped"] == 2


def test_what_failed_of_a_pattern_is_listed_with_its_own_file_and_the_line_there(tmp_path, picturebook):
    jsonl(tmp_path / "a.jsonl", row("first"), row("lost", str(tmp_path / "none.png")))
    second = jsonl(tmp_path / "b.jsonl", row("second"), row("third"), row("gone", str(tmp_path / "none.png")))
    assert stage("batch", tmp_path, f"data.data_file={tmp_path}/*.jsonl", "data.process_all=true") == 1
    errors = [json.loads(line) for line in (tmp_path / MODEL / "errors.jsonl").read_text().splitlines()]
    places = [("lost", str(tmp_path / "a.jsonl"), 2), ("gone", str(second), 3)]
    assert [(one["id"], one["file"], one["line"]) for one in errors] == places
    assert errors[0]["error"].endswith(f"; {tmp_path} holds no none.png: give the path of one that is there")


def test_paths_that_the_system_refuses_and_pictures_of_another_size_fail_alone(tmp_path, picturebook):
    wrong = {
        "a url": (
            row("u", "data:image/png;base64," + "iVBORw0KGgo" * 1000),
            "the path is longer than the system allows",
        ),
        "nul": (row("n", "a\0b.png"), "its path holds a NUL byte"),
        "nobody": (row("h", "~nobody_of_that_name/cat.png"), "no such user"),
        "size": (row("s") | {"image_size": [640, 479]}, "image_size says 640 x 479 pixels, the image has 640 x 480"),
    }
    data = jsonl(tmp_path / "data.jsonl", row("good"), *(one for one, _ in wrong.values()))
    for _ in range(2):  # again: the record of the good one will do
        assert stage("batch", tmp_path, f"data.data_file={data}", "data.process_all=true") == 1
        errors = [json.loads(line) for line in (tmp_path / MODEL / "errors.jsonl").read_text().splitlines()]
        assert [error["id"] for error in errors] == ["u", "n", "h", "s"]
        for error, (_, told) in zip(errors, wrong.values(), strict=True):
            assert told in error["error"]
    assert json.loads((tmp_path / MODEL / "summary.json").read_text())["done"] == 1
    jsonl(data, row("good") | {"image_size": [640, 479]})  # the record is of another picture than this line speaks of
    assert stage("batch", tmp_path, f"data.data_file={data}", "data.process_all=true") == 1


def test_batch_redoes_a_damaged_record_and_a_changed_question(tmp_path, picturebook):
    data = jsonl(tmp_path / "data.jsonl", row("a"), row("b"))
    arguments = (f"data.data_file={data}", "data.process_all=true")
    stage("batch", tmp_path, *arguments)
    (tmp_path / MODEL / "a.pkl").write_bytes(b"half")
    jsonl(data, row("a"), row("b", prompt="the umbrella"))
    assert stage("batch", tmp_path, *arguments) == 0
    assert json.loads((tmp_path / MODEL / "summary.json").read_text())["skipped"] == 0
    assert load_record(tmp_path / MODEL / "b.pkl").meta["query"] == "the umbrella"


def test_batch_takes_a_range_other_key_names_and_paths_beside_the_file(tmp_path, picturebook):
    Image.open("examples/images/cat.png").save(tmp_path / "near.png")
    rows = [{"question_id": i, "prompt": "the cat", "image": "near.png"} for i in range(5)]
    data = jsonl(tmp_path / "data.jsonl", *rows)
    assert (
        stage(
            "batch",
            tmp_path,
            f"data.data_file={data}",
            "data.start_index=1",
            "data.end_index=3",
            "data.visualize_batch=true",
        )
        == 0
    )
    assert {p.name for p in (tmp_path / MODEL).glob("*_top3.png")} == {"1_top3.png", "2_top3.png"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a"), "{broken"], "line 2: not JSON"),
        ([row("a"), {"id": "b", "image_path": "x.png"}], "line 2: no key prompt"),
        ([{"prompt": "x", "image_path": "x.png"}], "line 1: no key id or question_id"),
        ([row("a"), row("b"), row("a")], "line 3: id 'a' was used in line 1"),
        ([row("a/b")], "line 1: .*a/b"),
        ([row("..")], r"line 1: .*\.\."),
        ([row("a", prompt="  ")], "line 1: prompt"),
        (["[1, 2]"], "line 1: a JSON object"),
        ([], "holds no samples"),
    ],
)
def test_batch_refuses_a_bad_file_by_line_before_the_model_is_loaded(rows, message, tmp_path, monkeypatch):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))
    data = jsonl(tmp_path / "data.jsonl", *rows)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        stage("batch", out, f"data.data_file={data}", "data.process_all=true")
    assert not out.exists()


def test_batch_asks_again_what_was_asked_in_another_way_and_ranks_anew_by_other_rules(tmp_path, picturebook):
    data = jsonl(tmp_path / "data.jsonl", row("a"))
    arguments = (f"data.data_file={data}", "data.process_all=true")
    stage("batch", tmp_path, *arguments)
    ranking = (tmp_path / MODEL / "a_analysis.json").read_text()
    stage("batch", tmp_path, *arguments, "logic.entropy.weight=area")
    assert (tmp_path / MODEL / "a_analysis.json").read_text() != ranking
    assert json.loads((tmp_path / MODEL / "summary.json").read_text())["skipped"] == 1
    stage("batch", tmp_path, *arguments, "model.conv_mode=vicuna_v1")
    assert json.loads((tmp_path / MODEL / "summary.json").read_text())["skipped"] == 0


def test_batch_asks_again_for_the_generic_prompt_when_it_is_wanted_and_keeps_it_when_it_is_not(tmp_path, picturebook):
    data = jsonl(tmp_path / "data.jsonl", row("a"))
    arguments = (f"data.data_file={data}", "data.process_all=true")
    for more, skipped, kept in (
        ([], 0, False),
        (["logic.contrast=ratio"], 0, True),
        (["data.save_generic=true"], 1, True),
        ([], 1, True),
    ):
        assert stage("batch", tmp_path, *arguments, *more) == 0
        assert json.loads((tmp_path / MODEL / "summary.json").read_text())["skipped"] == skipped
        assert (load_record(tmp_path / MODEL / "a.pkl").generic is not None) == kept


def test_contrast_changes_the_heat_map_and_refuses_records_without_the_generic_prompt(tmp_path, picturebook):
    stage("pipeline", tmp_path / "plain", "save_fig=false")
    stage("pipeline", tmp_path / "ratio", "save_fig=false", "logic.contrast=ratio")
    records = [load_record(tmp_path / name / MODEL / "bird.pkl") for name in ("plain", "ratio")]
    assert [record.generic is not None for record in records] == [False, True]
    with pytest.raises(UserError, match=r"data\.save_generic=true"):
        stage("visualize", tmp_path / "plain", "logic.contrast=ratio")
    assert stage("visualize", tmp_path / "ratio", "logic.contrast=difference", "save_fig=false") == 0
    stage("collect", tmp_path / "collected", "data.save_generic=true")
    assert load_record(tmp_path / "collected" / MODEL / "bird.pkl").generic is not None


def test_batch_draws_only_what_is_missing_or_has_changed(tmp_path, picturebook):
    arguments = (
        f"data.data_file={jsonl(tmp_path / 'data.jsonl', row('a'))}",
        "data.process_all=true",
        "data.visualize_batch=true",
    )
    stage("batch", tmp_path, *arguments)
    figure = tmp_path / MODEL / "a_top3.png"
    first = figure.stat().st_mtime_ns
    stage("batch", tmp_path, *arguments)
    assert figure.stat().st_mtime_ns == first
    figure.unlink()
    stage("batch", tmp_path, *arguments)
    assert figure.exists()


def test_batch_goes_on_after_a_surprise_and_draws_very_thin_pictures(tmp_path, picturebook, monkeypatch):
    Image.new("RGB", (4000, 1), "red").save(tmp_path / "thin.png")
    data = jsonl(tmp_path / "data.jsonl", row("thin", str(tmp_path / "thin.png")), row("b"))
    arguments = (f"data.data_file={data}", "data.process_all=true", "data.visualize_batch=true")
    assert stage("batch", tmp_path, *arguments) == 0

    def surprise(*_):
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("lab.stages.finish.rank_heads", surprise)
    assert stage("batch", tmp_path, *arguments) == 0  # what is finished is not ranked again
    assert stage("batch", tmp_path, *arguments, "logic.entropy.weight=area") == 1
    errors = [json.loads(line) for line in (tmp_path / MODEL / "errors.jsonl").read_text().splitlines()]
    assert [e["error"] for e in errors] == ["ZeroDivisionError: by accident"] * 2


# what is typed


def typed(*arguments: str) -> Config:
    """The configuration of what was typed."""
    return configuration(*hydra_arguments(arguments, free_text()))


def test_the_record_holds_the_expression_as_it_was_typed(tmp_path, picturebook):
    picture, out = tmp_path / "a=b, (c) [d] {e} #f $g.png", tmp_path / "a,b (1)"
    Image.open("examples/images/bird.png").save(picture)
    query = "'cats' and \"dogs\", ${5} 鸟"
    assert (
        run(typed("stage=collect", f"data.query={query}", f"data.image_file={picture}", f"data.output_dir={out}")) == 0
    )
    assert load_record(out / MODEL / f"{picture.stem}.pkl").meta["query"] == query
    saved = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(out / MODEL / "config.yaml"))
    assert plain(saved).data.query == query


def test_a_tilde_is_the_home_folder_in_every_key(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    for folder in ("examples/models/picturebook", "examples/images"):
        shutil.copytree(PROJECT / folder, home / Path(folder).name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    model = ("model.name=~/picturebook", "data.output_dir=~/out", "model.cache_dir=~/cache")
    assert run(typed("data.image_file=~/images/bird.png", "data.query=birds.", *model, "save_fig=false")) == 0
    row_ = {"id": "bird", "prompt": "birds.", "image_path": "images/bird.png", "bbox": [1, 1, 9, 9]}
    jsonl(home / "data.jsonl", row_)
    found = home / "out" / "picturebook"
    record, folder = "data.attention_file=~/out/picturebook/bird.pkl", "data.attention_dir=~/out/picturebook"
    data = "data.data_file=~/data.jsonl"
    assert run(typed("stage=visualize", record, "logic.heads=null", "save_fig=false")) == 0
    assert run(typed("stage=select", folder, "logic.select.samples=null", "save_fig=false")) == 0
    heads = "logic.heads=~/out/picturebook/localization_heads.json"
    assert run(typed("stage=evaluate", folder, data, heads, "evaluate.controls=[]", "save_fig=false")) == 0
    find = "study.find=~/out/picturebook"
    assert run(typed("stage=study", folder, data, find, "logic.heads=null", "save_fig=false")) == 0
    shutil.copytree(found, home / "out" / "other")
    runs = "data.runs=[~/out/picturebook,~/out/other]"
    assert run(typed("stage=report", runs, data, "data.output_dir=~/out", "logic.heads=null")) == 0
    assert (home / "out" / "compare.html").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("examples/models/picturebook", MODEL),
        ("./examples/models/picturebook/", MODEL),
        ("liuhaotian/llava-v1.5-7b", "liuhaotian-llava-v1.5-7b"),
        ("../work/my model", "work-my-model"),
        ("/data/models/x", "data-models-x"),
        ("~/x", "x"),
        ("../../.cache/x", "cache-x"),
        (".", "here"),
        ("..", "above"),
        ("/", "model"),
        ("/".join(["deep"] * 100), "deep-" * 39 + "deep"),
    ],
)
def test_the_folder_of_a_model_is_to_be_seen_whatever_path_names_it(model, name, tmp_path, monkeypatch):
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert folder_name(model).removeprefix("-") == name
    assert not folder_name(model).startswith(".")


# -m


def test_m_runs_a_job_for_each_value_and_tells_the_worst_exit_code(tmp_path, picturebook):
    stage("collect", tmp_path / "one")
    done = pipeline_process("stage=analyze", "data.output_dir=one,none", "-m", "logic.top_k=1,2", cwd=tmp_path)
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error"] * 2
    assert done.stdout.count("rank  layer  head") == 2
    assert "\x1b" not in done.stdout + done.stderr


def test_a_wrong_value_ends_m_before_the_first_job(tmp_path):
    done = pipeline_process("-m", "stage=collect", "logic.top_k=2,x", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"multirun"}


def test_many_processes_do_not_run_the_jobs_of_m_many_times(tmp_path):
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    of_two = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", **meeting}
    done = pipeline_process("-m", "stage=batch", "data.batch_size=1,2", cwd=tmp_path, **of_two)
    assert done.returncode == 2
    assert "-m runs in one process" in done.stderr


def test_heads_of_a_preset_are_refused_for_another_models_record(tmp_path, picturebook):
    stage("collect", tmp_path)
    record = f"data.attention_file={tmp_path / MODEL / 'bird.pkl'}"
    other = ("model=llava15_7b", "logic.heads=preset")
    with pytest.raises(UserError, match=r"heads of liuhaotian/llava-v1\.5-7b"):
        stage("visualize", tmp_path, record, *other)
    assert stage("visualize", tmp_path, record, *other, "logic.heads=null") == 0


def test_another_checkpoint_ranks_for_each_sample_and_says_so_once(tmp_path, picturebook, caplog):
    stage("collect", tmp_path)
    record = f"data.attention_file={tmp_path / MODEL / 'bird.pkl'}"
    caplog.clear()
    out = f"data.output_dir={tmp_path}"
    assert run(composed(["stage=visualize", out, record, "model.name=elsewhere/model", "logic.top_k=2"])) == 0
    (told,) = [line for line in caplog.messages if "elsewhere/model" in line]
    assert told.startswith(
        "the preset's heads are of examples/models/picturebook, not of elsewhere/model: heads are ranked"
    )
    assert "python pipeline.py stage=select model.name=elsewhere/model" in told
    box = json.loads((tmp_path / MODEL / "bird_bbox.json").read_text())
    ranked = rank_heads(load_record(tmp_path / MODEL / "bird.pkl"), configuration("model.name=elsewhere/model").logic)
    assert box["selected_heads"] == [[score.layer, score.head] for score in ranked[:2]]


# wrong input: one line, exit code 2, nothing written


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.image_file=missing.png"], "missing.png"),
        (["data.query=''"], "query"),
        (["data.query='<image> and <image>'"], "<image>"),
        (["data.save_id=../x"], r"id '\.\./x' cannot be a file name.*\(data.save_id\)"),
        (["device=cuda:7"], "cuda"),
        (["device=tpu"], "tpu"),
        (["model.name=nowhere/nothing"], "nowhere/nothing"),
        (["model.use_flash_attn=true"], "use_flash_attn"),
        (["model.conv_mode=vicuna"], "vicuna_v1"),
        (["logic.top_k=65"], "64"),
        (["model.read=word:cup"], r"model\.read=word:cup: 'birds\.' has no such word"),
        (["logic.token=1"], r"logic\.token=1: the record holds 1 read tokens, numbered from 0"),
        (["logic.heads=[[8,0]]"], "8, 0"),
        (["logic.heads=preset", "model.localization_heads=null"], "localization_heads"),
        (["data.output_dir=/dev/null/x"], "output_dir"),
        (["data.image_file=README.md/x.png"], r"data\.image_file=README\.md/x\.png: README\.md is a file"),
        (["data.image_file=lab"], r"data\.image_file=lab: it is a folder"),
        (["data.image_file=''"], r"data\.image_file is empty"),
        (["model.name=README.md"], r"model\.name=README\.md: it is a file"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(overrides, message, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message) as caught:
        stage("pipeline", out, *overrides)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*.pkl"))


def test_a_picture_whose_name_no_record_can_have_asks_for_save_id(tmp_path, picturebook):
    shutil.copy(PROJECT / "examples/images/bird.png", tmp_path / "a..b.png")
    picture = f"data.image_file={tmp_path}/a..b.png", "data.query=bird"
    for name in ("collect", "analyze"):
        with pytest.raises(UserError, match=r"id 'a\.\.b' cannot be .*\(made from a\.\.b\.png\); set data\.save_id to"):
            stage(name, tmp_path, *picture)
    assert stage("collect", tmp_path, *picture, "data.save_id=ab") == 0
    assert stage("analyze", tmp_path, *picture, "data.save_id=ab") == 0


WORK = {
    "collect": "lab.stages.common.load_model",
    "pipeline": "lab.stages.common.load_model",
    "batch": "lab.stages.common.load_model",
    "analyze": "lab.stages.analyze.rank_heads",
    "visualize": "lab.stages.visualize.rank_heads",
    "select": "lab.stages.select.picks_of_records",
    "evaluate": "lab.stages.evaluate.measure",
    "study": "lab.stages.study.make_study",
    "ablate": "lab.stages.common.load_model",
    "calibrate": "lab.stages.common.load_model",
    "report": "lab.stages.report.gather",
}  # of each stage: what takes long


def test_every_stage_tries_its_folder_before_the_work(tmp_path, picturebook, monkeypatch):
    assert set(WORK) == set(STAGES)
    data = jsonl(tmp_path / "data.jsonl", row("bird") | {"bbox": [10, 10, 30, 30]})
    many = jsonl(tmp_path / "many.jsonl", *(row(f"{i}", f"{i}.png", f"the {i}. cat") for i in range(60)))
    assert stage("collect", tmp_path) == 0

    def read_only(_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", read_only)
    for name, work in WORK.items():
        file = many if name == "calibrate" else data
        with monkeypatch.context() as patch:
            patch.setattr(work, lambda *_, name=name, **__: pytest.fail(f"stage={name} began"))
            with pytest.raises(UserError, match=r"cannot write into .* \(Read-only file system\): make it writable"):
                stage(name, tmp_path, "logic.select.samples=null", f"data.data_file={file}")


TAKEN = {
    "collect": ("config.yaml", "bird-2.pkl"),
    "analyze": ("config.analyze.yaml",),
    "visualize": ("config.visualize.yaml",),
    "select": ("config.select.yaml", "selection_frequency.png"),
    "evaluate": ("config.evaluate.yaml", "head_iou.png", "samples.csv"),
    "study": ("config.study.yaml", "study_heads.png"),
    "ablate": ("config.ablate.yaml", "ablate.png"),
    "calibrate": ("config.calibrate.yaml", "presence.md"),
    "report": ("config.report.yaml", "report.html"),
}  # what a stage writes last, with figures


def test_a_folder_in_the_place_of_any_file_is_found_before_the_work(tmp_path, picturebook, monkeypatch):
    data = jsonl(tmp_path / "data.jsonl", row("bird") | {"bbox": [10, 10, 30, 30]})
    many = jsonl(tmp_path / "many.jsonl", *(row(f"{i}", f"{i}.png", f"the {i}. cat") for i in range(60)))
    assert stage("collect", tmp_path) == 0
    folder = tmp_path / MODEL
    for name, taken in TAKEN.items():
        file = many if name == "calibrate" else data
        for one in taken:
            before = folder / f"{one}.before"
            if (folder / one).exists():
                (folder / one).rename(before)
            (folder / one).mkdir()
            asked = ["save_fig=true", "logic.select.samples=null", f"data.data_file={file}"]
            asked += ["data.query=another"] if name == "collect" else []
            with monkeypatch.context() as patch:
                patch.setattr(WORK[name], lambda *_, name=name, **__: pytest.fail(f"stage={name} began"))
                with pytest.raises(
                    UserError, match=f"{re.escape(one)} is a folder, where a file of that name would go"
                ):
                    stage(name, tmp_path, *asked)
            (folder / one).rmdir()
            if before.exists():
                before.rename(folder / one)


@pytest.mark.parametrize("name", ["analyze", "visualize"])
def test_a_missing_record_says_how_to_make_one(name, tmp_path):
    with pytest.raises(UserError, match="stage=collect"):
        stage(name, tmp_path)
    with pytest.raises(UserError, match=r"nothing\.pkl"):
        stage(name, tmp_path, "data.attention_file=nothing.pkl")


def test_wrong_input_exits_with_2_and_one_line_on_the_real_command_line(tmp_path):
    out = f"data.output_dir={tmp_path}/out"
    for arguments, message in (
        (["logic.topk=3"], "topk"),
        (["model=llava16"], "llava15_7b"),
        (["stage=colect"], "choose from collect"),
        (["data.image_file=missing.png"], "missing.png"),
        (["stage=???"], "stage has no value"),
        (["stage=${nothing}"], "Interpolation key 'nothing' not found"),
        (["--port"], "--port: there is no such option; expected key=value"),
    ):
        done = pipeline_process(out, *arguments)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_works_from_another_folder(tmp_path):
    done = pipeline_process("save_fig=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"outputs"}
    assert "birds." in done.stdout


@pytest.mark.parametrize(("name", "unused"), [("analyze", "transformers matplotlib"), ("visualize", "transformers")])
def test_saved_records_are_read_without_transformers(name, unused, tmp_path, picturebook):
    stage("collect", tmp_path)
    code = (
        "import sys; sys.argv[1:] = ['stage="
        + name
        + "', 'data.attention_file="
        + str(tmp_path / MODEL / "bird.pkl")
        + "']\n"
        "import pipeline\n"
        "try: pipeline.main()\n"
        "except SystemExit as e: assert not e.code\n"
        f"assert not set({unused.split()}) & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr


def test_figures_come_in_the_format_and_number_asked_for_masks_always_as_png(tmp_path, picturebook):
    stage("pipeline", tmp_path, "save_format=svg", "viz.components=true")
    stage("pipeline", tmp_path, "data.save_id=b", "save_format=pdf", "viz.heads=false")
    written = {path.name for path in (tmp_path / MODEL).iterdir() if path.suffix in (".png", ".svg", ".pdf")}
    assert written == {
        "bird_mask.png",
        "bird_top3.svg",
        "bird_heads.svg",
        "bird_components.svg",
        "b_mask.png",
        "b_top3.pdf",
    }
    with pytest.raises(UserError, match="save_format=gif: choose from png, pdf, svg"):
        stage("pipeline", tmp_path, "save_format=gif")


def test_show_plot_without_a_display_says_so_and_goes_on(tmp_path, picturebook, monkeypatch, caplog):
    viz.can_show.cache_clear()
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "agg")
    assert stage("pipeline", tmp_path, "show_plot=true") == 0
    assert "no display" in caplog.text


def test_show_plot_opens_a_window_with_the_figure(tmp_path, picturebook, monkeypatch):
    shown = []
    viz.can_show.cache_clear()
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "tkagg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append(1))
    assert stage("pipeline", tmp_path, "show_plot=true", "save_fig=false") == 0
    assert shown == [1]  # all windows at once
    matplotlib.pyplot.close("all")
    viz.can_show.cache_clear()
    assert not list((tmp_path / MODEL).glob("*_top*.png"))


def test_tables_align_numbers_to_the_right():
    lines = table(("name", "count"), [("a", 5), ("long name", 12)]).splitlines()
    assert lines[2:] == ["a              5", "long name     12"]


KEEPS = "; the same command keeps the records that are there"
STOPPED = """
import sys, time
import pipeline
pipeline.run = lambda cfg: print("running", flush=True) or time.sleep(60)
sys.argv[1:] = [*sys.argv[1:], "hydra.sweep.dir=."]
with pipeline.exit_in_one_line():
    pipeline.main()
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["stage=batch"], "interrupted; the same command continues where it stopped"),
        (["-m", "stage=batch"], "interrupted; the same command continues where it stopped"),
        (["stage=evaluate"], f"interrupted{KEEPS}"),
        (["stage=ablate"], "interrupted"),
        (["-m", "stage=ablate"], "interrupted"),
    ],
)
def test_a_stopped_stage_tells_what_the_same_command_does_of_itself(arguments, told, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # heard in the background too
    )
    assert "running\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, f"{told}\n")


def test_every_stage_that_collects_tells_what_becomes_of_its_records():
    """The others start anew, and say nothing."""
    told = {name for name in STAGES if again(name)}
    assert told == {"batch", "select", "evaluate", "study"}
    assert again("none") == ""
