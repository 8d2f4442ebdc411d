"""Paths relative to the working directory or to the project."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def find(path: str) -> Path:
    """A path relative to the working directory or, for the files that ship, to the project."""
    here = Path(path).expanduser()
    return here if here.is_absolute() or here.exists() or not (PROJECT / path).exists() else PROJECT / path


def same_model(name: str, other: str) -> bool:
    """Whether two names of models mean the same: a hub id, or a folder however it is written."""
    return name == other or find(name).resolve() == find(other).resolve()
