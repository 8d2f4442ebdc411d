"""The Python that the guides show does what they tell."""

import re

import pytest
import torch

from lab.base.paths import PROJECT
from pipeline import run
from tests.conftest import configuration


def shown(page: str, word: str) -> str:
    """The block of Python of a page that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / page).read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if word in block)


@pytest.fixture
def here(tmp_path, monkeypatch, picturebook):
    """An empty working directory, and the shipped model."""
    monkeypatch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_records_and_rankings_are_opened_by_torch_as_the_readme_says(here):
    assert "`torch.load(path, weights_only=True)`" in (PROJECT / "README.md").read_text("utf-8")
    run(configuration("stage=pipeline", "save_fig=false"))
    record, ranking = (
        torch.load(next(here.rglob(name)), weights_only=True) for name in ("bird.pkl", "bird_analysis.pkl")
    )
    assert record["attn"].shape == (8, 8, 1, 256)
    assert record["meta"]["query"] == "birds."
    assert ranking


def test_records_are_opened_as_safetensors(here):
    run(configuration("stage=collect", "data.record_format=safetensors"))
    names: dict = {}
    exec(shown("examples/guides/stages.md", "safe_open"), names)
    assert names["attn"].shape == (8, 8, 1, 256)
    assert names["meta"]["query"] == "birds."


def test_sharp_masks_are_made_in_python(here):
    names: dict = {}
    exec(shown("examples/guides/sharp-masks.md", "sharp_mask"), names)
    for found in names["found"]:
        assert found.sharp_mask.shape == found.mask.shape
        assert (found.sharp_mask != found.mask).any()
