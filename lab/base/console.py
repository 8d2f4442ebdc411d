"""How the command line speaks: one line for wrong input, short tables for results."""

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, TypeVar

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lab.base import signals
from lab.base.errors import UserError
from lab.base.refusals import refusal

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger(__name__)


CONTINUES = "the same command continues where it stopped"  # of what is run again
LIBRARIES = ("accelerate", "huggingface_hub", "matplotlib", "PIL", "torch", "transformers")
WRONG = (UserError, HydraException, OmegaConfBaseException)
TERMINAL = 80  # columns


@contextmanager
def exit_in_one_line(*, serves: bool = False, again: str = "") -> Iterator[None]:
    """Turns wrong input (ours, Hydra's and OmegaConf's errors) into one line on stderr and exit code 2.

    Ctrl-C and SIGTERM are a line too, and exit code 130 or 143. The line ends with what becomes of the work if the
    same command is run `again`, where that is not all of it anew; Ctrl-C is the right end of what `serves`. What the
    console cannot show is replaced, and libraries keep their warnings to themselves.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing several lines and leaving with 1
    _quiet_libraries()
    _speak_on()
    with signals.raised() as came:
        try:
            yield
        except WRONG as error:
            raise SystemExit(tell(error)) from None
        except BaseException:
            if not came:
                raise
            # whatever became of it: a library that is interrupted while it is imported raises an error of its own
            if serves and came[0] == signal.SIGINT:
                print(file=sys.stderr)
                raise SystemExit(0) from None
            print("; ".join(filter(None, (signals.WORDS[came[0]], again))), file=sys.stderr)
            raise SystemExit(128 + came[0]) from None


class _Output(FileIO):
    """Where what nobody reads any more, as behind `| head -1`, is dropped."""

    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _speak_on() -> None:
    """Whoever reads what is printed may leave: the work goes on. What the console cannot show is replaced."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, TextIOWrapper) and stream.fileno() == number:
            stream.flush()
            buffer = BufferedWriter(_Output(number, "w", closefd=False))
            new = TextIOWrapper(
                buffer,
                stream.encoding,
                stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, new)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _quiet_libraries() -> None:
    """Libraries tell errors only, here and in the processes that this one starts, unless Python is told otherwise."""
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it sets its own level as it is imported
    if not sys.warnoptions:
        os.environ["PYTHONWARNINGS"] = "ignore"
        warnings.simplefilter("ignore")


def job_in_one_line(job: Callable[[], int]) -> int:
    """The exit code of a job that others follow: wrong input is one line on stderr and 2."""
    try:
        return job()
    except WRONG as error:
        return tell(error)


def tell(error: Exception) -> int:
    """Prints wrong input in one line. Its exit code."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 2


def one_line(error: Exception) -> str:
    """What is wrong and what would be right: a UserError says it, of others `refusal` does."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    return refusal(error)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart, numbers to the right.

    If it would not fit a terminal of 80 columns, the first column is cut; in a file nothing is.
    """
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    if _read_on_a_terminal():
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


def _read_on_a_terminal() -> bool:
    return sys.stdout.isatty()


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
