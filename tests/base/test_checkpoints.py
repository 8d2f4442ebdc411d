"""Names of models: one checkpoint has many, and a folder may have any."""

import pytest

from conf.presets import PRESETS, preset_of, preset_with_heads
from conf.schema import SHIPPED_MODEL
from lab.base.checkpoints import CHECKPOINTS, FIRST, OF_LAST, other_model, same_model
from lab.base.paths import PROJECT
from lab.heads.files import KNOWN, heads_file, read_heads
from tests.conftest import configuration

LLAVA, CONVERTED, LARGER = "liuhaotian/llava-v1.5-7b", "llava-hf/llava-1.5-7b-hf", "liuhaotian/llava-v1.5-13b"


@pytest.mark.parametrize(
    ("name", "other", "same", "differ"),
    [
        (LLAVA, LLAVA, True, False),
        (LLAVA, CONVERTED, True, False),
        (LLAVA, "Liuhaotian/LLaVA-v1.5-7B", True, False),
        (LLAVA, "/data/models/llava-v1.5-7b/", True, False),
        (LLAVA, "../llava-1.5-7b-hf", True, False),
        (LLAVA, "~/.cache/huggingface/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/0a1b2c", True, False),
        (LLAVA, LARGER, False, True),
        (LLAVA, "/data/llava-v1.5-13b", False, True),
        (LLAVA, "/hub/models--Qwen--Qwen2.5-VL-7B-Instruct/snapshots/0a1b2c", False, True),
        (LLAVA, "Qwen/Qwen2.5-VL-7B-Instruct", False, True),
        (LLAVA, "someone/tuned", False, False),
        (LLAVA, "models/ft", False, False),
        ("runs/tuned", "models/ft", False, False),
        (SHIPPED_MODEL, "models/ft", False, False),
        (str(PROJECT / SHIPPED_MODEL), LLAVA, False, True),
        ("hub/models--someone--tuned", LLAVA, False, True),
        ("models--someone--tuned", "someone/tuned", True, False),
        (LLAVA, "someone/llava-v1.5-7b", False, False),
        (LLAVA, "runs/tuned/checkpoint-500", False, False),
        (LLAVA, "tuned", False, False),
        (LLAVA, SHIPPED_MODEL, False, True),
        (SHIPPED_MODEL, "runs/tuned/checkpoint-500", False, False),
        ("runs/a/checkpoint-500", "runs/b/checkpoint-500", False, False),
        (SHIPPED_MODEL, str(PROJECT / SHIPPED_MODEL), True, False),
        ("a\0b", LLAVA, False, False),
    ],
)
def test_two_names_mean_one_checkpoint_or_two_or_it_cannot_be_told(name, other, same, differ, monkeypatch):
    monkeypatch.chdir(PROJECT)
    for one, two in ((name, other), (other, name)):
        assert same_model(one, two) is same
        assert other_model(one, two) is differ


def test_a_folder_that_looks_like_a_name_of_the_hub_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "someone" / "tuned").mkdir(parents=True)
    assert same_model("hub/models--someone--tuned", "someone/tuned")
    monkeypatch.chdir(tmp_path)
    assert not same_model("hub/models--someone--tuned", "someone/tuned")


def test_no_name_is_of_two_checkpoints():
    assert len(FIRST) == sum(map(len, CHECKPOINTS))
    assert all(OF_LAST[name.rpartition("/")[2]] == first for name, first in FIRST.items())


def test_known_heads_are_of_known_checkpoints_and_found_by_each_of_their_names():
    for file in KNOWN.glob("*.json"):
        model = read_heads(file)["model"]
        names = next((names for names in CHECKPOINTS if model in names), (model,))
        assert len(names) > 1 or model == SHIPPED_MODEL
        assert {heads_file(name) for name in names} == {file}


def test_the_checkpoint_of_each_preset_is_known():
    names = {
        file.stem: configuration(f"model={file.stem}").model.name
        for file in PRESETS.glob("*.yaml")
        if file.stem != "auto"
    }
    assert [preset for preset, name in names.items() if name.casefold() not in FIRST and name != SHIPPED_MODEL] == []


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        (SHIPPED_MODEL, "picturebook"),
        (CONVERTED, "llava15_7b"),
        ("/data/llava-v1.5-13b", "llava15_13b"),
        ("Qwen/Qwen2-VL-7B-Instruct", None),
        ("models/ft", None),
    ],
)
def test_a_preset_with_heads_is_told_by_any_name_of_its_checkpoint(model, preset, monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert preset_with_heads(model) == preset


def test_each_preset_is_found_by_its_own_name_though_two_are_of_one_checkpoint():
    for file in PRESETS.glob("*.yaml"):
        if file.stem not in ("auto", "picturebook_answer"):
            assert preset_of(configuration(f"model={file.stem}").model.name) == file.stem


def test_a_presets_heads_belong_to_every_name_of_its_checkpoint():
    heads = configuration("model=llava15_7b").model.localization_heads
    for name in (CONVERTED, "/data/llava-v1.5-7b"):
        assert configuration("model=llava15_7b", f"model.name={name}").model.localization_heads == heads
    assert configuration("model=llava15_7b", "model.name=/data/tuned").model.localization_heads is None
