"""The notebook runs from its own folder, and its beginning from the project's.

What it shows is what it was committed with.
"""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lab.base.paths import PROJECT

NOTEBOOK = PROJECT / "examples/notebooks/localization_heads.ipynb"


def execute(cwd: Path, out: Path, *, cells: int | None = None) -> nbformat.NotebookNode:
    """The notebook after a run of its first `cells`, its files written to `out`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = notebook.cells[:cells]
    setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert 'Path("runs/notebook")' in setup.source
    setup.source = setup.source.replace('Path("runs/notebook")', f"Path({str(out)!r})")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(cwd)}}).execute()
    return notebook


def shown(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_the_notebook_runs_from_its_own_folder_and_shows_what_it_was_committed_with(tmp_path):
    notebook = execute(NOTEBOOK.parent, tmp_path / "out")
    rows = re.findall(r"^(chosen|random, same layers) .*?(\d+\.\d) % of boxes right", shown(notebook), re.MULTILINE)
    committed = shown(nbformat.read(NOTEBOOK, as_version=4))
    for name, percent in rows:
        (before,) = re.findall(rf"^{name} .*?(\d+\.\d) % of boxes right", committed, re.MULTILINE)
        assert float(percent) == pytest.approx(
            float(before), abs=4
        )  # two scenes of fifty, for other machines' rounding
    assert [name for name, _ in rows] == ["chosen", "random, same layers"]
    assert (
        sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])) == 3
    )
    assert len(list((tmp_path / "out" / "scenes" / "images").iterdir())) == 50


def test_the_notebook_finds_the_project_from_the_projects_folder(tmp_path):
    assert "8 layers x 8 heads" in shown(execute(PROJECT, tmp_path / "out", cells=4))


def test_the_committed_notebook_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/(home|root|tmp|work|Users)/", re.sub(r'"image/png": "[^"]*"', "", text))
    assert "Traceback" not in text


def test_the_notebook_for_a_gpu_runs_with_the_shipped_model_in_place_of_a_large_one():
    notebook = nbformat.read(NOTEBOOK.with_name("colab.ipynb"), as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = re.sub(r'load\("qwen2_5_vl_3b", .*\)', 'load("picturebook")', cell.source)
        cell.source = cell.source.replace("%pip install", "# pip install")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    assert "examples/models/picturebook" in str(notebook.cells[3].outputs)
    assert "image/png" in notebook.cells[5].outputs[0]["data"]
    assert shown(notebook).count("attention sum") == 8
    assert re.search(r"^the house \(\d+, ", shown(notebook), re.MULTILINE)
