"""What `python pipeline.py --help` shows: the stages, and the keys that people use, on one screen."""

from collections.abc import Mapping
from dataclasses import Field

from omegaconf import MISSING

from conf.schema import keys

USAGE = """python pipeline.py [stage=NAME] [model=PRESET] [logic=PRESET] [KEY=VALUE ...]
python pipeline.py data.image_file=photo.jpg data.query="the cup on the left"
python pipeline.py -m KEY=A,B ...     # a job for each value; "\\," is a comma
"""
GROUPS = {"data": "What is read and written", "model": "The model", "logic": "Heads, mask and box", "": "The machine"}


def help_text(stages: Mapping[str, str]) -> str:
    """All of it, 80 columns wide. `stages`: their names, and a line about each."""
    lines = [USAGE, "stage=NAME (pipeline if none is named):"]
    lines += [f"  {name:<10} {text}" for name, text in stages.items()]
    for group, title in GROUPS.items():
        common = [(name, one) for name, one in keys() if one.metadata["common"] and _top(name) == group]
        lines += [f"{title}:", *(_line(name, one) for name, one in common)]
    every = "Every key: python -m conf.keys. Presets: conf/{model,logic,refine}/*.yaml."
    return "\n".join([*lines, "", every])


def _top(name: str) -> str:
    return name.partition(".")[0] if "." in name else ""


def _line(name: str, one: Field) -> str:
    return f"  {name:<21} {one.metadata['common']}"


def value_of(config: object, name: str) -> object:
    """The value of a dotted key."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def as_typed(value: object) -> str:
    """A value as it is written on the command line."""
    if value is None or value == MISSING:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(as_typed, value))}]" if isinstance(value, list) else f"{value}"
