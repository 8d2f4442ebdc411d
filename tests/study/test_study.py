"""stage=study: its tables against stage=evaluate, who finds the heads and who is scored, the verdicts, and what is
refused.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.datasets import read_jsonl
from lab.heads.reading import picks_of_records
from lab.measure.overview import record_files
from lab.records.files import load_record, save_record
from lab.records.folder import list_samples
from lab.stages.study import make_study
from lab.study.chance import Chance, found_again, interval, ratio_in_draws
from lab.study.claims import RHO, Claim, agreements, rank_correlations, trial_counts
from lab.study.find import Found, find_heads, first_heads, split
from lab.study.plan import discovered, in_random_order
from pipeline import run
from tests.conftest import configuration, study_settings

MODEL = "examples-models-picturebook"
N = 12
QUICK = (
    "study.discovery=[4,8]",
    "study.draws=3",
    "evaluate.draws=3",
    "evaluate.resamples=100",
    "logic.select.trials=4",
    "save_fig=false",
)


@pytest.fixture(scope="module")
def scenes(collect_scenes):
    """The data file and the folder of outputs."""
    return collect_scenes(N, 5, "data.save_generic=true")


def study_config(scenes, *overrides: str):
    data, out = scenes
    return configuration("stage=study", f"data.data_file={data}", f"data.output_dir={out}", *QUICK, *overrides)


def study(scenes, *overrides: str) -> dict:
    assert run(study_config(scenes, *overrides)) == 0
    return json.loads((scenes[1] / MODEL / "study.json").read_text())


def evaluate(scenes, *overrides: str) -> dict:
    data, out = scenes
    run(
        configuration(
            "stage=evaluate", f"data.data_file={data}", f"data.output_dir={out}", "save_fig=false", *overrides
        )
    )
    metrics = json.loads((out / MODEL / "metrics.json").read_text())["metrics"]
    return {
        name: {e["metric"]: e["value"] for e in estimates if e["group"] == "all"} for name, estimates in metrics.items()
    }


def rows(found: dict, table: str) -> dict:
    """{labels: {metric: value}}; labels up to a colon."""
    return {
        tuple(label.split(":")[0] for label in row["labels"]): {name: e["value"] for name, e in row["metrics"].items()}
        for row in found["tables"][table]["rows"]
    }


# the tables


def test_everything_is_written_and_told(scenes, capsys):
    run(study_config(scenes, "save_fig=true"))
    out = scenes[1] / MODEL
    assert {"study.md", "study.json", "study_settings.png", "study_heads.png"} <= {path.name for path in out.iterdir()}
    found = json.loads((out / "study.json").read_text())
    assert list(found["tables"]) == [
        "heads",
        "number",
        "criteria",
        "sigma",
        "kernel",
        "contrast",
        "weights",
        "mask",
        "cuts",
        "power",
        "discovery",
    ]
    assert [row["labels"] for row in found["tables"]["number"]["rows"]] == [["1"], ["2"], ["3"], ["4"], ["5"]]
    assert [row["labels"] for row in found["tables"]["discovery"]["rows"]] == [["4"], ["12 (all)"]]
    text = (out / "study.md").read_text()
    assert all(table["title"] in text and table["note"] in text for table in found["tables"].values())
    assert "never to find heads" in text
    assert "study_settings.png" in text
    printed = capsys.readouterr().out
    assert "…" not in printed  # the claims are whole


def test_a_record_that_cannot_be_read_is_left_out_and_the_exit_code_is_1(scenes, tmp_path, caplog):
    shutil.copytree(scenes[1], tmp_path / "out")
    broken = next(iter(list_samples(tmp_path / "out" / MODEL)["records"].values()))
    broken.write_bytes(b"")
    assert run(study_config((scenes[0], tmp_path / "out"))) == 1
    found = json.loads((tmp_path / "out" / MODEL / "study.json").read_text())
    assert list(found["unreadable"]) == [broken.name]
    assert found["found_over"] == found["records"] == found["scored"] - 1
    assert caplog.text.count("1 of 12 files cannot be read and count as missing") == 1


def test_the_rows_are_those_of_evaluate(scenes):
    found = study(scenes)
    heads, criteria, numbers = rows(found, "heads"), rows(found, "criteria"), rows(found, "number")
    fixed = found["tables"]["heads"]["rows"][0]["heads"][0]
    other = evaluate(scenes, f"logic.heads={fixed}".replace(" ", ""))
    pairs = [
        (heads["found here",], other["chosen"]),
        (heads["picked anew for each sample",], other["picked per sample"]),
        (criteria["fixed", "sum only"], other["attention sum only"]),
        (criteria["fixed", "entropy only"], other["entropy only"]),
        (heads["oracle, best 1",], other["oracle, best head"]),
        (heads["oracle, best 3",], other["oracle, best 3 heads"]),
        (criteria["fixed", "both"], other["chosen"]),
        (numbers["3",], other["chosen"]),
    ]
    for row, expected in pairs:
        assert row == pytest.approx({name: expected[name] for name in row})
    random = heads["random heads of the same layers",]
    other = evaluate(scenes, f"logic.heads={fixed}".replace(" ", ""), "evaluate.draws=3")["random, same layers"]
    assert random["Acc@0.5"] == pytest.approx(other["Acc@0.5"])
    assert random["cIoU"] is None


def test_a_setting_of_a_table_is_the_configuration_with_that_setting(scenes):
    found = study(scenes)
    fixed = str(found["tables"]["heads"]["rows"][0]["heads"][0]).replace(" ", "")
    for table, labels, overrides in (
        ("sigma", ("1.8",), ["logic.smoothing.sigma=1.8"]),
        ("kernel", ("3",), ["logic.smoothing.kernel=3"]),
        ("contrast", ("ratio",), ["logic.contrast=ratio"]),
        ("power", ("0.6", "1.75"), ["logic.smoothing.power=0.6", "logic.mask.power=1.75"]),
        ("mask", ("quantile", "largest_hull"), ["logic.mask.method=quantile", "logic.box.region=largest_hull"]),
    ):
        expected = evaluate(scenes, f"logic.heads={fixed}", "evaluate.controls=[]", *overrides)["chosen"]
        row = rows(found, table)[labels]
        assert row == pytest.approx({name: expected[name] for name in row})


def test_one_worker_and_several_find_the_same(scenes):
    one, two = (study(scenes, f"data.workers={n}") for n in (1, 2))
    one["config"] = two["config"] = None
    assert one == two


# who finds and who is scored


def test_labels_do_not_touch_the_heads_that_are_found(scenes, tmp_path):
    data, out = scenes
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    wrong = tmp_path / "wrong.jsonl"
    for line in lines:
        line |= {"bbox": [0, 0, 5, 5], "image_path": str(data.parent / line["image_path"])}
        del line["mask_path"]
    wrong.write_text("\n".join(map(json.dumps, lines)))
    right, shifted = (study((file, out), "evaluate.draws=1") for file in (data, wrong))
    for table in ("number", "criteria", "discovery"):
        heads = [[row["heads"] for row in found["tables"][table]["rows"]] for found in (right, shifted)]
        assert heads[0] == heads[1]
    assert rows(right, "heads")["found here",] != rows(shifted, "heads")["found here",]


def test_half_finds_on_one_half_and_scores_the_other(scenes):
    cfg = study_config(scenes, "study.find=half", "study.discovery=[3]")
    found = make_study(_samples(scenes), scenes[1] / MODEL, study_settings(cfg))
    scored, finders = {sample.id for sample in found.split.scored}, {path.stem for path in found.split.finding}
    assert (len(scored), len(finders), scored & finders) == (N // 2, N // 2, set())
    assert found.found.counts("both", cfg.logic).sum() <= 10 * len(finders)
    other = make_study(
        _samples(scenes),
        scenes[1] / MODEL,
        study_settings(study_config(scenes, "study.find=half", "study.discovery=[3]", "seed=1")),
    )
    assert {path.stem for path in other.split.finding} != finders


def test_a_folder_finds_and_all_samples_are_scored(scenes, tmp_path):
    for path in list(list_samples(scenes[1] / MODEL)["records"].values())[:5]:
        (tmp_path / f"other_{path.name}").write_bytes(path.read_bytes())
    found = study(scenes, f"study.find={tmp_path}")
    assert (found["scored"], found["found_over"]) == (N, 5)
    assert [row["labels"] for row in found["tables"]["discovery"]["rows"]] == [["5 (all)"]]


def test_a_sample_without_a_record_is_a_miss(scenes):
    data, out = scenes
    lines = data.read_text().splitlines()
    longer = data.parent / "longer.jsonl"
    longer.write_text("\n".join([*lines, json.dumps(json.loads(lines[0]) | {"id": "never_collected"})]))
    before, after = (rows(study((file, out)), "heads")["found here",] for file in (data, longer))
    for metric in ("Acc@0.5", "box IoU", "mIoU", "pointing"):
        assert after[metric] == pytest.approx(before[metric] * N / (N + 1))
    assert "1 of them have no record" in (out / MODEL / "study.md").read_text()


def test_one_threshold_over_the_data_set_finds_what_select_finds(scenes):
    cfg = study_config(scenes, "logic=paper", "study.top_k=[1,2]")
    settings = study_settings(cfg)
    parts = split(_samples(scenes), scenes[1] / MODEL, settings)
    found = find_heads(parts, settings)
    np.testing.assert_array_equal(found.picks["both"], picks_of_records(parts.finding, cfg.logic).heads)


def _samples(scenes):
    from lab.datasets import read_jsonl

    return read_jsonl(scenes[0])


# claims


@pytest.mark.parametrize(
    ("value", "low", "high", "bound", "above", "verdict"),
    [
        (0.1, 0.05, 0.2, 0.0, True, "holds"),
        (0.1, -0.05, 0.2, 0.0, True, "open"),
        (0.0, 0.0, 0.0, 0.0, True, "does not hold"),
        (-0.1, -0.2, -0.05, 0.0, True, "does not hold"),
        (0.0, 0.0, 0.0, 0.02, False, "holds"),
        (0.03, 0.01, 0.05, 0.02, False, "open"),
        (0.05, 0.03, 0.07, 0.02, False, "does not hold"),
        (np.nan, np.nan, np.nan, RHO, True, "open"),
        (np.inf, np.nan, np.nan, 3, True, "open"),
    ],
)
def test_a_claim_holds_only_if_its_whole_interval_does(value, low, high, bound, above, verdict):
    assert Claim("x", value, low, high, bound, above).verdict == verdict


@pytest.mark.parametrize(("value", "bound", "above"), [(0.0, 0.0, True), (0.5, 0.0, True), (0.0, 0.02, False)])
def test_of_few_pictures_that_are_all_alike_nothing_can_be_told(value, bound, above):
    assert Claim("x", value, value, value, bound, above, few=True).verdict == "open"
    assert Claim("x", 0.0, -0.25, 0.0, 0.0, few=True).verdict == "open"
    assert Claim("x", value, value - 0.1, value - 0.05, 1, few=True).verdict == "does not hold"


def found_with(counts: np.ndarray, iou: np.ndarray, pictures: np.ndarray | None = None) -> Found:
    """As many records as the largest of `counts` [layers, heads], of which each head is among the best of so many.

    `iou` is alike in all. Each has its own picture unless `pictures` says otherwise.
    """
    number, shape = max(int(counts.max()), 1), counts.shape
    chosen = np.arange(number)[:, None, None] < counts
    picks = np.full((number, counts.size, 2), -1, np.int16)
    for record in range(number):
        heads = np.argwhere(chosen[record])
        picks[record, : len(heads)] = heads
    rows = np.arange(number)
    every = np.repeat(iou[None].astype(np.float32), number, 0)
    of = rows if pictures is None else pictures
    return Found(shape, None, {}, {"both": picks}, rows, np.zeros(every.shape), rows < 0, every, of, of)


def chance_of(found: Found, resamples: int = 50) -> Chance:
    return Chance.of(found, found.scored_picture_of, resamples, 0)


def test_rank_correlation_leaves_out_heads_that_are_selected_no_more_than_by_chance():
    cfg = configuration("logic.filter.min_layer=1", "logic.select.top_n=12")
    counts = np.array([[0, 0, 0, 0], [9, 8, 7, 6], [1, 2, 1, 0]])
    iou = np.array([[1.0, 1, 1, 1], [0.9, 0.8, 0.7, 0.6], [0.65, 0.1, 0.75, 0.3]])
    found = found_with(counts, iou)
    every, often = rank_correlations(found, study_settings(cfg), chance_of(found))
    assert (every.heads, often.heads) == (7, 4)  # the average of eight heads is 4.25
    assert every.value < 1
    assert often.value == often.high == pytest.approx(1)
    few = rank_correlations(found_with(counts * 0, iou), study_settings(cfg), chance_of(found))
    assert [one.heads for one in few] == [0, 0]
    assert np.isnan(few[0].value)


def test_trials_agree_as_far_as_they_share_heads():
    same = np.array([[5, 4, 3, 2, 1]])
    trials = np.stack([same, same, np.array([[5, 4, 2, 3, 1]])])
    settings = study_settings(configuration("evaluate.resamples=200"))
    found = agreements(trials, 2, settings)
    assert {one.k: (one.value, one.least, one.most) for one in found} == {
        1: (1, 1, 1), 2: (1, 1, 1), 3: (pytest.approx((1 + 2 / 3 + 2 / 3) / 3), pytest.approx(2 / 3), 1), 5: (1, 1, 1),
    }  # fmt: skip
    assert [(one.low, one.high) for one in found if one.k == 3] == [(pytest.approx(2 / 3), 1)]
    assert agreements(trials[:1], 2, settings) == []
    assert first_heads(np.array([[0, 3], [3, 4]]), 9) == [(1, 1), (0, 1), (1, 0)]


def test_trials_and_subsets_share_no_sample_and_trials_no_picture():
    pictures = np.repeat(np.arange(20), 3)  # three expressions a picture
    found = found_with(np.full((4, 4), 60), np.zeros((4, 4)), pictures)
    settings = study_settings(configuration("logic.select.trials=7", "study.draws=100", "logic.select.top_n=16"))
    counts, sizes = trial_counts(found, settings)
    assert sizes.sum() == 60
    assert len(sizes) == 7
    assert all(size % 3 == 0 for size in sizes)
    np.testing.assert_array_equal(counts[:, 0, 0], sizes)  # every head is selected in every sample
    assert len(discovered(found, 25, settings.logic, settings)) == 2
    order = in_random_order(found, (0,))
    assert sorted(order) == list(range(60))
    assert (np.diff(found.picture_of[order]) != 0).sum() == 19  # picture by picture
    one = replace(settings, logic=replace(settings.logic, select=replace(settings.logic.select, trials=1)))
    assert trial_counts(found, one)[1].tolist() == [60]


def test_more_trials_than_pictures_are_as_many_as_there_are():
    found = found_with(np.full((4, 4), 5), np.zeros((4, 4)), np.array([0, 0, 0, 1, 2]))
    assert sorted(trial_counts(found, study_settings(configuration()))[1].tolist()) == [1, 1, 3]


# chance


def test_draws_take_pictures_with_all_their_samples_and_find_their_own_heads():
    counts = np.zeros((4, 4), int)
    counts[2, 1], counts[3, 3] = 6, 5  # of six records, two a picture
    found = found_with(counts, np.zeros((4, 4)), np.array([0, 0, 1, 1, 2, 2]))
    chance = chance_of(found, 400)
    assert chance.scored is chance.finding  # the same pictures find and are scored
    assert set(chance.scored.sum(1)) == {3}
    logic = study_settings(configuration("logic.select.top_n=16")).logic
    again = found_again(found, "both", 1, logic, chance)
    assert set(again) == {((2, 1),)}
    first = found.votes("both", logic)[:, 3, 3]
    only_last = chance.scored[:, 2] == 3  # the last picture alone: one of its samples lacks the second head
    assert only_last.any()
    hits = ratio_in_draws(first[None], np.ones((1, 6)), found.picture_of, chance.scored)[0]
    np.testing.assert_allclose(hits[only_last], 0.5)


def test_other_pictures_that_find_are_drawn_for_themselves():
    found = found_with(np.full((4, 4), 4), np.zeros((4, 4)))
    found.scored_picture_of = np.arange(4, 10)
    chance = Chance.of(found, found.scored_picture_of, 30, 0)
    assert (chance.scored[:, :4] == 0).all()
    assert (chance.finding[:, 4:] == 0).all()
    assert set(chance.scored.sum(1)) == {6}
    assert set(chance.finding.sum(1)) == {4}


def test_an_interval_leaves_out_what_could_not_be_measured():
    assert interval([0.0, 1.0, np.nan]) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval([np.nan])).all()


# what is refused


def changed(scenes, tmp_path, **keys):
    """The data file with these keys in its first line; None takes a key out."""
    data, out = scenes
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    for line in lines:
        line["image_path"] = str(data.parent / line["image_path"])
        line["mask_path"] = str(data.parent / line["mask_path"])
    lines[0] |= keys
    file = tmp_path / "changed.jsonl"
    file.write_text("\n".join(json.dumps({k: v for k, v in line.items() if v is not None}) for line in lines))
    return file, out


@pytest.mark.parametrize("stage", [study, evaluate], ids=["study", "evaluate"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"bbox": None, "mask_path": None},
            "no ground-truth box for 1 of 12 samples .* give each line bbox, mask_path or segmentation",
        ),
        ({"bbox": [-40, 10, 30, 30]}, "line 1: box from .* leaves the image"),
        ({"bbox": [10, 10, 9000, 30]}, "leaves the image of"),
        ({"bbox": [10, 10, -5, 30]}, "line 1: box is -5 wide and 30 high"),
        ({"bbox": [10, 10, 5, 0]}, "line 1: box is 5 wide and 0 high"),
        ({"mask_path": str(PROJECT / "examples/images/cat.png")}, "mask is .* expected the same size"),
    ],
)
def test_wrong_truth_ends_in_one_line(stage, keys, message, scenes, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        stage(changed(scenes, tmp_path, **keys))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", [study, evaluate], ids=["study", "evaluate"])
def test_what_does_not_belong_together_ends_in_one_line(stage, scenes, tmp_path, caplog):
    data, out = scenes
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace('"5_', '"x_'))
    gone = r"no sample of 12 has a record in .* \(12 others are there\): set data\.data_file"
    with pytest.raises(UserError, match=gone):
        stage((other, out))
    heads = {
        "model": "some/llava",
        "num_layers": 32,
        "num_heads": 32,
        "heads": [{"layer": 14, "head": i} for i in (24, 13, 26)],
    }
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    with pytest.raises(UserError, match="of a model of 32 layers x 32 heads; this one has 8 layers x 8 heads"):
        stage(scenes, f"logic.heads={tmp_path / 'heads.json'}")
    lines = data.read_text().splitlines()
    fewer = data.parent / "fewer.jsonl"
    fewer.write_text("\n".join([*lines[:6], lines[0].replace('"5_000000"', '"new"')]))
    stage((fewer, out), "logic.select.top_n=20")
    assert "1 of 7 samples have no record; 6 records belong to no sample" in caplog.text


def test_records_of_absent_things_are_no_strangers(scenes, caplog):
    data, out = scenes
    samples = read_jsonl(data)
    folder = next(path.parent for path in out.rglob("*.pkl"))
    files = record_files(folder, samples[:6], samples[6:])
    assert len(files) == 6
    assert not caplog.records
    record_files(folder, samples[:6])
    assert "0 of 6 samples have no record; 6 records belong to no sample" in caplog.text


def test_wrong_settings_and_records_end_in_one_line(scenes, tmp_path):
    for override, message in (
        ("study.top_k=[0,3]", r"study.top_k=\[0, 3\]"),
        ("study.sigmas=[]", r"study.sigmas=\[\]"),
        ("study.kernels=[3,4]", r"study.kernels=\[3, 4\]: expected odd"),
        ("study.discovery=[-1]", "study.discovery"),
        ("study.find=nowhere", "no such folder; expected all, half or a folder"),
        ("study.top_k=[64]", "64 localization heads asked for"),
    ):
        with pytest.raises(UserError, match=message):
            study(scenes, override)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no records there"):
        study(scenes, f"study.find={tmp_path / 'empty'}")


@pytest.mark.parametrize("stage", [study, evaluate], ids=["study", "evaluate"])
def test_records_without_the_generic_prompt_or_with_some_maps_are_refused_by_name(stage, scenes, tmp_path):
    data, out = scenes
    folder = tmp_path / "out" / MODEL
    folder.mkdir(parents=True)
    for path in list_samples(out / MODEL)["records"].values():
        save_record(folder / path.name, replace(load_record(path), generic=None))
    with pytest.raises(
        UserError,
        match=r"5_000000.pkl lacks the attention of the generic prompt|5_000000.pkl lacks the generic prompt's",
    ):
        stage((data, tmp_path / "out"), "logic.contrast=ratio")
    if stage is study:
        assert "contrast" not in study((data, tmp_path / "out"))["tables"]
