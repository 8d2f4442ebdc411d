"""How the command line speaks: one line for wrong input, short tables for results."""

import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from lab.errors import UserError

log = logging.getLogger(__name__)

NOISE = (
    "object_type",
    "full_key",
    "reference_type",
    "Set the environment",
    "Config search path",
    "set_struct",
    "To append",
)  # of Hydra's errors
FREE_TEXT = (  # keys whose values are not for Hydra to parse
    *("data.image_file", "data.query", "data.attention_file", "data.attention_dir", "data.save_id", "data.data_file", "data.output_dir"),
    *("model.name", "model.base", "model.cache_dir"),
)
PROJECT = Path(__file__).resolve().parent.parent


@contextmanager
def exit_in_one_line() -> Iterator[None]:
    """Turns wrong input (ours, Hydra's and OmegaConf's errors) into one line on stderr and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing several lines and leaving with 1
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        raise SystemExit(130) from None


def one_line(error: Exception) -> str:
    """The lines of an error, and of what caused it, that say what is wrong and what would be right, joined."""
    lines = [line.strip() for text in (error, error.__cause__ or "") for line in str(text).splitlines()]
    kept = dict.fromkeys(line for line in lines if line and not line.startswith(NOISE) and "path=" not in line)
    text = " ".join(kept)
    return f"{text} (python pipeline.py --help lists the keys)" if "not in '" in text or "not in struct" in text else text


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra should read it: free text such as `data.query=the man's hat` is quoted.

    Raises UserError for what would add keys that the schema does not have, and for `-m` without a launcher to hand the job to.
    """
    launcher = any(argument.startswith("hydra/launcher=") for argument in arguments)
    for argument in arguments:
        if argument.startswith(("+", "~")) and not argument.startswith(("+hydra", "++hydra")):
            raise UserError(
                f"{argument}: keys cannot be added or removed; write {argument.lstrip('+~')} (python pipeline.py --help lists them)"
            )
        if argument in ("-m", "--multirun") and not launcher:
            raise UserError(f"{argument} hands the job to a launcher: add hydra/launcher=slurm or hydra/launcher=submitit_local")
    if launcher and find_spec("submitit") is None:
        raise UserError("hydra/launcher needs the package hydra-submitit-launcher: pip install hydra-submitit-launcher")
    if launcher and not {"-m", "--multirun"} & set(arguments):
        raise UserError("hydra/launcher does nothing without -m: python pipeline.py -m hydra/launcher=slurm stage=batch ...")
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    whole = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
    if key not in FREE_TEXT or not equals or value in ("null", "???") or whole or value.startswith("${"):
        return argument
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)  # Hydra's rules for quotes
    return f"{key}='{escaped}'"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart, numbers to the right."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = ["  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


T = TypeVar("T")


def progress(items: Iterable[T], name: str, *, total: int | None = None, every: float = 15.0) -> Iterator[T]:
    """Yields the items behind a progress bar on a terminal, else with a log line every `every` seconds."""
    count = total if total is not None else len(items) if isinstance(items, Sized) else 0
    if sys.stderr.isatty():
        yield from tqdm(items, total=count or None, desc=name, unit="sample", dynamic_ncols=True)
        return
    began = told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told >= every:
            told = time.monotonic()
            rate = done / (told - began)
            log.info("%s: %d of %d, %.1f per second, %.0f s left", name, done, count, rate, (count - done) / rate)
        yield item


def find(path: str) -> Path:
    """A path relative to the working directory or, for the files that ship, to the project."""
    here = Path(path).expanduser()
    return here if here.is_absolute() or here.exists() or not (PROJECT / path).exists() else PROJECT / path
