"""What several test files share.

The configuration as the command line composes it, and the shipped model, loaded once.
"""

import pytest

import conf.schema
from conf.schema import Config
from lab.base.paths import PROJECT
from lab.heads.choice import HeadChoice, head_choice
from lab.stages.study import settings_of
from lab.study.settings import Settings


def configuration(*overrides: str) -> Config:
    """The configuration that `python pipeline.py <overrides>` would run with."""
    return conf.schema.configuration(overrides)


def choice_of(config: Config) -> HeadChoice:
    """The heads that `python pipeline.py` would choose by it."""
    return head_choice(config.logic, config.model)


def study_settings(config: Config) -> Settings:
    """What `stage=study` would take of it."""
    return settings_of(config, choice_of(config))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No test may reach for the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def picturebook():
    """The shipped model."""
    from lab.stages.common import load_model

    return load_model(configuration())


@pytest.fixture(scope="module")
def tensors():
    """Weights of a tiny LLaVA, by the original layout's names."""
    from tests.llava.tiny_llava import make_tensors

    return make_tensors()


@pytest.fixture(scope="module")
def tower(tmp_path_factory, tensors):
    """The folder of its vision tower, which checkpoints of the original layout keep outside."""
    from tests.llava.tiny_llava import write_tower

    return write_tower(tmp_path_factory.mktemp("towers") / "clip", tensors)


@pytest.fixture(scope="module")
def collect_scenes(tmp_path_factory, picturebook):
    """collect_scenes(n, seed, overrides) -> the data file and the folder of outputs of so many collected scenes."""
    from lab.picturebook.make import make
    from pipeline import run

    def collected(n: int, seed: int, *overrides: str):
        folder = tmp_path_factory.mktemp("scenes")
        data = make(folder / "data", n, seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lab.stages.common.load_model", lambda cfg: picturebook)
            patch.chdir(PROJECT)
            paths = (f"data.data_file={data}", f"data.output_dir={folder}/out")
            run(configuration("stage=batch", "data.process_all=true", *paths, *overrides))
        return data, folder / "out"

    return collected


@pytest.fixture(scope="module")
def browser():
    from tests.browser import chromium  # playwright, which only tests of pages need

    with chromium() as opened:
        yield opened
