"""How the command line speaks: one line for wrong input, short tables for results."""

import logging
import os
import re
import sys
import time
from collections.abc import Container, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lab.base.errors import UserError

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


# How OmegaConf refuses a word that is not among those of a key.
WRONG_WORD = re.compile(r"Invalid value '(?P<value>.*?)', expected one of \[(?P<words>.*?)\]\s+full_key: (?P<key>\S+)")
TERMINAL = 80  # columns


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
    if wrong := wrong_word(error):
        return wrong
    cause = None if isinstance(error, UserError) else error.__cause__  # ours say what is wrong by themselves
    lines = [line.strip() for text in (error, cause or "") for line in str(text).splitlines()]
    kept = dict.fromkeys(line for line in lines if line and not line.startswith(NOISE) and "path=" not in line)
    text = " ".join(kept)
    unknown = "not in '" in text or "not in struct" in text
    return f"{text} (python pipeline.py --help lists the keys)" if unknown else text


def wrong_word(error: Exception) -> str | None:
    """What is wrong and what would be right, if the error is about a word that is not among those of its key."""
    found = WRONG_WORD.search(f"{error}\n{error.__cause__ or ''}")
    return f"{found['key']}={found['value']}: choose from {found['words']}" if found else None


def hydra_arguments(arguments: Sequence[str], free_text: Container[str]) -> list[str]:
    """The command line as Hydra should read it: free text such as `data.query=the man's hat` is quoted.

    `free_text` are the keys whose values are not for Hydra to parse.
    Raises UserError for what would add keys that the schema does not have, and for `-m` without a launcher to hand the
    job to.
    """
    launcher = any(argument.startswith("hydra/launcher=") for argument in arguments)
    for argument in arguments:
        if argument.startswith(("+", "~")) and not argument.startswith(("+hydra", "++hydra")):
            instead = f"write {argument.lstrip('+~')} (python pipeline.py --help lists them)"
            raise UserError(f"{argument}: keys cannot be added or removed; {instead}")
        if argument in ("-m", "--multirun") and not launcher:
            raise UserError(
                f"{argument} hands the job to a launcher: add hydra/launcher=slurm or hydra/launcher=submitit_local"
            )
    if launcher and find_spec("submitit") is None:
        raise UserError("hydra/launcher needs the package hydra-submitit-launcher: pip install hydra-submitit-launcher")
    if launcher and not {"-m", "--multirun"} & set(arguments):
        raise UserError(
            "hydra/launcher does nothing without -m: python pipeline.py -m hydra/launcher=slurm stage=batch ..."
        )
    return [_quoted(argument, free_text) for argument in arguments]


def _quoted(argument: str, free_text: Container[str]) -> str:
    key, equals, value = argument.partition("=")
    whole = len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]
    if key not in free_text or not equals or value in ("null", "???") or whole or value.startswith("${"):
        return argument
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)  # Hydra's rules for quotes
    return f"{key}='{escaped}'"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart, numbers to the right.

    If it would not fit a terminal of 80 columns, the first column is cut.
    """
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    widths[0] = max(len(cells[0][0]), min(widths[0], TERMINAL - sum(widths[1:]) - 2 * len(widths[1:])))
    cells = [[_cut(row[0], widths[0]), *row[1:]] for row in cells]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


T = TypeVar("T")


def progress(items: Iterable[T], name: str, *, total: int | None = None, every: float = 15.0) -> Iterator[T]:
    """Yields the items behind a bar with rate and time left.

    Where there is no terminal, with a log line every `every` seconds.
    """
    count = total if total is not None else len(items) if isinstance(items, Sized) else None
    return _bar(items, name, count) if _on_a_terminal() else _log_lines(items, name, count, every)


def _on_a_terminal() -> bool:
    """Whether stderr is a terminal that knows its size; without one, a bar would be drawn into nothing."""
    return sys.stderr.isatty() and all(os.get_terminal_size(sys.stderr.fileno()))


def _bar(items: Iterable[T], name: str, count: int | None) -> Iterator[T]:
    with logging_redirect_tqdm():  # log lines go above the bar
        yield from tqdm(items, total=count, desc=name, unit=" samples", dynamic_ncols=True)


def _log_lines(items: Iterable[T], name: str, count: int | None, every: float) -> Iterator[T]:
    """The first line after `every` seconds; then also one at the end."""
    began = told = time.monotonic()
    done = 0
    for done, item in enumerate(items):
        if time.monotonic() - told >= every:
            told = time.monotonic()
            log.info("%s", _progress_line(name, done, count, told - began))
        yield item
    if told > began:
        log.info("%s", _progress_line(name, done + 1, done + 1, time.monotonic() - began))


def _progress_line(name: str, done: int, count: int | None, seconds: float) -> str:
    """`batch: 120 of 300, 8.0 per second, 00:22 left`, short enough for 80 columns after a log level."""
    rate = f"{done / seconds:.1f} per second" if done > seconds else f"{seconds / max(done, 1):.1f} s each"
    if count is None:
        return f"{name}: {done}, {rate}, {tqdm.format_interval(seconds)} so far"
    if done >= count:
        return f"{name}: all {done}, {rate}, {tqdm.format_interval(seconds)} in all"
    left = tqdm.format_interval((count - done) * seconds / done) if done else "?"
    return f"{name}: {done} of {count}, {rate}, {left} left"
