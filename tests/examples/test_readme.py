"""The documents: short, with links that lead somewhere and commands that exist."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from conf.keys import README as KEYS
from conf.keys import key_tables
from conf.schema import configuration, free_text
from lab.base.arguments import hydra_arguments
from lab.base.marked import between
from lab.base.paths import PROJECT

ROOMS = sorted(path.parent for path in PROJECT.glob("lab/*/__init__.py"))
PAGES = [PROJECT / "README.md", *PROJECT.glob("lab/**/README.md"), *PROJECT.glob("examples/**/*.md"), KEYS]


def commands() -> list[str]:
    """Every line of a code block of a page that starts the program."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    starts = ("python pipeline.py", "accelerate launch", "python -m ", "make ")
    return sorted({line.strip().removesuffix("\\") for line in lines if line.strip().startswith(starts)})


def test_the_readme_is_read_in_five_minutes():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "room", [*ROOMS, *(PROJECT / name for name in ("llava", "conf", "tests"))], ids=lambda p: p.name
)
def test_every_room_says_what_is_in_it(room):
    assert len((room / "README.md").read_text(encoding="utf-8").splitlines()) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), link


@pytest.mark.parametrize("command", commands())
def test_every_command_exists(command):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (PROJECT / "Makefile").read_text(), re.MULTILINE), command
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2]), command
    else:
        overrides = [word for word in words[words.index("pipeline.py") + 1 :] if "=" in word and "hydra" not in word]
        jobs = [override.partition(",")[0] for override in overrides] if "-m" in words else overrides
        configuration(hydra_arguments(jobs, free_text()))


def test_the_key_tables_are_those_of_the_schema():
    text = KEYS.read_text(encoding="utf-8")
    command = "python -m conf.keys --write"
    assert between(text, "keys", command, key_tables()) == text, command


def test_a_picture_of_the_readme_is_there():
    assert Path(PROJECT / "examples/images/readme_cat.png").exists()
