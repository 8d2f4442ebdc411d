"""What several test files share: the configuration as the command line composes it, and the shipped model, loaded once."""

import pytest
from hydra import compose, initialize_config_dir

import conf.schema
from lab.cli import PROJECT

conf.schema.register()


def configuration(*overrides: str):
    """The configuration that `python pipeline.py <overrides>` would run with."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No test may reach for the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def picturebook():
    """The shipped model."""
    from lab.stages import load_model

    return load_model(configuration())
