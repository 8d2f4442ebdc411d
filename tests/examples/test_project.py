"""What stands beside the code: versions that agree, and commands that exist."""

import re
import subprocess
import sys

import yaml

from lab import __version__
from lab.base.paths import PROJECT


def text(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_wherever_it_is_told():
    assert yaml.safe_load(text("CITATION.cff"))["version"] == __version__
    assert re.findall(r"^## (\d+\.\d+\.\d+)", text("CHANGELOG.md"), re.MULTILINE)[0] == __version__
    told = subprocess.run(
        [sys.executable, "pipeline.py", "--version"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert told.stdout == f"localization heads {__version__}\n"


def test_every_python_that_the_readme_names_is_tested_by_the_same_commands():
    first, last = re.search(r"Python 3\.(\d+) to 3\.(\d+)", text("README.md")).groups()
    jobs = yaml.safe_load(text(".github/workflows/test.yml"))["jobs"]
    tested = jobs["test"]["strategy"]["matrix"]["python"]
    assert tested == [f"3.{minor}" for minor in range(int(first), int(last) + 1)]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE)
    assert all(command.removeprefix("make ") in targets for command in commands), commands


def test_what_runs_before_a_commit_is_what_lints():
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", text("Makefile"), re.MULTILINE)[1]
    wanted = [line.strip().replace("$(BIN)/", ".venv/bin/").removesuffix(" .") for line in lint.splitlines()]
    assert [hook["entry"] for hook in hooks] == wanted


def test_the_container_is_made_of_files_that_are_there():
    copied = re.findall(r"^COPY ((?:\S+ )+)\S+$", text("Dockerfile"), re.MULTILINE)
    assert all((PROJECT / name).exists() for names in copied for name in names.split())
    assert (PROJECT / "pipeline.py").exists()
    ignored = text(".dockerignore").split()
    made_here = [name.rstrip("/") for name in text(".gitignore").split() if not name.startswith(("*", "__"))]
    assert [name for name in (".git", ".import_linter_cache", *made_here) if name not in ignored] == []


def test_jobs_end_may_read_only_and_can_be_told_where_torch_for_cpus_is():
    workflow, container = yaml.safe_load(text(".github/workflows/test.yml")), text("Dockerfile")
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())
    assert workflow["env"] == {"PIP_EXTRA_INDEX_URL": "${{ vars.TORCH_INDEX }}"}
    assert "ARG TORCH_INDEX=\n" in container


def test_an_attempt_to_install_it_is_told_in_a_line_what_to_do_instead():
    asked = subprocess.run([sys.executable, ".ci/not_installed.py"], cwd=PROJECT, capture_output=True, text=True)
    assert asked.returncode == 1
    assert re.fullmatch(r"the project is run from its folder: pip install -r requirements.txt .*\n", asked.stderr)
