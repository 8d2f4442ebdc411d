"""Sharp masks in the stages: the files beside a record, each picture seen once, and nothing else changed."""

import json

import numpy as np
import pytest
from PIL import Image

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.measure.sharp import GRID, TRUE_BOX
from lab.refine.sam import Sam
from lab.stages.refining import list_unrefined
from pipeline import run
from tests.conftest import configuration
from tests.refine.tiny_sams import save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny("sam", tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def scenes(collect_scenes):
    """Six scenes that are collected, with masks and without sharp ones."""
    return collect_scenes(6, 4, "data.save_masks=true")


@pytest.fixture
def looks(monkeypatch):
    """The pictures that SAM was shown."""
    seen = []

    def look(self, image, real=Sam.look):
        seen.append(image.size)
        return real(self, image)

    monkeypatch.setattr(Sam, "look", look)
    return seen


def stage(name, scenes, *overrides):
    data, out = scenes
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        return run(configuration(f"stage={name}", f"data.data_file={data}", f"data.output_dir={out}", *overrides))


def folder_of(scenes):
    return scenes[1] / "examples-models-picturebook"


def contents(folder, ending="*"):
    return {path.name: path.read_bytes() for path in sorted(folder.glob(ending))}


def test_a_record_gets_a_sharp_mask_beside_the_grids_and_its_prompt_can_be_asked_again(scenes, tiny, tmp_path):
    path = folder_of(scenes) / "4_000000.pkl"
    sharp = ("logic.refine=sam", f"refine.checkpoint={tiny}", "refine.prompt=box+points", f"data.output_dir={tmp_path}")
    for extra, folder in (((), "plain"), (sharp, "sharp")):
        paths = f"data.attention_file={path}", f"data.output_dir={tmp_path}/{folder}", "viz.heads=false"
        assert run(configuration("stage=visualize", *extra, *paths)) == 0
    plain, refined = (tmp_path / name / path.parent.name for name in ("plain", "sharp"))
    name = path.stem
    assert (plain / f"{name}_mask.png").read_bytes() == (refined / f"{name}_mask.png").read_bytes()
    assert (plain / f"{name}_top3.png").read_bytes() != (refined / f"{name}_top3.png").read_bytes()
    assert not (plain / f"{name}_refined.png").exists()
    before, after = (json.loads((folder / f"{name}_bbox.json").read_text()) for folder in (plain, refined))
    told = after.pop("refine")
    assert before == after
    assert told["prompt"]["box_xyxy"] == before["bbox_xyxy"]
    assert len(told["prompt"]["points_xy"]) == len(told["prompt"]["labels"])
    assert told["checkpoint"] == str(tiny)
    mask = np.asarray(Image.open(refined / f"{name}_refined.png"))
    assert mask.shape == tuple(after["image_size"][::-1])
    assert set(np.unique(mask)) <= {0, 255}


def test_a_batch_refines_what_is_collected_once_and_every_picture_is_seen_once(scenes, tiny, looks):
    sharp = ("data.save_masks=true", "logic.refine=sam", f"refine.checkpoint={tiny}")
    plain = contents(folder_of(scenes), "*_mask.png")
    assert stage("batch", scenes, *sharp) == 0
    assert len(looks) == 6
    masks = contents(folder_of(scenes), "*_refined.png")
    assert len(masks) == 6
    assert contents(folder_of(scenes), "*_mask.png") == plain
    assert stage("batch", scenes, *sharp) == 0
    assert len(looks) == 6  # nothing is done again
    (folder_of(scenes) / "finished.json").unlink()  # as if the run had been killed
    sorted(folder_of(scenes).glob("*_bbox.json"))[0].write_text('{"bbox_xyxy"')
    sorted(folder_of(scenes).glob("*_refined.png"))[1].unlink()
    assert stage("batch", scenes, *sharp) == 0
    assert len(looks) == 8  # what was made before is kept
    assert contents(folder_of(scenes), "*_refined.png") == masks
    next(folder_of(scenes).glob("*_refined.png")).unlink()
    assert stage("batch", scenes, *sharp) == 0
    assert len(looks) == 9
    assert contents(folder_of(scenes), "*_refined.png") == masks
    assert stage("batch", scenes, *sharp, "refine.prompt=points") == 0
    assert len(looks) == 15
    assert "points_xy" in json.loads(next(folder_of(scenes).glob("*_bbox.json")).read_text())["refine"]["prompt"]


def test_a_folder_of_records_is_refined_and_a_lost_picture_is_listed(scenes, tiny, tmp_path, looks):
    records = folder_of(scenes)
    picture = sorted((scenes[0].parent / "images").glob("*.png"))[2]
    hidden = picture.rename(picture.with_suffix(".hidden"))
    try:
        code = run(
            configuration(
                *("stage=visualize", "logic.refine=sam", f"refine.checkpoint={tiny}", "save_fig=false"),
                *(f"data.attention_dir={records}", f"data.output_dir={tmp_path}"),
            )
        )
    finally:
        hidden.rename(picture)
    assert code == 1
    assert len(looks) == 5
    errors = [json.loads(line) for line in (tmp_path / records.name / "visualize_errors.jsonl").open()]
    assert [one["id"] for one in errors] == [picture.stem]
    assert len(list((tmp_path / records.name).glob("*_refined.png"))) == 5


def test_expressions_about_one_picture_are_asked_together(picturebook, tiny, tmp_path, looks, monkeypatch):
    from lab.picturebook.make import make

    data, asked = make(tmp_path / "data", 3, 6, expressions=2), []

    def answers(self, look, prompts, *, multimask, real=Sam.answers):
        asked.append(len(prompts))
        return real(self, look, prompts, multimask=multimask)

    monkeypatch.setattr(Sam, "answers", answers)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    sharp = ("data.save_masks=true", "logic.refine=sam", f"refine.checkpoint={tiny}")
    assert stage("batch", (data, tmp_path / "out"), *sharp) == 0
    assert len(looks) == 3
    assert len(asked) == 3
    assert sum(asked) == len(data.read_text().splitlines())


def test_a_sample_without_a_prompt_has_no_sharp_mask_and_is_listed(scenes, tiny, tmp_path):
    where = f"data.attention_dir={folder_of(scenes)}", f"data.output_dir={tmp_path}"
    sharp = "logic.refine=sam", f"refine.checkpoint={tiny}", "save_fig=false"
    assert run(configuration("stage=visualize", *sharp, *where)) == 0
    results = tmp_path / folder_of(scenes).name
    assert not (results / "unrefined.jsonl").exists()
    with pytest.MonkeyPatch.context() as patch:  # a heat map above which nothing stands out
        patch.setattr("bbox.binarise", lambda heat, config: np.zeros(heat.shape, bool))
        assert run(configuration("stage=visualize", *sharp, *where)) == 0
    lines = [json.loads(line) for line in (results / "unrefined.jsonl").open()]
    assert len(lines) == 6
    assert all("the mask is empty" in line["why"] for line in lines)
    assert not list(results.glob("*_refined.png"))


def test_a_damaged_file_of_a_box_does_not_end_the_list(tmp_path):
    for name, text in (("a", '{"refine": {"why": "no box"}}'), ("b", '{"refine"'), ("c", "[]"), ("d", "{}")):
        (tmp_path / f"{name}_bbox.json").write_text(text)
    list_unrefined(tmp_path / "unrefined.jsonl", [tmp_path / f"{name}.pkl" for name in "abcde"])
    assert (tmp_path / "unrefined.jsonl").read_text() == '{"id": "a", "why": "no box"}\n'


@pytest.mark.parametrize("without", ["data.save_masks=false", "data.save_attention=none"])
def test_a_batch_that_makes_no_masks_makes_no_sharp_ones_and_says_so(scenes, tiny, without):
    with pytest.raises(UserError, match=r"of which this run makes none: set data\.save_masks=true"):
        stage("batch", scenes, "logic.refine=sam", f"refine.checkpoint={tiny}", without)


def test_a_sharp_mask_goes_with_the_box_that_it_was_made_of(scenes, tiny, tmp_path):
    sharp, where = (
        ("logic.refine=sam", f"refine.checkpoint={tiny}"),
        (
            *(f"data.attention_file={folder_of(scenes)}/4_000000.pkl", f"data.output_dir={tmp_path}"),
            *("stage=visualize", "save_fig=false"),
        ),
    )
    refined = tmp_path / folder_of(scenes).name / "4_000000_refined.png"
    assert run(configuration(*sharp, *where)) == 0
    assert refined.exists()
    assert run(configuration(*where, "logic.top_k=1")) == 0
    assert not refined.exists()


def test_a_checkpoint_that_is_no_sam_is_one_line(scenes):
    path = folder_of(scenes) / "4_000000.pkl"
    where = f"data.attention_file={path}", f"data.output_dir={scenes[1]}/wrong"
    with pytest.raises(UserError, match="is no SAM that is known: its model_type is 'llava'"):
        run(
            configuration(
                "stage=visualize", "logic.refine=sam", "refine.checkpoint=examples/models/picturebook", *where
            )
        )


def test_evaluate_measures_every_prompt_beside_the_grid_and_the_true_box(scenes, tiny, tmp_path):
    where = f"data.attention_dir={folder_of(scenes)}", f"data.output_dir={tmp_path}/plain", "evaluate.controls=[]"
    assert stage("evaluate", scenes, *where) == 0
    sharp = "logic.refine=sam", f"refine.checkpoint={tiny}", *where[:1], f"data.output_dir={tmp_path}/sharp", *where[2:]
    assert stage("evaluate", scenes, *sharp) == 0
    plain, refined = (tmp_path / name / folder_of(scenes).name for name in ("plain", "sharp"))
    for name in ("samples.csv", "predictions.coco.json", "truth.coco.json"):
        assert (plain / name).read_bytes() == (refined / name).read_bytes()
    assert (refined / "metrics.md").read_text().startswith((plain / "metrics.md").read_text())
    metrics = json.loads((refined / "metrics.json").read_text())
    assert list(metrics["refined"]) == [GRID, "box", "points", "box+points", "mask", TRUE_BOX]
    own = [row for row in metrics["metrics"]["chosen"] if row["metric"] in ("cIoU", "mIoU", "box IoU")]
    assert [row for row in metrics["refined"][GRID] if row["metric"] in ("cIoU", "mIoU", "box IoU")] == own
    assert "unrefined" in metrics


def test_samples_without_target_are_measured_on_sharp_masks_too(picturebook, tiny, tmp_path, monkeypatch):
    from lab.picturebook.make import make

    scenes = make(tmp_path / "data", 4, 81, absent=["neither"]), tmp_path / "out"
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    few = "evaluate.controls=[]", "evaluate.resamples=20", "data.process_all=true", "data.save_masks=false"
    sharp = "logic.refine=sam", f"refine.checkpoint={tiny}", "logic.presence.threshold=0.5"
    assert stage("evaluate", scenes, *few, *sharp) == 0
    metrics = json.loads((folder_of(scenes) / "metrics.json").read_text())
    rows = metrics["refined_without_target"]
    assert list(rows) == list(metrics["refined"]) == [GRID, "box", "points", "box+points", "mask", TRUE_BOX]
    assert rows[GRID] == metrics["without_target"]["figures"]
    figures = {name: {one["metric"]: one["value"] for one in row} for name, row in rows.items()}
    assert list(figures["box"]) == ["N-acc", "T-acc", "gIoU", "cIoU"]
    assert figures[TRUE_BOX]["N-acc"] == 1
    assert 0 < figures[GRID]["N-acc"] <= figures["box"]["N-acc"]  # no box, no prompt
    assert figures["box"]["cIoU"] <= next(one["value"] for one in metrics["refined"]["box"] if one["metric"] == "cIoU")
    told = [json.loads(line) for line in scenes[0].read_text().splitlines()]
    whole = {one["metric"]: one["n"] for one in metrics["refined"]["box"] if one["group"] == "all"}
    assert whole["mIoU"] == len(told) / 2
    assert not {one["id"] for one in told if one.get("present") is False} & set(metrics["unrefined"])
    assert "with no-target samples, SAM is asked with" in (folder_of(scenes) / "metrics.md").read_text()


def test_study_has_the_same_table(scenes, tiny, tmp_path):
    few = "study.draws=1", "evaluate.draws=1", "evaluate.resamples=10", "save_fig=false", "evaluate.controls=[]"
    where = f"data.attention_dir={folder_of(scenes)}", "logic.refine=sam", f"refine.checkpoint={tiny}"
    for name in ("evaluate", "study"):
        assert stage(name, scenes, *few, *where, f"data.output_dir={tmp_path}") == 0
    results = tmp_path / folder_of(scenes).name
    study, metrics = (json.loads((results / name).read_text()) for name in ("study.json", "metrics.json"))
    assert study["refined"] == metrics["refined"]
    assert "## Sharp masks" in (results / "study.md").read_text()


def test_the_report_draws_a_sharp_mask_that_was_made_of_its_box_and_no_other(scenes, tiny, tmp_path):
    sharp = "logic.refine=sam", f"refine.checkpoint={tiny}", f"data.output_dir={scenes[1]}"
    assert stage("batch", scenes, "data.save_masks=true", *sharp) == 0
    page = folder_of(scenes) / "report.html"
    for extra, drawn in (((), 0), (sharp, 6), ((*sharp, "logic.mask.method=quantile", "logic.mask.quantile=0.99"), 0)):
        assert stage("report", scenes, *extra) == 0
        assert page.read_text().count('"sharpIou":') == drawn
