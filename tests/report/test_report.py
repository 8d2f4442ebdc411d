"""stage=report: what the page is told, what is refused, and that its parts are as small as they must be."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from jinja2 import StrictUndefined
from PIL import Image

from conf.schema import as_dict
from lab.base.errors import UserError
from lab.figures.colours import BOX_COLOUR, MASK_COLOUR
from lab.measure.metrics import Score
from lab.records.files import load_record, save_record
from lab.report import pictures
from lab.report.folder import read_folder
from lab.report.gather import gather, shown_ids
from lab.report.page import _Fields, samples_data, style_text, to_json
from lab.report.pictures import levels, outline, thumbnail
from lab.report.samples import Finding, Pictures, disagreement
from lab.report.tables import (
    config_differences,
    differences,
    fresh_estimates,
    other_rules,
    reading,
    rules_in_words,
    saved_estimates,
)
from lab.stages.report import run_of
from pipeline import run
from tests.conftest import choice_of, configuration
from tests.report.report_runs import ARABIC, LONG, MODEL, SCRIPT, collect_scenes, spoil, write_run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, picturebook):
    return collect_scenes(tmp_path_factory.mktemp("scenes"), picturebook)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory, scenes):
    """A run of 12 samples of which some are not done, and its report."""
    out = tmp_path_factory.mktemp("run")
    data, folder = write_run(out, scenes, 12)
    spoil(data, folder)
    return report(out, f"data.data_file={data}", code=1), data, folder


def report(out, *overrides: str, code: int = 0) -> str:
    """The page of a run."""
    assert run(configuration("stage=report", f"data.output_dir={out}", *overrides)) == code
    return (out / MODEL / "report.html").read_text()


def told(page: str) -> dict:
    """What the page's script is told."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def visible(page: str) -> str:
    """The page's own text, without scripts and style."""
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)


# what is told


def test_a_sample_is_told_with_expression_box_outline_heads_and_iou(spoiled, scenes):
    page, _, _ = spoiled
    data = told(page)
    assert [sample["id"] for sample in data["samples"]] == [f"s{i:04d}" for i in range(12)]
    sample = data["samples"][8]
    (found,) = sample["runs"]
    true = scenes.samples[8 % 6]
    assert (sample["query"], found["status"]) == (f"{true.query} number 8", "done")
    assert sample["truth"] == list(true.box_xyxy)
    assert [row[:2] for row in found["heads"]] == [[1, 5], [1, 6], [2, 4]]
    x0, y0, x1, y1 = found["box"]
    a, b, c, d = true.box_xyxy
    overlap = max(0, min(x1, c) - max(x0, a)) * max(0, min(y1, d) - max(y0, b))
    assert found["iou"] == pytest.approx(overlap / ((x1 - x0) * (y1 - y0) + (c - a) * (d - b) - overlap), abs=1e-4)
    assert found["outline"][1].startswith("M")
    assert len(found["best"]) == 10


def test_what_is_not_done_is_shown_with_its_reason_and_counts_as_a_miss(spoiled):
    page, _, _ = spoiled
    by_id = {sample["id"]: sample["runs"][0] for sample in told(page)["samples"]}
    assert (by_id["s0004"]["status"], by_id["s0004"]["why"]) == ("ranked", "no attention stored, only a ranking")
    assert by_id["s0004"]["best"]
    assert by_id["s0005"]["status"] == "unreadable"
    assert "truncated" in by_id["s0005"]["why"]
    assert by_id["s0006"]["why"] == "No such image: <b>x</b>.png"
    assert by_id["s0007"]["why"] == "not collected yet"
    assert [by_id[f"s000{i}"]["iou"] for i in (4, 5, 6, 7)] == [0, 0, 0, 0]
    text = visible(page)
    assert "8 done, 1 without attention, 1 unreadable, 2 missing" in text
    assert "4 of them without an answer, which count as misses" in text
    assert "2.0 s for 6 samples, 3.0 per second; 2 were there before" in text
    assert "No such image: &lt;b&gt;x&lt;/b&gt;.png" in text


def test_a_damaged_record_is_among_the_failures_with_its_reason(spoiled):
    page, _, folder = spoiled
    text = visible(page)
    assert "1 in the last batch, 1 file cannot be read" in text
    assert "Failures (2)" in text
    assert f'<th scope="row" dir="auto">s0005</th><td dir="auto">{folder}/s0005.pkl: truncated' in text


def test_a_folder_of_damaged_records_alone_is_refused(scenes, tmp_path):
    _, folder = write_run(tmp_path, scenes, 2)
    for path in folder.glob("*.pkl"):
        path.write_bytes(b"")
    assert "none of 2 files" in refused(f"data.output_dir={tmp_path}")
    assert not (folder / "report.html").exists()


def test_a_picture_is_embedded_once_and_a_missing_one_is_told(spoiled):
    page, _, _ = spoiled
    samples = told(page)["samples"]
    assert page.count('<script type="text/plain" id="picture-') == 6
    assert samples[8]["picture"] == samples[2]["picture"] is not None
    assert samples[3]["picture"] is None
    assert "No such image" in samples[3]["notes"][0]
    assert samples[3]["runs"][0]["status"] == "done"


def test_maps_are_those_of_the_record(spoiled, scenes):
    page, _, _ = spoiled
    block = json.loads(re.search(r'id="maps-0-8">(.*?)</script>', page)[1])
    maps = np.frombuffer(base64.b64decode(block["data"]), np.uint8).reshape(4, block["rows"], block["cols"])
    record = scenes.records[8 % 6]
    assert block["extent"] == pytest.approx(list(record.grid.extent_xyxy))
    for level, head in zip(maps, [(1, 5), (1, 6), (2, 4)], strict=False):
        assert block["highest"] * (level / 255.0) ** 2 == pytest.approx(record.maps[head], abs=block["highest"] / 200)


def test_a_users_text_is_never_markup(spoiled):
    page, _, _ = spoiled
    assert SCRIPT not in page
    assert [sample["query"] for sample in told(page)["samples"][:3]] == [SCRIPT, ARABIC, LONG]
    assert to_json({"x": "</script><!--"}) == '{"x":"\\u003c/script\\u003e\\u003c!--"}'


def test_head_counts_are_those_of_the_samples_on_the_page(spoiled):
    data = told(spoiled[0])
    (run_told,) = data["runs"]
    best = [number for sample in data["samples"] for number in sample["runs"][0]["best"]]
    assert run_told["counts"] == np.bincount(best, minlength=64).tolist()
    assert run_told["ranked"] == 9
    assert run_told["fixed"] == [13, 14, 20]


def test_outputs_of_other_stages_are_shown_and_rules_that_differ_are_told(scenes, tmp_path):
    data, folder = write_run(tmp_path, scenes, 6)
    run(configuration("stage=evaluate", f"data.data_file={data}", f"data.attention_dir={folder}", "save_fig=false"))
    run(configuration("stage=select", f"data.attention_dir={folder}", "save_fig=false", "logic.select.samples=null"))
    page = report(tmp_path)  # the data file is known from metrics.json
    text = visible(page)
    assert "random, same layers" in text
    assert "centre box" in text
    assert "localization_heads.json: 6 samples" in text
    assert "other rules" not in text
    assert len(told(page)["runs"][0]["quality"]) == 64
    assert all(sample["truth"] for sample in told(page)["samples"])
    other = visible(report(tmp_path, "logic.heads=null"))
    assert "made with other rules than this page (logic.heads=preset)" in other
    assert "The chosen heads, in % with 95 % bootstrap intervals" in other


def test_without_a_truth_and_with_one_sample_there_is_a_page(scenes, tmp_path):
    write_run(tmp_path, scenes, 1)
    page = report(tmp_path)
    assert "No truth is known of these samples" in page
    (sample,) = told(page)["samples"]
    assert (sample["truth"], sample["runs"][0]["iou"]) == (None, None)


def test_a_folder_of_rankings_alone_has_a_page(scenes, tmp_path):
    data, folder = write_run(tmp_path, scenes, 6)
    from analyze import rank_heads
    from lab.stages.results import write_ranking

    for path in list(folder.glob("*.pkl")):
        write_ranking(path, rank_heads(load_record(path), configuration().logic))
        path.unlink()
    data_told = told(report(tmp_path, f"data.data_file={data}"))
    assert {sample["runs"][0]["status"] for sample in data_told["samples"]} == {"ranked"}
    assert sum(data_told["runs"][0]["counts"]) == 60


def test_a_record_without_a_size_takes_its_pictures_and_without_one_is_told_missing(scenes, tmp_path):
    _, folder = write_run(tmp_path, scenes, 5)
    for name in ("s0000", "s0003"):
        record = load_record(folder / f"{name}.pkl")
        meta = {key: value for key, value in record.meta.items() if key not in ("image_size", "grids")}
        save_record(folder / f"{name}.pkl", replace(record, meta=meta))
    samples = told(report(tmp_path))["samples"]
    assert samples[0]["size"] == list(scenes.records[0].image_size)
    assert samples[3]["runs"][0]["status"] == "missing"
    assert samples[3]["runs"][0]["why"].startswith("its image's size is unknown")


# what is refused


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        run(configuration("stage=report", *overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_without_records_is_refused(tmp_path):
    (tmp_path / MODEL).mkdir()
    assert "no records in" in refused(f"data.output_dir={tmp_path}")
    assert f"did you mean one of the folders in it ({MODEL})" in refused(f"data.attention_dir={tmp_path}")
    assert "cannot read the folder" in refused(f"data.output_dir={tmp_path}/nowhere")
    (tmp_path / MODEL / "shards").mkdir()  # in which no run can be
    assert "did you mean" not in refused(f"data.output_dir={tmp_path}")


def test_a_folder_of_two_models_is_refused(scenes, tmp_path):
    _, folder = write_run(tmp_path, scenes, 2)
    record = load_record(folder / "s0001.pkl")
    save_record(folder / "s0002.pkl", replace(record, meta={**record.meta, "model_name": "other/model"}))
    said = refused(f"data.output_dir={tmp_path}")
    assert "s0000.pkl is of model examples/models/picturebook" in said
    assert "s0002.pkl of other/model" in said
    assert not (folder / "report.html").exists()


def test_heads_that_the_model_does_not_have_are_refused(scenes, tmp_path):
    write_run(tmp_path, scenes, 2)
    assert "[40, 0] is not a head" in refused(f"data.output_dir={tmp_path}", "logic.heads=[[40,0]]")


def test_runs_that_cannot_be_compared_are_refused(scenes, tmp_path):
    _, a = write_run(tmp_path / "a", scenes, 2)
    b = tmp_path / "b"
    shutil.copytree(a, b)
    out = f"data.output_dir={tmp_path}/out"
    assert "two different folders" in refused(out, f"data.runs=[{a}]")
    assert "two different folders" in refused(out, f"data.runs=[{a},{a}]")
    record = load_record(b / "s0001.pkl")
    save_record(b / "s0001.pkl", replace(record, meta={**record.meta, "image_file": "other.png"}))
    assert "sample s0001 is about" in refused(out, f"data.runs=[{a},{b}]")
    for path in b.glob("s*.pkl"):
        path.rename(path.with_name(f"x{path.name}"))
    assert "no sample in common" in refused(out, f"data.runs=[{a},{b}]")
    (b / "config.yaml").write_text("nonsense: 1\n")
    assert "its configuration is not one of this version" in refused(out, f"data.runs=[{a},{b}]")


# two runs


def test_two_runs_are_compared_in_pairs_each_by_its_own_configuration(scenes, tmp_path, capsys):
    data, a = write_run(tmp_path / "a", scenes, 12)
    b = tmp_path / "b" / MODEL
    shutil.copytree(a, b)
    (b / "s0011.pkl").unlink()
    for folder, heads in ((a, "preset"), (b, "null")):
        run(
            configuration(
                "stage=evaluate",
                f"data.data_file={data}",
                f"data.attention_dir={folder}",
                f"logic.heads={heads}",
                "save_fig=false",
            )
        )
    run(configuration("stage=report", f"data.runs=[{a},{b}]", f"data.output_dir={tmp_path}/out"))
    assert "compare.html" in capsys.readouterr().out
    page = (tmp_path / "out" / "compare.html").read_text()
    samples = told(page)["samples"]
    assert [len(sample["runs"]) for sample in samples] == [2] * 12
    assert samples[11]["runs"][1]["why"] == "not collected yet"
    for sample in samples[:11]:
        first, second = sample["runs"]
        assert [row[:2] for row in first["heads"]] == [[1, 5], [1, 6], [2, 4]]
        assert abs(first["iou"] - second["iou"]) <= sample["gap"] + 1e-3
    text = visible(page)
    assert "on the 11 samples that both answer (1 that only one answers are left out)" in text
    assert "logic.heads" in text.split("Settings that differ")[-1]


def test_two_equal_runs_have_no_winner(scenes, tmp_path):
    data, a = write_run(tmp_path / "a", scenes, 12)
    run(configuration("stage=evaluate", f"data.data_file={data}", f"data.attention_dir={a}", "save_fig=false"))
    b = tmp_path / "b" / MODEL
    shutil.copytree(a, b)
    run(configuration("stage=report", f"data.runs=[{a},{b}]", f"data.output_dir={tmp_path}/out"))
    text = visible((tmp_path / "out" / "compare.html").read_text())
    assert text.count('<td class="reading">the same</td>') == 7  # figures
    assert "is higher" not in text


@pytest.mark.parametrize(
    ("value", "low", "high", "says"),
    [
        (-2.0, -8.0, 4.0, "not clear"),
        (2.0, 0.0, 4.0, "not clear"),
        (3.0, 0.5, 6.0, "B is higher"),
        (-3.0, -6.0, -0.5, "A is higher"),
        (0.0, 0.0, 0.0, "the same"),
        (0.0, -1.0, 1.0, "not clear"),
    ],
)
def test_a_difference_names_a_winner_only_if_its_interval_leaves_out_nothing(value, low, high, says):
    assert reading(value, low, high) == says


def test_a_field_is_never_taken_for_a_method_of_the_dict():
    template = _Fields(undefined=StrictUndefined).from_string("{{ row.clear }} {{ row.items }} {{ row.get('a') }}")
    assert template.render(row={"clear": False, "items": 3, "a": "b"}) == "False 3 b"


def test_disagreement_is_the_gap_in_iou_and_then_in_the_boxes():
    def finding(iou, box):
        return Finding("done", box_xyxy=box, score=None if iou is None else Score("x", None, "small", iou))

    box, aside = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)
    assert disagreement(finding(0.9, box), finding(0.2, box)) == pytest.approx(0.7)
    assert disagreement(finding(0.0, box), finding(0.0, aside)) == pytest.approx(1e-3)
    assert disagreement(finding(None, box), finding(None, aside)) == 1
    assert disagreement(finding(None, None), finding(None, None)) == 0
    assert disagreement(finding(None, box), finding(None, None)) == 1


def test_settings_that_differ_leave_out_where_a_run_reads_and_writes():
    a = configuration("data.output_dir=x", "logic.top_k=2")
    b = configuration("data.output_dir=y", "stage=batch")
    assert config_differences(as_dict(a), as_dict(b)) == [("logic.top_k", "2", "3")]
    assert other_rules({"config": {}}, as_dict(b))
    assert other_rules(None, as_dict(b)) == []
    assert saved_estimates({"metrics": {"chosen": [{"unknown": 1}]}}) == {}
    assert fresh_estimates([], 1000, 0) == []


# how many


def test_more_samples_than_a_page_holds_are_drawn_by_seed_the_touched_ones_first(scenes, tmp_path):
    data, folder = write_run(tmp_path, scenes, 12)
    for i in range(8):
        (folder / f"s{i:04d}.pkl").unlink()
    cfg = configuration(f"data.data_file={data}")
    one = run_of(read_folder(folder), cfg, choice_of(cfg), cfg.data.data_file)
    names, total = shown_ids([one], 6, seed=0)
    assert (len(names), total) == (6, 12)
    assert {"s0008", "s0009", "s0010", "s0011"} <= set(names)
    assert names == sorted(names)
    assert names == shown_ids([one], 6, seed=0)[0]
    assert len(shown_ids([one], None, seed=0)[0]) == 12
    assert "6 of 12 samples, drawn at random" in report(tmp_path, f"data.data_file={data}", "report.max_samples=6")


def test_gathering_twice_gives_the_same(scenes, tmp_path):
    data, folder = write_run(tmp_path, scenes, 6)
    cfg = configuration(f"data.data_file={data}")
    one = run_of(read_folder(folder), cfg, choice_of(cfg), None)
    first, second = (samples_data(gather([one], cfg.report, cfg.seed)) for _ in range(2))
    assert first == second
    rows, both, only = differences(gather([one, one], cfg.report, cfg.seed), 1000, 0)
    assert (rows, both, only) == ([], 0, 0)  # no truth


# parts


def area(path: str) -> float:
    """The area inside an outline, by the shoelace formula; holes count against it."""
    total = 0.0
    for part in path.split("M")[1:]:
        start, steps = part.rstrip("z").split("l")
        points = [np.array(start.split(), float)]
        for step in np.array(steps.split(), float).reshape(-1, 2):
            points.append(points[-1] + step)
        x, y = np.array(points).T
        total += 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    return abs(total)


def test_an_outline_encloses_its_mask():
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:50] = True
    mask[12:18, 20:30] = False  # a hole
    unit, path = outline(mask)
    assert unit == 0.5
    corners = (
        8 * 0.125
    )  # each of 8 corners is cut by an eighth of a cell; those of the hole add as much as those outside take
    assert area(path) * unit**2 == pytest.approx(mask.sum(), abs=corners)
    assert outline(np.zeros((5, 5), bool))[1] == ""
    assert area(outline(np.ones((7, 7), bool))[1]) * 0.25 == pytest.approx(49, abs=0.5)
    large = np.zeros((480, 640), bool)
    large[100:300, 200:500] = True
    unit, path = outline(large)
    assert area(path) * unit**2 == pytest.approx(large.sum(), rel=0.05)
    assert len(path) < 80
    assert "nan" not in outline(rng.random((90, 90)) > 0.5)[1]


def test_a_picture_is_small_whatever_it_shows():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8))
    assert len(thumbnail(noise, 320)) <= 2 * pictures.LARGEST  # nothing is worse than noise
    smooth = Image.linear_gradient("L").resize((900, 600)).convert("RGB")
    data = thumbnail(smooth, 320)
    assert len(data) <= pictures.LARGEST
    assert Image.open(io.BytesIO(data)).size == (320, 213)
    assert noise.size == (900, 600)


def test_levels_keep_faint_cells_apart():
    assert levels(np.array([[[0.0, 0.01, 0.25, 1.0]]]), 1.0).tolist() == [[[0, 26, 128, 255]]]
    assert levels(np.zeros((1, 2, 2)), 0.0).max() == 0


def test_records_that_keep_some_heads_only_are_shown_if_those_are_the_chosen_ones(scenes, tmp_path):
    from lab.batch.storage import with_maps_of

    data, folder = write_run(tmp_path, scenes, 3)
    cfg = configuration()
    for name, heads in (("s0000", [(1, 5), (1, 6), (2, 4)]), ("s0001", [])):
        path = folder / f"{name}.pkl"
        save_record(path, with_maps_of(load_record(path, cfg.logic), heads, cfg.logic.entropy))
    first, second, whole = (sample["runs"][0] for sample in told(report(tmp_path, f"data.data_file={data}"))["samples"])
    assert (first["status"], second["status"], whole["status"]) == ("done", "ranked", "done")
    assert second["why"] == "no attention of its heads stored, only every head's scores"
    assert len(second["best"]) == 10
    other = told(report(tmp_path, "logic.entropy.center=1"))["samples"]
    assert other[0]["runs"][0]["status"] == "ranked"  # its scores are by other rules


def test_the_page_draws_in_the_colours_of_the_figures():
    css = style_text()
    assert f"--found: {BOX_COLOUR};" in css
    assert f"--masked: {MASK_COLOUR};" in css


@pytest.mark.parametrize("name", ["a\0b.png", "data:image/png;base64," + "x" * 9000, "~nobody_of_that_name/cat.png"])
def test_a_picture_whose_path_the_system_refuses_is_told_on_the_page(name):
    place, size, why = Pictures(100).add(name, (4, 3))
    assert (place, size) == (None, (4, 3))
    assert "mage" in why
    assert len(why) < 400


def test_rules_in_words_tell_evened_maps_and_finer_cells_only_where_there_are_some():
    plain, fine = (rules_in_words(configuration(f"logic={name}").logic) for name in ("cells", "best"))
    assert "; sigma 1 on a grid of 24; mask otsu; box largest" in plain
    assert "; power 0.4, sigma 0.8 on a grid of 24; mask otsu of power 1.75, cells cut into 4 x 4; box heaviest" in fine
