"""The five scripts at the top stand among the rooms' layers too: import-linter cannot place single files."""

import ast

import pytest

from lab.base.paths import PROJECT

LAYERS = [  # from the top down; imports go down only
    "pipeline", "lab.app", "lab.api", "lab.stages", "lab.report", "lab.study", "lab.ablate", "viz", "lab.figures",
    "lab.measure", "lab.batch", "bbox", "lab.heads", "lab.presence",
    "analyze", "collector", "lab.attention", "lab.records", "llava", "lab.datasets", "lab.stations", "conf", "lab.base",
]  # fmt: skip
SCRIPTS = ("pipeline", "viz", "bbox", "analyze", "collector")


def imported(source: str) -> set[str]:
    """The modules that a file imports, at its top or late."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def room(module: str) -> str | None:
    return next((layer for layer in LAYERS if module == layer or module.startswith(f"{layer}.")), None)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_only_rooms_below_it(script):
    rooms = {room(module) for module in imported((PROJECT / f"{script}.py").read_text())} - {None}
    assert rooms
    assert min(LAYERS.index(one) for one in rooms) > LAYERS.index(script)


def test_nobody_below_imports_a_script_above_it():
    for path in [*PROJECT.glob("lab/**/*.py"), *PROJECT.glob("llava/**/*.py"), *PROJECT.glob("conf/*.py")]:
        module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        if (here := room(module)) is None:  # lab.bench, lab.picturebook and lab.smoke stand on top
            continue
        for name in imported(path.read_text()):
            assert name not in SCRIPTS or LAYERS.index(name) > LAYERS.index(here), f"{module} imports {name}"
