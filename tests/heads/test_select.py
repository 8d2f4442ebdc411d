"""stage=select: what is counted and written, what is refused, and the heads it finds used in the other stages."""

import csv
import json
import logging
import os
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import viz
from analyze import attention_sums, passes_threshold, rank_heads, selection_frequency, selection_trials
from conf.schema import LogicConfig, ModelConfig
from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.heads.choice import HeadChoice, check_owner, head_choice
from lab.heads.files import heads_file as known_file
from lab.heads.files import read_heads
from lab.heads.reading import picks_of_analyses, picks_of_records
from lab.records.files import load_record, save_record
from lab.records.record import Record
from pipeline import run
from tests.conftest import configuration

NAME = "localization_heads.json"
PICTUREBOOK = "examples-models-picturebook"
SHAPE = (5, 4)  # layers, heads


def select(folder: Path, *overrides: str) -> dict:
    """What the stage writes about a folder."""
    assert (
        run(
            configuration(
                "stage=select", "model=llava15_7b", f"data.attention_dir={folder}", "save_fig=false", *overrides
            )
        )
        == 0
    )
    return json.loads((folder / NAME).read_text())


def write_rankings(folder: Path, *rankings: list[tuple[int, int]]) -> Path:
    """`s0_analysis.pkl`, ... with these heads, best first."""
    folder.mkdir(exist_ok=True)
    for i, heads in enumerate(rankings):
        rows = [{"layer": layer, "head": head, "attn_sum": 0.5, "spatial_entropy": 0.1} for layer, head in heads]
        (folder / f"s{i}_analysis.pkl").write_bytes(pickle.dumps(rows))
    return folder


def record(
    seed: int, shape: tuple[int, int] = SHAPE, model: str | None = "some/model", scale: np.ndarray | float = 1.0
) -> Record:
    """Attention that looks at a few places of an 8 x 8 grid;

    `scale` [layers, heads] makes heads look at the image less.
    """
    rng = np.random.default_rng(seed)
    attn = rng.gamma(0.1, 1.0, (*shape, 1, 64)).astype(np.float32)
    attn[..., -8:] *= 0.01  # little on the last row
    attn *= (np.asarray(scale) * rng.uniform(0.2, 1, shape))[..., None, None] / attn.sum(-1, keepdims=True)
    return Record(attn.astype(np.float32), {"model_name": model} if model else {})


def write_records(folder: Path, n: int, **kinds) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(n):
        save_record(folder / f"r{seed}.pkl{'.gz' if seed % 2 else ''}", record(seed, **kinds))
    return folder


def pairs(written: dict) -> list[tuple[int, int]]:
    return [(row["layer"], row["head"]) for row in written["heads"]]


# counting


def test_a_head_counts_once_per_sample_that_has_it_among_its_best(tmp_path):
    folder = write_rankings(tmp_path, [(3, 1), (2, 0), (4, 4)], [(2, 0), (3, 1)], [(2, 0)], [(3, 3), (4, 0), (2, 0)])
    written = select(folder, "logic.select.top_n=2", "logic.select.samples=null")
    counted = zip(pairs(written), written["heads"], strict=True)
    assert [(*head, row["count"], row["frequency"]) for head, row in counted] == [
        (2, 0, 3, 0.75), (3, 1, 2, 0.5), (3, 3, 1, 0.25), (4, 0, 1, 0.25),
    ]  # fmt: skip
    assert (written["samples"], written["samples_with_fewer_heads"], written["source"]) == (4, 1, "analyses")
    with (folder / "selection_frequency.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "head", "count", "frequency"]
    assert [float(x) for x in rows[0].values()] == [2, 0, 3, 0.75]
    assert len(rows) == 5 * 4  # heads up to (4, 3) were seen
    assert sum(int(row["count"]) for row in rows) == 7


@pytest.mark.parametrize("threshold", ["sample", "dataset"])
def test_worker_processes_count_what_one_process_counts(tmp_path, threshold):
    folder = write_records(tmp_path, 40)
    choice = ("logic.select.samples=20", f"logic.select.threshold={threshold}")
    alone, together = (select(folder, *choice, f"data.workers={workers}") for workers in (1, 2))
    assert alone.pop("config") != together.pop("config")
    assert alone == together
    save_record(folder / "z.pkl", record(0, model="another/model"))
    with pytest.raises(UserError, match=r"r0.pkl is of model some/model, .*z.pkl of another/model"):
        select(folder, *choice, "data.workers=2")


def test_frequency_is_the_mean_over_trials_and_its_deviation_is_told(tmp_path):
    folder = write_rankings(tmp_path, *[[(2, i % 3)] for i in range(12)])
    written = select(folder, "logic.select.samples=6", "logic.select.trials=4", "seed=3")
    picks = np.array(
        [[(2, i % 3)] for i in (0, 1, 10, 11, *range(2, 10))]
    )  # in order of the names: s0, s1, s10, s11, s2, ...
    shares = selection_trials(picks, (3, 3), 4, 6, 3) / 6
    for row in written["heads"]:
        assert row["frequency"] == pytest.approx(shares[:, 2, row["head"]].mean(), abs=1e-6)
        assert row["frequency_std"] == pytest.approx(shares[:, 2, row["head"]].std(), abs=1e-6)
        assert row["count"] == 4
    assert sum(row["frequency"] for row in written["heads"]) == pytest.approx(1, abs=1e-5)
    assert any(row["frequency_std"] > 0 for row in written["heads"])
    assert (written["trials"], written["samples_per_trial"], written["seed"]) == (4, 6, 3)


def test_a_trial_draws_no_sample_twice_and_depends_on_the_seed_and_its_number_alone():
    picks = np.stack([np.zeros(20, int), np.arange(20)], axis=1)[:, None]  # every sample has a head of its own
    counts = selection_trials(picks, (1, 20), 5, 8, seed=1)
    assert set(np.unique(counts)) == {0, 1}
    assert counts.sum((1, 2)).tolist() == [8] * 5
    assert len({trial.tobytes() for trial in counts}) == 5
    assert np.array_equal(counts[:2], selection_trials(picks, (1, 20), 2, 8, seed=1))
    assert not np.array_equal(counts, selection_trials(picks, (1, 20), 5, 8, seed=2))


def test_missing_heads_are_not_counted_as_any_head():
    picks = np.array([[[1, 1], [-1, -1]], [[-1, -1], [-1, -1]]], np.int16)
    assert selection_trials(picks, (2, 2), 1, 2, 0).tolist() == [[[0, 0], [0, 1]]]


def test_the_same_seed_writes_the_same_files(tmp_path):
    folder = write_rankings(tmp_path, *[[(2, i % 5), (3, i % 7)] for i in range(30)])
    names = (NAME, "selection_frequency.csv")
    contents = []
    for seed in (1, 1, 2):
        select(folder, "logic.select.samples=10", f"seed={seed}")
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1]
    assert contents[1][1] != contents[2][1]


def test_memory_does_not_grow_with_the_rankings(tmp_path):
    heads = [(layer, head) for layer in range(16) for head in range(16)]
    files = sorted(write_rankings(tmp_path, *[heads] * 240).glob("*_analysis.pkl"))

    def peak(some: list[Path]) -> int:
        tracemalloc.start()
        picks_of_analyses(some, top_n=10)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(files[:1])
    assert peak(files) < peak(files[:40]) + 200_000  # bytes; these 200 rankings take over 10 million


# records


def test_records_are_ranked_by_the_configured_rules(tmp_path):
    written = select(
        write_records(tmp_path, 12), "logic.select.samples=null", "logic.select.top_n=2", "logic.filter.min_layer=1"
    )
    logic = configuration("model=llava15_7b", "logic.filter.min_layer=1").logic
    counts = selection_frequency([rank_heads(record(seed), logic) for seed in range(12)], 2, SHAPE)
    assert {(row["layer"], row["head"]): row["count"] for row in written["heads"]} == {
        (int(layer), int(head)): counts[layer, head] for layer, head in np.argwhere(counts)
    }
    assert (written["model"], written["num_layers"], written["num_heads"]) == ("some/model", *SHAPE)
    assert written["config"]["logic"]["filter"]["min_layer"] == 1


def test_one_threshold_for_all_samples_comes_from_their_mean_attention(tmp_path):
    scale = np.full(SHAPE, 0.05)
    scale[3] = 1  # the heads of layer 3 look at the image in most samples
    for seed in range(9):
        save_record(tmp_path / f"r{seed}.pkl", record(seed, scale=scale))
    save_record(tmp_path / "r9.pkl", record(9, scale=scale[::-1]))  # here those of layer 1 do
    overrides = ("logic.filter.min_layer=0", "logic.select.top_n=20")
    picked = {}
    for threshold in ("sample", "dataset"):
        cfg = configuration("model=llava15_7b", f"logic.select.threshold={threshold}", *overrides)
        heads = picks_of_records(sorted(tmp_path.glob("*.pkl")), cfg.logic).heads[9]
        picked[threshold] = [tuple(head) for head in heads.tolist() if head != [-1, -1]]
    odd = load_record(tmp_path / "r9.pkl")
    mean = np.mean([attention_sums(load_record(path)) for path in tmp_path.glob("*.pkl")], axis=0)
    on_average = rank_heads(odd, cfg.logic, passes_threshold(mean, cfg.logic.threshold))
    assert picked["dataset"] == [(score.layer, score.head) for score in on_average]
    in_layer = {
        threshold: [[layer for layer, _ in heads].count(n) for n in (1, 3)] for threshold, heads in picked.items()
    }
    assert in_layer["sample"][0] == 4 > in_layer["sample"][1]
    assert in_layer["dataset"][0] < 4 == in_layer["dataset"][1]


def test_the_paper_takes_one_threshold_for_all_samples():
    assert configuration("model=llava15_7b", "logic=paper").logic.select.threshold == "dataset"
    assert configuration("model=llava15_7b").logic.select.threshold == "sample"


def test_records_come_before_rankings_unless_rankings_are_asked_for(tmp_path, caplog):
    write_records(tmp_path, 2)
    write_rankings(tmp_path, [(4, 3)], [(4, 3)], [(4, 3)])
    assert select(tmp_path, "logic.select.samples=2")["source"] == "records"
    assert "3 rankings" in caplog.text
    written = select(tmp_path, "logic.select.samples=3", "logic.select.source=analyses")
    assert pairs(written) == [(4, 3)]
    assert (written["model"], written["num_layers"], written["num_heads"]) == (
        "some/model",
        *SHAPE,
    )  # of a record beside them


def test_a_folder_of_two_models_is_refused_naming_two_files(tmp_path):
    write_records(tmp_path, 3)
    for other, told in ((record(9, shape=(6, 4)), "6 x 4"), (record(9, model="other/model"), "other/model")):
        save_record(tmp_path / "r9.pkl", other)
        with pytest.raises(UserError, match=r"r0\.pkl.*r9\.pkl") as caught:
            select(tmp_path, "logic.select.samples=null")
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / NAME).exists()


def test_records_that_name_no_model_or_spell_it_otherwise_are_of_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    for i, model in enumerate(
        (None, "examples/models/picturebook", str(PROJECT / "examples/models/picturebook"), None)
    ):
        save_record(tmp_path / f"r{i}.pkl", record(i, model=model))
    assert select(tmp_path, "logic.select.samples=null")["model"] == "examples/models/picturebook"


# too little, or not what it should be


def test_fewer_samples_than_asked_for_are_refused_with_their_number_and_what_to_set(tmp_path):
    write_rankings(tmp_path, [(2, 0)], [(2, 1)])
    with pytest.raises(UserError, match=r"2 samples.*samples=1000.*samples=2 or null"):
        select(tmp_path)
    assert not (tmp_path / NAME).exists()
    assert select(tmp_path, "logic.select.samples=2")["samples"] == 2


def test_a_folder_without_samples_says_how_to_make_some(tmp_path):
    with pytest.raises(UserError, match="stage=batch"):
        select(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no records or rankings in .*stage=batch"):
        select(tmp_path)
    write_rankings(tmp_path, [(2, 0)])
    with pytest.raises(UserError, match="no records"):
        select(tmp_path, "logic.select.source=records")


def test_one_threshold_for_all_cannot_be_had_from_rankings(tmp_path):
    write_rankings(tmp_path, [(2, 0)])
    with pytest.raises(UserError, match="needs records"):
        select(tmp_path, "logic.select.samples=null", "logic.select.threshold=dataset")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logic.select.top_n=0", "must be 1 or more"),
        ("logic.select.trials=0", "must be 1 or more"),
        ("logic.select.samples=0", "must be 1 or more"),
        ("logic.select.threshold=both", "choose from sample, dataset"),
        ("logic.select.source=json", "choose from records, analyses"),
        ("seed=-1", "must be 0 or more"),
    ],
)
def test_impossible_settings_are_refused_with_what_would_be_right(tmp_path, override, message):
    with pytest.raises(UserError, match=message) as caught:
        select(tmp_path, override)
    assert str(caught.value).startswith(override)


def test_the_same_sample_in_two_files_is_refused(tmp_path):
    for name in ("a.pkl", "a.pkl.gz"):
        save_record(tmp_path / name, record(0))
    with pytest.raises(UserError, match=r"a\.pkl and a\.pkl\.gz"):
        select(tmp_path)


def test_samples_without_any_head_are_no_selection(tmp_path):
    write_rankings(tmp_path, [], [])
    with pytest.raises(UserError, match="no head was selected"):
        select(tmp_path, "logic.select.samples=null")


def test_a_ranking_is_never_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "s_analysis.pkl").write_bytes(pickle.dumps([{"layer": 2, "head": Hostile()}]))
    with pytest.raises(UserError, match=r"s_analysis\.pkl.*mkdir"):
        select(tmp_path, "logic.select.samples=null")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"layer": 2, "head": 0}, "found a dict"),
        ([(2, 0)], "not a ranking"),
        ([{"layer": 2}], "'head'"),
        ([{"layer": 2.0, "head": 0}], "not a ranking"),
        ([{"layer": -1, "head": 0}], r"\(-1, 0\) is not a head"),
        ([{"layer": 2, "head": 10**9}], "is not a head"),
        ([{"layer": 2, "head": 0}] * 2, "twice"),
    ],
)
def test_a_malformed_ranking_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "s_analysis.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        select(tmp_path, "logic.select.samples=null")
    assert str(caught.value).startswith(str(tmp_path / "s_analysis.pkl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threshold", ["sample", "dataset"])
def test_records_that_cannot_be_read_are_left_out_told_and_end_with_1(tmp_path, caplog, threshold):
    write_records(tmp_path, 4)
    whole = select(tmp_path, "logic.select.samples=null", f"logic.select.threshold={threshold}")
    assert whole["unreadable"] == {}
    (tmp_path / "a.pkl").write_bytes(b"half")
    (tmp_path / "r9.pkl").touch()
    command = ("stage=select", "model=llava15_7b", f"data.attention_dir={tmp_path}", "save_fig=false")
    config = configuration(*command, "logic.select.samples=null", f"logic.select.threshold={threshold}")
    assert run(config) == 1
    (line,) = (record.getMessage() for record in caplog.records)
    assert "2 of 6 files cannot be read and count as missing, so the exit code will be 1: a.pkl, r9.pkl; " in line
    found = json.loads((tmp_path / NAME).read_text())
    assert set(found["unreadable"]) == {"a.pkl", "r9.pkl"}
    assert [found[key] for key in ("samples", "heads")] == [whole[key] for key in ("samples", "heads")]
    with pytest.raises(UserError, match=r"what can be read in .* has 4 samples, but logic.select.samples=5"):
        select(tmp_path, "logic.select.samples=5", f"logic.select.threshold={threshold}")
    for path in tmp_path.glob("*.pkl*"):
        path.write_bytes(b"half")
    with pytest.raises(UserError, match=r"none of 6 files in .* can be read; the first: .*a\.pkl: truncated"):
        select(tmp_path, "logic.select.samples=null", f"logic.select.threshold={threshold}")


def test_rankings_that_cannot_be_read_are_left_out(tmp_path):
    write_rankings(tmp_path, [(2, 0)], [(2, 1)])
    (tmp_path / "x_analysis.pkl").write_bytes(b"half")
    config = configuration("stage=select", "model=llava15_7b", f"data.attention_dir={tmp_path}", "save_fig=false",
                           "logic.select.samples=null")  # fmt: skip
    assert run(config) == 1
    found = json.loads((tmp_path / NAME).read_text())
    assert (found["samples"], list(found["unreadable"])) == (2, ["x_analysis.pkl"])


# over a data file


@pytest.fixture
def _shipped(monkeypatch, picturebook):
    """Stages that ask a model get the shipped one, loaded once."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)


def over_file(out: Path, data: Path, *overrides: str) -> int:
    paths = (f"data.output_dir={out}", f"data.data_file={data}")
    return run(
        configuration(
            "stage=select", "data.process_all=true", "save_fig=false", "logic.select.samples=null", *paths, *overrides
        )
    )


def data_file(path: Path, *images: str) -> Path:
    path.write_text(
        "".join(
            json.dumps({"id": f"d{i}", "prompt": "the cat", "image_path": image}) + "\n"
            for i, image in enumerate(images)
        )
    )
    return path


@pytest.mark.usefixtures("_shipped")
def test_a_data_file_is_collected_first_and_only_its_samples_are_counted(tmp_path):
    run(configuration("stage=collect", f"data.output_dir={tmp_path}", "data.save_id=stranger"))
    assert (
        over_file(tmp_path, data_file(tmp_path / "data.jsonl", "examples/images/cat.png", "examples/images/dog.png"))
        == 0
    )
    written = json.loads((tmp_path / PICTUREBOOK / NAME).read_text())
    assert written["samples"] == 2
    assert (written["model"], written["num_layers"], written["num_heads"]) == ("examples/models/picturebook", 8, 8)
    logic = configuration().logic
    rankings = [rank_heads(load_record(tmp_path / PICTUREBOOK / f"d{i}.pkl"), logic) for i in range(2)]
    assert sum(row["count"] for row in written["heads"]) == sum(len(ranking[:10]) for ranking in rankings)


@pytest.mark.usefixtures("_shipped")
def test_a_sample_that_fails_is_left_out_even_if_an_older_record_is_there(tmp_path):
    picture = tmp_path / "gone.png"
    Image.open("examples/images/dog.png").save(picture)
    over_file(tmp_path, data_file(tmp_path / "data.jsonl", "examples/images/cat.png", str(picture)))
    picture.unlink()
    (tmp_path / PICTUREBOOK / "d1.pkl").write_bytes(b"")  # to be done again
    assert over_file(tmp_path, tmp_path / "data.jsonl") == 1
    assert json.loads((tmp_path / PICTUREBOOK / NAME).read_text())["samples"] == 1


def test_a_data_file_with_too_few_lines_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))
    data = data_file(tmp_path / "data.jsonl", str(PROJECT / "examples/images/cat.png"))
    with pytest.raises(UserError, match=r"1 samples.*samples=5"):
        over_file(tmp_path, data, "logic.select.samples=5")
    with pytest.raises(UserError, match="one of the two"):
        over_file(tmp_path, data, f"data.attention_dir={tmp_path}")


# the heads in the other stages


def heads_file(
    path: Path, heads: object = ((4, 1), (5, 2), (1, 6), (2, 4)), layers: object = 8, num_heads: object = 8, **more
) -> Path:
    rows = [{"layer": h[0], "head": h[1]} for h in heads] if isinstance(heads, tuple) else heads
    path.write_text(json.dumps({"num_layers": layers, "num_heads": num_heads, "heads": rows, **more}))
    return path


def box_of(out: Path, sample: str) -> dict:
    return json.loads((out / PICTUREBOOK / f"{sample}_bbox.json").read_text())


@pytest.mark.usefixtures("_shipped")
def test_every_stage_that_localizes_takes_the_first_heads_of_a_file(tmp_path):
    path = heads_file(tmp_path / "h.json")
    arguments = (f"data.output_dir={tmp_path}", f"logic.heads={path}", "save_fig=false")
    run(configuration("stage=pipeline", *arguments))
    assert box_of(tmp_path, "bird")["selected_heads"] == [[4, 1], [5, 2], [1, 6]]
    assert str(path) in (tmp_path / PICTUREBOOK / "config.yaml").read_text()
    run(configuration("stage=visualize", "logic.top_k=1", *arguments))
    assert box_of(tmp_path, "bird")["selected_heads"] == [[4, 1]]
    data = data_file(tmp_path / "data.jsonl", "examples/images/cat.png")
    run(
        configuration("stage=batch", "data.visualize_batch=true", "logic.top_k=2", f"data.data_file={data}", *arguments)
    )
    assert box_of(tmp_path, "d0")["selected_heads"] == [[4, 1], [5, 2]]


def test_what_select_writes_is_what_the_other_stages_read(tmp_path, monkeypatch, picturebook):
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("llava.model.builder.load_from_config", lambda *args, **kwargs: picturebook)
    over_file(tmp_path, data_file(tmp_path / "data.jsonl", "examples/images/cat.png"))
    path = tmp_path / PICTUREBOOK / NAME
    best = [list(head) for head in pairs(json.loads(path.read_text()))[:3]]
    run(configuration("stage=pipeline", f"data.output_dir={tmp_path}", f"logic.heads={path}", "save_fig=false"))
    assert box_of(tmp_path, "bird")["selected_heads"] == best
    assert (
        over_file(tmp_path, tmp_path / "data.jsonl", f"logic.heads={path}") == 0
    )  # and may be written anew while it is named


def fixed_by(path: Path, shape: tuple[int, int], *overrides: str) -> list[tuple[int, int]] | None:
    cfg = configuration("model=llava15_7b", "logic.top_k=3", f"logic.heads={path}", *overrides)
    return head_choice(cfg.logic, cfg.model).fixed(shape)


def test_heads_of_another_models_shape_are_refused(tmp_path):
    path = heads_file(tmp_path / "h.json", layers=32, num_heads=32)
    assert fixed_by(path, (32, 32)) == [(4, 1), (5, 2), (1, 6)]
    with pytest.raises(
        UserError, match=r"h\.json is of a model of 32 layers x 32 heads; this one has 40 layers x 40 heads"
    ):
        fixed_by(path, (40, 40))


def test_heads_counted_from_rankings_alone_only_need_to_exist(tmp_path):
    path = heads_file(tmp_path / "h.json", layers=None, num_heads=None)
    assert fixed_by(path, (6, 7)) == [(4, 1), (5, 2), (1, 6)]
    with pytest.raises(UserError, match=r"h\.json: .*5, 2.* is not a head of this model"):
        fixed_by(path, (5, 7))


def test_a_mapping_that_is_no_file_is_no_list_of_heads():
    cfg = configuration("model=llava15_7b", "logic.heads={layer: 3}")
    with pytest.raises(UserError, match=r"logic\.heads: .*expected \[\[layer, head\]"):
        head_choice(cfg.logic, cfg.model)


def test_more_heads_than_the_file_names_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"logic\.top_k is 5, but .*h\.json names 4 heads"):
        fixed_by(heads_file(tmp_path / "h.json"), (8, 8), "logic.top_k=5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{broken", "not JSON"),
        ("[[14, 24]]", "malformed .a part of it is of another type.;"),
        ("{}", "malformed .it lacks 'num_layers'.;"),
        ('{"num_layers": 8, "num_heads": 8, "heads": []}', "names no heads"),
        ('{"num_layers": 8, "num_heads": 8, "heads": [[1, 2]]}', "malformed"),
        ('{"num_layers": 8, "num_heads": null, "heads": [{"layer": 1, "head": 2}]}', "malformed"),
        ('{"num_layers": 8, "num_heads": 8, "heads": [{"layer": 1, "head": "2"}]}', "malformed"),
        (
            '{"num_layers": 8, "num_heads": 8, "heads": [{"layer": 1, "head": 2}], "model": 7}',
            "'model' is 7, expected a text",
        ),
        (
            '{"num_layers": 8, "num_heads": 8, "heads": [{"layer": 1, "head": 2}], "found": []}',
            r"'found' is \[\], expected",
        ),
    ],
)
def test_a_file_that_holds_no_heads_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))
    path = tmp_path / "h.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        run(configuration("stage=pipeline", f"logic.heads={path}", f"data.output_dir={tmp_path}/out"))
    assert str(path) in str(caught.value)
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["", ', "model": null', ', "model": null, "found": null'])
def test_a_file_of_heads_need_not_tell_its_model(tmp_path, model):
    path = tmp_path / "h.json"
    path.write_text('{"num_layers": null, "num_heads": null, "heads": [{"layer": 1, "head": 2}]' + model + "}")
    assert read_heads(path)["model"] is None


def test_a_missing_file_of_heads_says_what_else_there_is(tmp_path):
    with pytest.raises(UserError, match=r"presett: no such file; expected null, preset, "):
        run(configuration("stage=pipeline", "logic.heads=presett", f"data.output_dir={tmp_path}"))


def chosen(path: Path) -> HeadChoice:
    cfg = configuration("model=llava15_7b", "logic.top_k=2", f"logic.heads={path}")
    return head_choice(cfg.logic, cfg.model)


def test_heads_that_may_be_of_another_model_are_told_and_used(tmp_path, caplog):
    choice = chosen(heads_file(tmp_path / "h.json", model="one/model"))
    check_owner(choice, "one/model")
    check_owner(choice, None)  # a record of old
    assert not caplog.records
    check_owner(choice, "/data/tuned")
    assert "were found in one/model, and this is /data/tuned" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_a_file_of_heads_found_in_another_model_is_refused(tmp_path):
    path = heads_file(tmp_path / "h.json", model="mucai/vip-llava-7b")
    with pytest.raises(UserError) as caught:
        check_owner(chosen(path), "Qwen/Qwen2-VL-7B-Instruct")
    assert str(caught.value) == (
        f"the heads of {path} were found in mucai/vip-llava-7b, and this is Qwen/Qwen2-VL-7B-Instruct: for its own, "
        "set logic.heads=null, which ranks them for each sample, or find them with stage=select; to try these all the "
        "same, logic.heads=[[4,1],[5,2]]"
    )


def test_known_heads_serve_every_name_of_their_checkpoint_and_no_other(tmp_path, caplog):
    choice = chosen(Path("llava-1.5-7b"))
    for name in ("liuhaotian/llava-v1.5-7b", "llava-hf/llava-1.5-7b-hf", "/data/llava-1.5-7b-hf"):
        check_owner(choice, name)
    assert not caplog.records
    with pytest.raises(UserError, match=r"llava-v1\.5-7b, and this is llava-hf/vip-llava-7b-hf: .*heads=\[\[14,24\]"):
        check_owner(choice, "llava-hf/vip-llava-7b-hf")


def test_heads_of_another_model_are_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: pytest.fail("the model was loaded"))
    path = heads_file(tmp_path / "h.json", layers=8, num_heads=8, model="mucai/vip-llava-7b")
    out = (f"data.output_dir={tmp_path}/out", "model=auto", "model.name=Qwen/Qwen2-VL-7B-Instruct")
    with pytest.raises(UserError, match="found in mucai/vip-llava-7b, and this is Qwen/Qwen2-VL-7B-Instruct"):
        run(configuration("stage=pipeline", f"logic.heads={path}", *out))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["visualize", "folder", "evaluate", "study", "report"])
def test_heads_of_another_model_are_refused_on_its_records_in_every_stage(tmp_path, stage, monkeypatch):
    monkeypatch.chdir(PROJECT)
    data = tmp_path / "data.jsonl"
    line = {"id": "bird", "prompt": "birds.", "image": f"{PROJECT}/examples/images/bird.png", "bbox": [1, 1, 9, 9]}
    data.write_text(json.dumps(line) + "\n")
    collected = ("data.save_attention=all", f"data.output_dir={tmp_path}/out", "save_fig=false")
    run(configuration("stage=collect", *collected))
    record = next((tmp_path / "out").rglob("bird.pkl"))
    renamed = load_record(record)
    renamed.meta["model_name"] = "Qwen/Qwen2-VL-7B-Instruct"
    save_record(record, renamed)
    path = heads_file(tmp_path / "h.json", layers=8, num_heads=8, model="mucai/vip-llava-7b")
    read = {"visualize": f"data.attention_file={record}"}.get(stage, f"data.attention_dir={record.parent}")
    name = "visualize" if stage == "folder" else stage
    every = (f"stage={name}", f"logic.heads={path}", read, f"data.data_file={data}", *collected)
    with pytest.raises(
        UserError, match=r"found in mucai/vip-llava-7b, and this is Qwen/Qwen2-VL-7B-Instruct: .*logic\.heads=\[\[4,1\]"
    ):
        run(configuration(*every))


def test_a_saved_configuration_tells_the_heads_of_a_file_that_is_gone(tmp_path):
    path = heads_file(tmp_path / "h.json", model="one/model")
    cfg = configuration("model=llava15_7b", "logic.top_k=3", f"logic.heads={path}")
    choice = head_choice(cfg.logic, cfg.model)
    path.unlink()
    saved = replace(cfg.logic, heads=choice.as_setting)
    assert saved.heads["heads"] == [[4, 1], [5, 2], [1, 6]]
    assert head_choice(saved, cfg.model) == choice


def test_known_heads_travel_by_their_name_and_say_where_they_come_from(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    run(configuration("stage=pipeline", "logic.heads=picturebook", f"data.output_dir={tmp_path}", "save_fig=false"))
    assert "were selected most often over 500 drawn scenes, without labels" in caplog.text
    assert box_of(tmp_path, "bird")["selected_heads"] == [[1, 5], [1, 6], [2, 4]]
    heads_file(tmp_path / "picturebook", layers=8, num_heads=8)  # a file of that name is meant before
    logic, model = LogicConfig(heads="picturebook", top_k=1), ModelConfig(name="one/model")
    assert head_choice(logic, model).heads == ((4, 1),)


def test_known_heads_are_found_by_the_name_of_their_model_too(monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert known_file("liuhaotian/llava-v1.5-7b").name == "llava-1.5-7b.json"
    assert known_file("./examples/models/picturebook").name == "picturebook.json"
    assert known_file("no/model") == Path("no/model")


def test_heads_of_another_model_are_told_over_its_records_too(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(PROJECT)
    path = heads_file(tmp_path / "h.json", layers=8, num_heads=8, model="/data/tuned")
    collected = ("data.save_attention=all", f"data.output_dir={tmp_path}/out", "save_fig=false")
    run(configuration("stage=collect", *collected))
    record = next((tmp_path / "out").rglob("bird.pkl"))
    for stage in ("visualize", "analyze"):
        caplog.clear()
        run(configuration(f"stage={stage}", f"logic.heads={path}", f"data.attention_file={record}", *collected))
        told = f"the heads of {path} were found in /data/tuned, and this is examples/models/picturebook"
        assert (told in caplog.text) is (stage == "visualize"), "the ranking needs no heads"
    heads_file(path, layers=8, num_heads=8, model="mucai/vip-llava-7b")  # a known one
    own = "and this is examples/models/picturebook: for its own, set model=picturebook logic.heads=preset; to try"
    with pytest.raises(UserError, match=f"found in mucai/vip-llava-7b, {own}"):
        run(configuration("stage=visualize", f"logic.heads={path}", f"data.attention_file={record}", *collected))


@pytest.mark.parametrize("path", sorted((PROJECT / "conf" / "heads").glob("*.json")), ids=lambda path: path.stem)
def test_known_heads_are_those_of_the_presets_of_their_model(path):
    known = read_heads(path)
    presets = [configuration(f"model={preset}") for preset in ("llava15_7b", "llava15_13b", "picturebook")]
    assert known["found"]
    (model,) = [cfg.model for cfg in presets if cfg.model.name == known["model"]]
    assert model.localization_heads == known["heads"]


@pytest.mark.parametrize("heads", [None, "preset", [[3, 1], [2, 0]]])
def test_a_saved_configuration_tells_heads_as_they_were_given(heads):
    logic, model = LogicConfig(heads=heads), ModelConfig(name="one/model", localization_heads=[[1, 2], [3, 4]])
    assert head_choice(logic, model).as_setting == heads


# the figure


def test_the_figure_marks_the_chosen_heads_on_the_map_and_in_the_list():
    frequency = np.zeros((32, 40))
    frequency[14, 24], frequency[10, 29], frequency[2, 3] = 0.6, 0.3, 0.1
    ranked = [(14, 24), (10, 29), (2, 3), (0, 0)]
    figure = viz.selection_figure(frequency, frequency / 10, ranked, 2, "a model")
    on_map, in_list = (
        figure.axes[0],
        next(axis for axis in figure.axes if axis.get_yticklabels()[0].get_text() == "L14 H24"),
    )
    centres = {(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in on_map.patches}
    assert centres == {(24, 14), (29, 10)}  # x is the head, y the layer
    assert [(label.get_text(), label.get_fontweight()) for label in in_list.get_yticklabels()] == [
        ("L14 H24", "bold"), ("L10 H29", "bold"), ("L2 H3", "normal"),
    ]  # fmt: skip
    assert [bar.get_width() for bar in in_list.patches] == pytest.approx([60, 30, 10])


def test_the_figure_is_written_beside_the_heads_and_left_out_on_demand(tmp_path):
    write_rankings(tmp_path, [(2, 0)], [(3, 1)])
    select(tmp_path, "logic.select.samples=null")
    assert not (tmp_path / "selection_frequency.png").exists()
    run(
        configuration("stage=select", "model=llava15_7b", f"data.attention_dir={tmp_path}", "logic.select.samples=null")
    )
    assert Image.open(tmp_path / "selection_frequency.png").width > 1000


@pytest.mark.parametrize(
    ("overrides", "told", "spread"),
    [
        (["logic.select.samples=null"], "3 samples; frequency among all of them", False),
        (["logic.select.samples=2", "logic.select.trials=1"], "3 samples; frequency in one draw of 2", False),
        (["logic.select.samples=2", "logic.select.trials=4"], "3 samples; frequency in 4 draws of 2", True),
    ],
)
def test_one_draw_tells_no_spread(tmp_path, capsys, overrides, told, spread):
    write_rankings(tmp_path, [(2, 0)], [(2, 0)], [(3, 1)])
    select(tmp_path, *overrides)
    printed = capsys.readouterr().out
    assert told in printed
    assert ("± std" in printed) is spread
