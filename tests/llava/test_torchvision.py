"""Families whose pictures only torchvision prepares, which is not always installed.

Their real image processors run with a stand-in for torchvision, in a process of its own; see torchvision_centres.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.base.paths import PROJECT
from llava.grid import Grid
from llava.model.builder import load_model
from tests.llava.test_families import NEED_TORCHVISION
from tests.llava.tiny_torchvision import TORCHVISION_FAMILIES, write_perception_lm
from tests.llava.torchvision_centres import CASES

SIZES = ((192, 96), (72, 144), (250, 90), (64, 64), (61, 30), (500, 40), (37, 41), (400, 300))


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    """What the real processors and the families made of each picture."""
    return json.loads(with_stand_in("tests.llava.torchvision_centres", json.dumps(SIZES)))


def with_stand_in(*arguments: str) -> str:
    """What a module prints that runs with the stand-in for torchvision."""
    path = os.pathsep.join([str(Path(__file__).parent / "stand_in"), str(PROJECT)])
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": path}, cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_a_token_is_made_of_the_place_where_it_lies(found, case, size):
    seen, (width, height) = found[f"{case}, {list(size)}"], size
    held = list(seen["beside"])
    for grid in map(Grid.from_dict, seen["grids"]):
        x0, y0, x1, y1 = grid.extent_xyxy
        across, down = (x1 - x0) / grid.cols / width, (y1 - y0) / grid.rows / height  # shares of the picture
        for (row, col), token in np.ndenumerate(grid.index):
            held.append(int(token))
            left, top = x0 / width + col * across, y0 / height + row * down
            if min(left, top) > -1e-6 and left + across < 1 + 1e-6 and top + down < 1 + 1e-6:
                assert seen["middles"][token] is not None
                x, y = seen["middles"][token]
                assert abs(x - left - across / 2) < 0.25 * across + 2 / 255
                assert abs(y - top - down / 2) < 0.25 * down + 2 / 255
    assert sorted(held) == list(range(len(seen["middles"])))
    assert all(seen["middles"][token] is None for token in seen["beside"])


def test_what_every_family_must_do():
    with_stand_in("pytest", "-p", "no:cacheprovider", "-x", "tests/llava/with_stand_in.py")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is there")
@pytest.mark.parametrize("family", sorted(NEED_TORCHVISION))
def test_without_torchvision_one_line_names_it(tmp_path, family):
    write = TORCHVISION_FAMILIES.get(family, write_perception_lm)
    with pytest.raises(UserError, match="torchvision") as error:
        load_model(str(write(tmp_path / "tiny")), device="cpu")
    assert "\n" not in str(error.value)
