"""The stages on a model whose pictures differ in their number of image tokens: two shapes in one batch."""

import json

import numpy as np
import pytest
from PIL import Image

from lab.records.files import load_record
from pipeline import run
from tests.conftest import configuration
from tests.llava.tiny_families import write_llava_next

ASKED = [
    ("wide_bird", "a bird", "wide", [20, 10, 120, 80]),
    ("wide_ball", "the red ball on the left", "wide", [0, 0, 60, 60]),
    ("tall_dog", "a small dog wearing a collar", "tall", [10, 40, 80, 150]),
    ("tall_cup", "a cup", "tall", [0, 0, 90, 60]),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the checkpoint, two pictures, and a data file that asks two things about each."""
    folder = tmp_path_factory.mktemp("tiles")
    write_llava_next(folder / "model")
    rng = np.random.default_rng(0)
    for name, (width, height) in {"wide": (240, 144), "tall": (96, 192)}.items():
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    lines = [
        {"id": name, "prompt": query, "image_path": str(folder / f"{image}.png"), "bbox": box}
        for name, query, image, box in ASKED
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def stage(world, name: str, *overrides: str, out: str = "out") -> int:
    model = (
        f"model.name={world}/model",
        "model.localization_heads=null",
        "logic=selection_v1",
        "logic.filter.min_layer=0",
    )
    return run(configuration(f"stage={name}", *model, f"data.output_dir={world}/{out}", "device=cpu", *overrides))


def records(world, out: str) -> dict:
    return {
        path.stem: load_record(path) for path in (world / out).rglob("*.pkl") if not path.stem.endswith("_analysis")
    }


@pytest.fixture(scope="module")
def collected(world):
    data = (f"data.data_file={world}/data.jsonl", "data.process_all=true")
    assert stage(world, "batch", *data, "data.batch_size=2", "data.visualize_batch=true") == 0
    assert stage(world, "batch", *data, "data.batch_size=1", "data.share_image=false", out="alone") == 0
    return data


def test_a_batch_of_two_shapes_gives_the_records_that_each_gets_alone(world, collected):
    together, alone = records(world, "out"), records(world, "alone")
    assert set(together) == set(alone) == {name for name, *_ in ASKED}
    for name, record in together.items():
        assert record.meta == alone[name].meta
        np.testing.assert_allclose(record.attn, alone[name].attn, rtol=0, atol=1e-5)
    shapes = {name: (record.attn.shape[-1], record.maps.shape[2:]) for name, record in together.items()}
    assert shapes["wide_bird"] == (64 + 10 * 17, (10, 16))
    assert shapes["tall_cup"][1][0] > shapes["tall_cup"][1][1]


def test_what_is_written_beside_a_record(world, collected):
    folder = next((world / "out").rglob("wide_bird.pkl")).parent
    box = json.loads((folder / "wide_bird_bbox.json").read_text())
    assert box
    assert Image.open(folder / "wide_bird_mask.png").size == (240, 144)
    assert list(folder.glob("wide_bird_top*.png"))


def test_later_stages_read_the_records(world, collected, capsys):
    assert stage(world, "evaluate", *collected, "evaluate.draws=2", "evaluate.resamples=10") == 0
    assert "chosen" in capsys.readouterr().out
    assert stage(world, "report", *collected) == 0
    assert stage(world, "select", "logic.select.samples=null") == 0
    assert stage(world, "study", *collected, "study.top_k=[1]", "study.draws=1", "study.discovery=[2]") == 0


@pytest.mark.parametrize(("grids", "shape"), [("joined", (10, 16)), ("whole", (8, 8)), ("tiles", (10, 16))])
def test_one_picture_with_what_counts_chosen(world, grids, shape):
    picture = (f"data.image_file={world}/wide.png", "data.query=a bird", "viz.components=true")
    assert stage(world, "pipeline", *picture, f"logic.grids={grids}", "data.save_attention=selected", out=grids) == 0
    path = next((world / grids).rglob("wide.pkl"))
    record = load_record(path)
    assert record.subset.entropy["grids"] == grids
    assert stage(world, "visualize", f"data.attention_file={path}", f"logic.grids={grids}", out=grids) == 0
    assert stage(world, "analyze", f"data.attention_file={path}", f"logic.grids={grids}", out=grids) == 0


def test_a_record_by_other_grids_is_collected_again_if_maps_are_missing(world, collected, capsys):
    data = (*collected, "data.save_attention=selected")
    assert stage(world, "batch", *data, out="again") == 0
    before = records(world, "again")
    assert stage(world, "batch", *data, "logic.grids=whole", out="again") == 0
    assert {record.subset.entropy["grids"] for record in before.values()} == {"joined"}
    assert {record.subset.entropy["grids"] for record in records(world, "again").values()} == {"whole"}
