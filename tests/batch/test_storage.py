"""What is kept of a record: precision, some heads' maps or none, either ending, and the room it takes."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from analyze import attention_sums, rank_heads, score_heads, scores_of
from bbox import localize
from conf.schema import DataConfig, RecordFormat
from lab.base.errors import DiskFull, UserError
from lab.base.paths import PROJECT
from lab.batch.storage import as_stored, at_precision, disk_use, serves, size, stored_dtype, tell_disk_use
from lab.heads.choice import HeadChoice, head_choice
from lab.records.files import load_record, save_record
from lab.records.folder import find_record, list_samples, write_record
from lab.records.record import Record
from lab.records.subset import HeadSubset
from llava.grid import Grid
from pipeline import run
from tests.conftest import configuration
from tests.test_analyze import blobs

MODEL = "examples-models-picturebook"
CHOICE = HeadChoice(3)
PRECISIONS = [torch.float16, torch.bfloat16, torch.float32]


def record(seed: int = 0, dtype: torch.dtype = torch.float32, *, generic: bool = False) -> Record:
    """6 layers x 4 heads on a 12 x 12 grid."""
    rng = np.random.default_rng(seed)
    attn, other = (torch.from_numpy(blobs(rng, 6, 4, 12).reshape(6, 4, 1, 144)).to(dtype) for _ in range(2))
    meta = {"image_size": [90, 60], "grids": [Grid.padded_square(12, (90, 60)).to_dict()], "model_name": "some/model"}
    return Record.from_tensor(attn, meta, other if generic else None)


def config(*overrides: str):
    return configuration("model=llava15_7b", "logic.top_k=3", *overrides)


def kept_of(full: Record, cfg) -> Record:
    return as_stored(full, cfg.data, cfg.logic, head_choice(cfg.logic, cfg.model))


def pairs(ranking) -> list[tuple[int, int]]:
    return [(score.layer, score.head) for score in ranking]


# precision


@pytest.mark.parametrize(
    ("dtype", "asked", "stored"),
    [
        ("float16", None, "float16"),
        ("bfloat16", None, "float16"),
        ("float32", None, "float32"),
        ("float32", "float16", "float16"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_sixteen_bit_models_are_stored_in_float16_unless_told_otherwise(dtype, asked, stored, tmp_path):
    assert stored_dtype(dtype, DataConfig(save_dtype=asked)) == stored
    kept = kept_of(record(dtype=getattr(torch, dtype)), config(*([f"data.save_dtype={asked}"] if asked else [])))
    save_record(tmp_path / "r.pkl", kept)
    assert load_record(tmp_path / "r.pkl").tensor().dtype == getattr(torch, stored)


def test_float16_holds_bfloat16_weights_exactly_but_for_the_smallest():
    every = torch.arange(0x3F81, dtype=torch.int16).view(torch.bfloat16)  # all of 0 to 1
    kept = at_precision(
        Record.from_tensor(every.reshape(1, 1, 1, -1), {}, every.flip(0).reshape(1, 1, 1, -1)),
        DataConfig(save_dtype="float16"),
    )
    for found, weights in ((kept.attn, every), (kept.generic, every.flip(0))):
        error = np.abs(found.ravel().astype(np.float64) - weights.double().numpy())
        assert error.max() <= 2.0**-25
        assert not error[weights >= 2.0**-14].any()


def test_what_is_written_is_what_a_later_reading_ranks(tmp_path):
    cfg = config("data.save_dtype=float16")
    kept = kept_of(record(), cfg)
    save_record(tmp_path / "r.pkl", kept)
    assert rank_heads(load_record(tmp_path / "r.pkl"), cfg.logic) == rank_heads(kept, cfg.logic)


# some heads' maps


@pytest.mark.parametrize("ending", ["pkl", "pkl.gz", "safetensors"])
@pytest.mark.parametrize("kind", ["selected", "none"])
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("generic", [False, True], ids=["", "generic"])
def test_a_partial_record_is_read_back_as_it_was_kept(tmp_path, dtype, kind, ending, generic):
    cfg = config(f"data.save_attention={kind}", f"data.record_format={ending}")
    full = record(dtype=dtype, generic=generic)
    kept = kept_of(full, cfg)
    again = load_record(write_record(tmp_path, "r", kept, cfg.data.record_format))
    heads = (
        pairs(rank_heads(at_precision(full, DataConfig(save_dtype=kept.dtype)), cfg.logic)[: cfg.logic.top_k])
        if kind == "selected"
        else []
    )
    assert isinstance(again.subset, HeadSubset)
    assert list(again.subset.heads) == heads
    assert_array_equal(again.attn, kept.attn)
    assert np.count_nonzero(again.attn.any((2, 3))) == len(heads)
    assert_array_equal(again.maps_of(heads), at_precision(full, DataConfig(save_dtype=kept.dtype)).maps_of(heads))
    assert (again.generic is not None) == generic
    if generic:
        assert_array_equal(again.generic, kept.generic)
    assert (again.meta, again.dtype, again.grids, again.num_layers, again.num_heads) == (
        full.meta,
        kept.dtype,
        full.grids,
        6,
        4,
    )


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("logic=paper",),
        ("logic.threshold.method=none", "logic.filter.min_layer=0"),
        ("logic.threshold.min_keep=20",),
        ("logic.filter.bottom_row=null",),
        ("logic.filter.bottom_row=0.01",),
    ],
)
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_rankings_are_made_again_from_stored_scores_by_any_threshold_and_filter(tmp_path, dtype, overrides):
    cfg = config(*overrides)
    full = kept_of(record(dtype=dtype), cfg)
    paper = [o for o in overrides if o.startswith("logic=")]
    save_record(tmp_path / "r.pkl", kept_of(full, config("data.save_attention=none", *paper)))
    part = load_record(tmp_path / "r.pkl")
    assert rank_heads(part, cfg.logic) == rank_heads(full, cfg.logic)
    digits = cfg.logic.entropy.digits
    assert_array_equal(attention_sums(part, digits), attention_sums(full, digits))
    passes = np.random.default_rng(1).random((6, 4)) < 0.5  # as from one threshold over many samples
    assert rank_heads(part, cfg.logic, passes) == rank_heads(full, cfg.logic, passes)
    every = [divmod(i, 4) for i in range(24)]
    assert scores_of(part, every, cfg.logic) == scores_of(full, every, cfg.logic)


def test_scores_of_every_head_are_those_of_the_heads_that_pass():
    cfg = config("data.save_attention=none")
    for seed in range(5):
        table, kept = score_heads(record(seed), cfg.logic), kept_of(record(seed), cfg)
        assert_array_equal(kept.subset.spatial_entropy[table.passes], table.spatial_entropy[table.passes])


def test_a_head_whose_map_is_not_kept_ends_in_one_line_that_says_so(tmp_path):
    cfg = config("data.save_attention=selected", "logic.heads=[[3,1],[5,0]]")
    path = write_record(tmp_path, "r", kept_of(record(), cfg), cfg.data.record_format)
    part = load_record(path)
    assert (
        localize(part, [(5, 0), (3, 1)], cfg.logic).box_xyxy == localize(record(), [(5, 0), (3, 1)], cfg.logic).box_xyxy
    )
    collect = "collect with data.save_attention=all"
    with pytest.raises(
        UserError, match=rf"^{path} holds the maps of 2 of 24 heads, but not that of layer 2 head 2: {collect}$"
    ):
        localize(part, [(3, 1), (2, 2)], cfg.logic)
    for everything in (lambda: part.maps, part.tensor):
        with pytest.raises(
            UserError, match=rf"^{path} holds the maps of 2 of 24 heads, but all are needed: {collect}$"
        ):
            everything()


def test_scores_by_other_rules_of_entropy_are_refused():
    part = kept_of(record(), config("data.save_attention=none"))
    with pytest.raises(
        UserError, match=r"keeps scores measured with logic.entropy.center=2.0, not 1.0: set it so, or collect"
    ):
        rank_heads(part, config("logic.entropy.center=1.0").logic)
    with pytest.raises(UserError, match=r"measured with logic.entropy.digits=null, not 3: set it so"):
        rank_heads(part, config("logic=paper").logic)


def test_a_partial_file_holds_only_tensors_and_plain_containers(tmp_path):
    cfg = config("data.save_attention=selected")
    path = write_record(tmp_path, "r", kept_of(record(dtype=torch.float16), cfg), cfg.data.record_format)
    content = torch.load(path, weights_only=True)
    assert sorted(content) == ["attn", "meta", "partial"]
    assert content["attn"].shape == (3, 1, 144)
    assert content["attn"].dtype == torch.float16
    assert content["partial"]["schema"] == 1
    assert {type(value) for value in content["partial"].values()} == {int, list, dict, torch.Tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2, and this version knows 1"),
        ({"schema": None}, "schema None"),
        ({"heads": [[0, 1]]}, r"attention has shape \[3, 1, 144\]; expected \[1 heads, read tokens, image tokens\]"),
        ({"heads": [[0, 1], [0, 1], [2, 2]]}, r"heads \[\(0, 1\)"),
        ({"heads": [[0, 1], [6, 0], [2, 2]]}, "of 6 layers x 4"),
        ({"heads": [[0, 1], [1.5, 0], [2, 2]]}, "1.5 is not a whole number"),
        ({"heads": 3}, "a part of it is of another type"),
        ({"attn_sum": torch.zeros(0, 4)}, "scores of 0 x 4 heads"),
        ({"attn_sum": torch.zeros(4)}, "malformed"),
        ({"spatial_entropy": torch.zeros(6, 3)}, "spatial_entropy of shape"),
        ({"spatial_entropy": torch.full((6, 4), torch.nan)}, "NaN"),
        ({"bottom_row_max": ["a"]}, "malformed"),
        ({"entropy": 5}, "malformed"),
    ],
)
def test_a_malformed_partial_record_is_refused_by_name(tmp_path, change, message):
    cfg = config("data.save_attention=selected")
    path = write_record(tmp_path, "r", kept_of(record(), cfg), cfg.data.record_format)
    content = torch.load(path, weights_only=True)
    path.write_bytes(pickle.dumps({**content, "partial": {**content["partial"], **change}}))
    with pytest.raises(UserError, match=message) as caught:
        load_record(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["schema", "heads", "entropy", "attn_sum", "num_components"])
def test_a_partial_record_that_lacks_something_is_refused(tmp_path, missing):
    cfg = config("data.save_attention=none")
    path = write_record(tmp_path, "r", kept_of(record(), cfg), cfg.data.record_format)
    content = torch.load(path, weights_only=True)
    del content["partial"][missing]
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=f"malformed .it lacks '{missing}'"):
        load_record(path)


# the stages on partial records


def folder_of(tmp_path: Path, name: str, *overrides: str, n: int = 6) -> Path:
    cfg = config(*overrides)
    for seed in range(n):
        write_record(tmp_path / name, f"s{seed}", kept_of(record(seed), cfg), cfg.data.record_format)
    return tmp_path / name


@pytest.mark.parametrize("threshold", ["sample", "dataset"])
def test_select_counts_partial_records_like_full_ones(tmp_path, threshold):
    found = []
    for kind in ("all", "none", "selected"):
        folder = folder_of(tmp_path, kind, f"data.save_attention={kind}")
        assert run(config("stage=select", f"data.attention_dir={folder}", "logic.select.samples=null",
                          f"logic.select.threshold={threshold}", "save_fig=false")) == 0  # fmt: skip
        found.append((folder / "selection_frequency.csv").read_text())
    assert found[0] == found[1] == found[2]


def test_evaluate_measures_the_chosen_heads_of_partial_records(tmp_path, capsys):
    rows = [{"id": f"s{i}", "image_path": "x.png", "prompt": "it", "bbox": [10, 10, 30, 30]} for i in range(6)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = []
    for kind in ("all", "selected"):
        folder = folder_of(tmp_path, kind, f"data.save_attention={kind}")
        stage = ("stage=evaluate", f"data.attention_dir={folder}", f"data.data_file={tmp_path / 'd.jsonl'}")
        assert run(config(*stage, "evaluate.controls=[greedy,centre]")) == 0
        metrics = json.loads((folder / "metrics.json").read_text())
        found.append(metrics["metrics"])
        assert (metrics["head_mean_iou"] is None) == (kind == "selected")
    assert found[0] == found[1]
    with pytest.raises(UserError, match=r"holds the maps of 3 of 24 heads, but all are needed"):
        run(config(*stage, "evaluate.controls=[oracle]"))


@pytest.fixture
def stage(monkeypatch, picturebook):
    """Runs a stage with the shipped model into a folder."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    return lambda name, out, *overrides: run(configuration(f"stage={name}", f"data.output_dir={out}", *overrides))


def test_pipeline_writes_the_same_results_whatever_it_keeps_and_visualize_repeats_them(tmp_path, stage):
    boxes, rankings = [], []
    for kind in ("all", "selected", "none"):
        out = tmp_path / kind
        assert stage("pipeline", out, f"data.save_attention={kind}", "data.record_format=pkl.gz", "save_fig=false") == 0
        assert {path.name for path in (out / MODEL).iterdir()} == {
            "bird.pkl.gz", "bird_analysis.pkl", "bird_analysis.json", "bird_mask.png", "bird_bbox.json", "config.yaml",
        }  # fmt: skip
        boxes.append((out / MODEL / "bird_bbox.json").read_text())
        rankings.append((out / MODEL / "bird_analysis.json").read_text())
        (out / MODEL / "bird_analysis.json").unlink()
        assert stage("analyze", out) == 0
        rankings.append((out / MODEL / "bird_analysis.json").read_text())
    assert len(set(boxes)) == len(set(rankings)) == 1
    assert stage("visualize", tmp_path / "selected") == 0
    assert (tmp_path / "selected" / MODEL / "bird_top3.png").exists()
    with pytest.raises(UserError, match=r"holds the maps of 0 of \d+ heads, but not that of layer"):
        stage("visualize", tmp_path / "none")


def test_batch_collects_again_only_what_earlier_records_do_not_serve(tmp_path, stage):
    def collected(*overrides: str) -> int:
        assert stage("batch", tmp_path, "data.end_index=2", *overrides) == 0
        summary = json.loads((tmp_path / MODEL / "summary.json").read_text())
        return summary["done"] - summary["skipped"]

    assert collected("data.save_attention=none", "data.record_format=pkl.gz") == 2
    assert collected("data.save_attention=none") == 0  # the other ending is found
    assert len(list((tmp_path / MODEL).glob("*.pkl.gz"))) == 2
    assert collected("data.save_attention=selected", "data.visualize_batch=true", "save_fig=false") == 2
    assert not list((tmp_path / MODEL).glob("*.pkl.gz"))  # replaced
    assert collected("data.save_attention=selected", "logic.heads=[[0,0]]") == 2  # a head that no ranking has
    assert collected() == 2  # all
    assert collected("data.save_attention=none", "data.record_format=pkl.gz") == 0  # a full record serves
    assert collected("data.save_attention=selected", "data.save_dtype=float16") == 0


def test_masks_of_a_batch_cannot_be_asked_for_without_maps(tmp_path):
    with pytest.raises(UserError, match=r"data.save_attention=none keeps no maps to draw from"):
        run(
            configuration(
                "stage=batch", "data.save_attention=none", "data.visualize_batch=true", f"data.output_dir={tmp_path}"
            )
        )


# serving


@pytest.mark.parametrize(
    ("kept", "wanted", "served"),
    [
        ((), ("data.save_attention=none",), True),
        ((), ("data.save_dtype=float32",), True),
        (("data.save_dtype=float16",), ("data.save_dtype=float32",), False),
        (("data.save_dtype=float16",), (), True),
        (("data.save_attention=selected",), (), False),
        (("data.save_attention=selected",), ("data.save_attention=none",), True),
        (("data.save_attention=selected",), ("data.save_attention=selected", "logic.top_k=2"), True),
        (("data.save_attention=selected",), ("data.save_attention=selected", "logic.top_k=5"), False),
        (("data.save_attention=none",), ("data.save_attention=selected",), False),
        (("data.save_attention=none",), ("data.save_attention=none", "logic=paper"), False),
        (("data.save_attention=none",), ("data.save_attention=none", "logic.filter.min_layer=0"), True),
    ],
)
def test_an_earlier_record_serves_if_it_holds_all_that_is_wanted(kept, wanted, served):
    cfg = config(*wanted)
    again = kept_of(record(), config(*kept))
    assert serves(again, cfg.data, cfg.logic, head_choice(cfg.logic, cfg.model)) is served


# names


def test_a_record_is_found_by_either_ending_and_never_kept_twice(tmp_path):
    assert find_record(tmp_path, "r") is None
    for ending in ("pkl.gz", "pkl", "pkl.gz"):
        path = write_record(tmp_path, "r", record(), RecordFormat(ending))
        assert find_record(tmp_path, "r") == path == tmp_path / f"r.{ending}"
        assert list(tmp_path.iterdir()) == [path]
    shutil.copy(path, tmp_path / "r.pkl")
    with pytest.raises(UserError, match=r"r.pkl and r.pkl.gz are the same sample: delete one"):
        find_record(tmp_path, "r")


# room


@pytest.mark.parametrize("generic", [False, True], ids=["", "generic"])
@pytest.mark.parametrize("kind", ["all", "selected", "none"])
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_the_room_told_before_is_the_room_taken(tmp_path, dtype, kind, generic):
    cfg = config(f"data.save_attention={kind}")
    rng = np.random.default_rng(0)
    attn = torch.from_numpy(rng.random((32, 16, 1, 576)) / 576).to(dtype)
    full = Record.from_tensor(attn, {"query": "the bird on the left", "image_size": [1, 1]}, attn if generic else None)
    taken = write_record(tmp_path, "r", kept_of(full, cfg), cfg.data.record_format).stat().st_size
    told = disk_use((32, 16), 576, str(dtype).removeprefix("torch."), cfg.data, CHOICE, samples=1000, generic=generic)
    assert taken <= told.record_bytes <= taken * 1.02 + 2500
    assert told.most == 1000 * (told.record_bytes + told.ranking_bytes)


def test_the_room_of_rankings_is_at_most_what_is_told(tmp_path):
    from lab.stages.results import write_ranking

    ranking = rank_heads(record(), config("logic.threshold.min_keep=1000").logic)
    taken = sum(path.stat().st_size for path in write_ranking(tmp_path / "r.pkl", ranking))
    assert taken <= disk_use((6, 4), 144, "float32", DataConfig(), CHOICE, samples=1).ranking_bytes * len(ranking) / 24


def test_the_line_before_a_run_tells_what_is_needed_and_what_is_free(tmp_path, monkeypatch, capsys, caplog):
    use = disk_use((32, 32), 576, "bfloat16", DataConfig(), CHOICE, samples=1000)
    for free, fits, warning in ((35e9, True, ""), (1.3e9, False, "may not fit"), (1e9, False, "will not fit")):
        caplog.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert tell_disk_use(use, tmp_path / "not" / "yet") is fits
        needed = "1,000 records of 1.2 MB: 1.2 GB; rankings: at most 225 MB"
        assert capsys.readouterr().out == f"{needed}; {size(free)} free in {tmp_path}/not/yet\n"
        assert warning in caplog.text
    assert "at most 1.2 MB" in str(
        disk_use((32, 32), 576, "bfloat16", DataConfig(record_format=RecordFormat("pkl.gz")), CHOICE, samples=1000)
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1180216, "1.2 MB"),
        (35.4e9, "35 GB"),
        (999.7e6, "1 GB"),
        (4e12, "4 TB"),
    ],
)
def test_sizes_in_words(number, text):
    assert size(number) == text


# a full disk


def test_a_full_disk_stops_the_batch_with_what_is_missing_and_the_same_command_continues(tmp_path, stage, monkeypatch):
    write = Path.open
    written = []

    def full(self, mode="r", *args, **kwargs):
        if mode == "xb":
            written.append(self)
        if len(written) > 7:  # the trial, the configuration, a record, its ranking, mask and box fit
            raise OSError(28, "No space left on device")
        return write(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        left = "3 of 4 samples are missing; the same command continues with them"
        with pytest.raises(DiskFull, match=rf"no space left on the disk .*; {left}$"):
            stage("batch", tmp_path, "data.end_index=4")
    assert not list((tmp_path / MODEL).glob(".*.part"))
    assert len([load_record(path) for path in list_samples(tmp_path / MODEL)["records"].values()]) == 1
    assert stage("batch", tmp_path, "data.end_index=4") == 0
    assert json.loads((tmp_path / MODEL / "summary.json").read_text())["skipped"] == 1
