"""What the published tool accepts and writes: every line of a data file with masks and boxes, ends of -1, the web."""

import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from lab.stages.batch import chosen_samples
from lab.stages.common import device_name
from pipeline import run
from tests.conftest import configuration

MODEL = "examples-models-picturebook"
DATA = PROJECT / "examples/localization_data.jsonl"
LINES = [json.loads(line) for line in DATA.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _one_model(monkeypatch, picturebook):
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)


def batch(out, *overrides: str) -> int:
    return run(configuration("stage=batch", f"data.output_dir={out}", *overrides))


def test_a_batch_does_every_line_and_writes_its_mask_and_box_but_no_figure(tmp_path):
    assert batch(tmp_path) == 0
    folder = tmp_path / MODEL
    for line in LINES:
        box = json.loads((folder / f"{line['id']}_bbox.json").read_text())
        mask = np.asarray(Image.open(folder / f"{line['id']}_mask.png"))
        assert mask.shape == tuple(box["image_size"][::-1])
        x0, y0, x1, y1 = box["bbox_xyxy"]
        rows, cols = np.nonzero(mask)
        assert x0 - 20 <= cols.min() <= cols.max() <= x1 + 20
        assert y0 - 20 <= rows.min() <= rows.max() <= y1 + 20
    assert not list(folder.glob("*_top3.png"))


def test_records_of_before_get_masks_and_boxes_and_one_key_turns_them_off(tmp_path):
    assert batch(tmp_path, "data.save_masks=false") == 0
    folder = tmp_path / MODEL
    assert not list(folder.glob("*_mask.png"))
    assert batch(tmp_path) == 0  # nothing is collected again
    assert json.loads((folder / "summary.json").read_text())["skipped"] == len(LINES)
    assert len(list(folder.glob("*_mask.png"))) == len(list(folder.glob("*_bbox.json"))) == len(LINES)


@pytest.mark.parametrize("off", ["data.save_masks=false", "data.save_attention=none"])
def test_masks_of_an_earlier_run_stay_where_they_are_turned_off_only_while_they_are_right(off, tmp_path):
    few, folder = ("data.end_index=2", "data.visualize_batch=true"), tmp_path / MODEL
    results = "_mask.png", "_bbox.json", "_top3.png", "_heads.png"
    assert batch(tmp_path, *few) == 0
    before = {name: (folder / f"{LINES[0]['id']}{name}").read_bytes() for name in results}
    assert batch(tmp_path, few[0], off) == 0
    assert {name: (folder / f"{LINES[0]['id']}{name}").read_bytes() for name in results} == before
    assert batch(tmp_path, few[0], off, "logic.mask.method=peak") == 0
    assert not [path.name for path in folder.iterdir() if path.name.endswith(results)]
    assert (folder / f"{LINES[0]['id']}.pkl").exists()


def test_figures_of_another_box_or_number_of_heads_do_not_stay_beside_it(tmp_path):
    few, folder = "data.end_index=1", tmp_path / MODEL
    figures = lambda: sorted(path.name for path in folder.glob("*.png") if "mask" not in path.name)  # noqa: E731
    name = LINES[0]["id"]
    assert batch(tmp_path, few, "data.visualize_batch=true") == 0
    assert figures() == [f"{name}_heads.png", f"{name}_top3.png"]
    assert batch(tmp_path, few) == 0  # the same box
    assert figures() == [f"{name}_heads.png", f"{name}_top3.png"]
    assert batch(tmp_path, few, "data.visualize_batch=true", "logic.top_k=2") == 0
    assert figures() == [f"{name}_heads.png", f"{name}_top2.png"]
    assert batch(tmp_path, few, "logic.top_k=1") == 0
    assert figures() == []


def test_without_maps_there_is_no_mask_and_no_complaint(tmp_path):
    assert batch(tmp_path, "data.save_attention=none", "data.end_index=2") == 0
    assert sorted(path.suffix for path in (tmp_path / MODEL).glob(f"{LINES[0]['id']}*")) == [".json", ".pkl", ".pkl"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), slice(None)),
        (("data.process_all=false",), slice(0, 1)),
        (("data.start_index=1",), slice(1, 2)),
        (("data.start_index=1", "data.end_index=-1"), slice(1, None)),
        (("data.end_index=2",), slice(0, 2)),
        (("data.end_index=-1",), slice(None)),
        (("data.process_all=true", "data.end_index=1"), slice(None)),
    ],
)
def test_which_lines_are_done(overrides, expected):
    chosen = [sample.id for sample in chosen_samples(configuration(*overrides).data)]
    assert chosen == [line["id"] for line in LINES][expected]


def test_minus_one_is_the_cpu():
    assert device_name(configuration("device_id=-1")) == "cpu"
    assert device_name(configuration("device_id=1")) == "cuda:1"
    with pytest.raises(UserError, match="device=cuda:0 already names one"):
        device_name(configuration("device=cuda:0", "device_id=-1"))


def test_published_rules_take_five_heads_and_a_preset_as_many_as_it_knows():
    assert configuration("logic=selection_v1").logic.top_k == configuration("model=llava15_7b").logic.top_k == 5
    assert configuration("logic=paper").logic.top_k == configuration().logic.top_k == 3


def test_pictures_may_be_web_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    shutil.copy(PROJECT / "examples/images/bird.png", tmp_path / "bird.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}"
    try:
        one = configuration(
            "stage=pipeline",
            f"data.image_file={site}/bird.png",
            "data.query=birds.",
            f"data.output_dir={tmp_path / 'o'}",
        )
        assert run(one) == 0
        lines = [{"id": name, "image_path": f"{site}/{name}.png", "prompt": "birds."} for name in ("bird", "nobody")]
        (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert batch(tmp_path / "b", f"data.data_file={tmp_path / 'lines.jsonl'}") == 1
    finally:
        server.shutdown()
        server.server_close()
    boxes = [json.loads((tmp_path / name / MODEL / "bird_bbox.json").read_text()) for name in "ob"]
    assert boxes[0] == boxes[1]
    (error,) = [json.loads(line) for line in (tmp_path / "b" / MODEL / "errors.jsonl").read_text().splitlines()]
    assert error["id"] == "nobody"
    assert "HTTP 404" in error["error"]
