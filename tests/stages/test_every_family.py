"""Each family through the stages once: two pictures of unlike shape, a batch, a report, and what its options change."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab.records.files import load_record
from llava.model.builder import load_model
from pipeline import run
from tests.conftest import configuration
from tests.llava.tiny_chat import CHAT_FAMILIES
from tests.llava.tiny_families import FAMILIES as LLAVA_FAMILIES

FAMILIES = {**LLAVA_FAMILIES, **CHAT_FAMILIES}
SIZES = {"wide": (300, 180), "tall": (170, 310)}
LINES = [("wide_bird", "a bird", "wide"), ("wide_ball", "the red ball", "wide"), ("tall_dog", "a small dog", "tall")]


@pytest.fixture(scope="module", params=FAMILIES)
def world(request, tmp_path_factory) -> Path:
    """A folder with the checkpoint, two pictures, and a data file that asks three things about them."""
    folder = tmp_path_factory.mktemp("families")
    FAMILIES[request.param](folder / "model")
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    lines = [
        {"id": name, "prompt": query, "image_path": str(folder / f"{image}.png"), "bbox": [10, 10, 90, 90]}
        for name, query, image in LINES
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def stage(world: Path, name: str, *overrides: str) -> int:
    model = ("model=auto", f"model.name={world}/model", "logic.filter.min_layer=0", "device=cpu", "data.workers=1")
    model += ("viz.heads=false",)  # a figure that knows no picture
    return run(configuration(f"stage={name}", *model, f"data.output_dir={world}/out", *overrides))


def test_the_stages_of_one_picture_and_of_a_batch(world):
    for name in SIZES:
        asked = (f"data.image_file={world}/{name}.png", "data.query=a bird", f"data.save_id={name}")
        assert stage(world, "collect", *asked, "model.attention=fused") == 0
        (path,) = (world / "out").rglob(f"{name}.pkl")
        assert stage(world, "visualize", f"data.attention_file={path}") == 0
        assert Image.open(path.with_name(f"{name}_mask.png")).size == SIZES[name]
    assert stage(world, "batch", f"data.data_file={world}/data.jsonl", "data.batch_size=2") == 0
    records = {name: load_record(next((world / "out").rglob(f"{name}.pkl"))) for name, *_ in LINES}
    assert all(np.isfinite(record.attn).all() and record.attn.max() > 0 for record in records.values())
    assert stage(world, "report") == 0
    assert next((world / "out").rglob("report.html")).stat().st_size > 10_000


def test_a_record_is_repeated_with_transformers_alone(world):
    """`meta["prompt"]` and the checkpoint's own processor lead to the same token ids, and so to the same answer."""
    loaded = load_model(str(world / "model"), device="cpu")
    image = Image.open(world / "wide.png")
    picture = loaded.family.picture(image)
    prompt = loaded.family.prompt("a bird", picture)
    if not hasattr(loaded.image_processor, "tokenizer"):
        pytest.skip("the family prepares its prompt itself")
    plain = loaded.image_processor(images=[image], text=prompt.text, return_tensors="pt", **again(loaded, prompt.text))
    assert torch.equal(plain["input_ids"][0], torch.tensor(prompt.ids))
    for name, values in loaded.family.inputs([picture]).items():
        assert torch.equal(plain[name], values)
    assert len(prompt.query_spans) == len(range(*prompt.stations["query"][0]))


def again(loaded, text: str) -> dict:
    """What a user of the processor would say beside text and picture."""
    starts = loaded.tokenizer.bos_token and text.startswith(loaded.tokenizer.bos_token)
    options = {"images_kwargs": loaded.family.image_options}
    return {**options, "add_special_tokens": False} if starts else options
