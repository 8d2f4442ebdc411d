"""The console: one line for every way in which a command may end before its time, and any text on any screen."""

import os
import signal
import subprocess
import sys
import time

import pytest
from omegaconf.errors import OmegaConfBaseException

from lab.base.console import CONTINUES, exit_in_one_line, one_line
from lab.base.errors import DiskFull, shown
from lab.base.paths import PROJECT

WAITS = """
import os, sys, time
from pathlib import Path
from lab.base.console import exit_in_one_line
from lab.base.files import write_atomic

def never(self, target):
    print("written", flush=True)
    time.sleep(60)

Path.replace = never
with exit_in_one_line(again=sys.argv[2]):
    write_atomic(sys.argv[1], b"x")
"""


def heard() -> None:
    """Ctrl-C reaches a process even if these tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
        env={**os.environ, **environment},
        preexec_fn=heard,
    )


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("again", [CONTINUES, ""])
def test_a_signal_is_one_line_and_leaves_nothing_behind(number, code, word, again, tmp_path):
    process = python(WAITS, str(tmp_path / "x.pkl"), again)
    assert process.stdout.readline() == b"written\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    told = f"{word}; the same command continues where it stopped" if again else word
    assert error.decode().splitlines() == [told]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code", "told"), [(signal.SIGINT, 0, "\n"), (signal.SIGTERM, 143, "terminated\n")])
def test_ctrl_c_is_the_right_end_of_what_serves(number, code, told):
    serves = "import time\nfrom lab.base.console import exit_in_one_line\nwith exit_in_one_line(serves=True):\n    "
    process = python(f"{serves}print('serving', flush=True)\n    time.sleep(60)")
    assert process.stdout.readline() == b"serving\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error.decode()) == (code, told)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_small_command_imports_is_one_line(number, code):
    process = subprocess.Popen(
        [sys.executable, "-v", "-m", "lab.picturebook.make"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        preexec_fn=heard,
    )
    lines = iter(process.stderr.readline, "")
    assert any(line.startswith("import 'numpy") for line in lines)  # -v tells each import
    process.send_signal(number)
    told = [line for line in lines if not line.startswith(("#", "import ")) and line.strip()]
    assert process.wait(timeout=60) == code
    assert "Traceback" not in "".join(told)
    assert [line for line in told if line.startswith(("interrupted", "terminated"))]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_libraries_are_imported_is_one_line(number, code):
    process = subprocess.Popen(
        [sys.executable, "-v", "pipeline.py", "stage=collect", "data.image_file=nothing.png"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        preexec_fn=heard,
    )
    lines = iter(process.stderr.readline, "")
    assert any(line.startswith("import 'hydra") for line in lines)  # -v tells each import
    process.send_signal(number)
    told = [line for line in lines if not line.startswith(("#", "import ")) and line.strip()]
    assert process.wait(timeout=30) == code
    assert "Traceback" not in "".join(told)
    assert [line for line in told if line.startswith(("interrupted", "terminated"))]


def test_a_signal_that_a_library_does_not_let_through_ends_the_process_all_the_same():
    code = """
import ctypes
from lab.base import signals
from lab.base.console import exit_in_one_line
signals.PATIENCE = 0.2
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(128)
with exit_in_one_line():
    libc.pthread_mutex_lock(mutex)
    print("waiting", flush=True)
    libc.pthread_mutex_lock(mutex)
"""
    process = python(code)
    assert process.stdout.readline() == b"waiting\n"
    time.sleep(0.3)  # until it waits
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (143, b"terminated\n")


def test_what_follows_from_an_interrupt_is_an_interrupt():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def half_imported() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None

    with pytest.raises(SystemExit) as caught, exit_in_one_line():
        half_imported()
    signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130


def test_an_ignored_signal_stays_ignored():
    code = """
import os, signal
from lab.base.console import exit_in_one_line
from lab.base.signals import end_at_once
signal.signal(signal.SIGINT, signal.SIG_IGN)
end_at_once()
with exit_in_one_line():
    os.kill(os.getpid(), signal.SIGINT)
    print("done")
"""
    process = python(code)
    assert process.communicate(timeout=30) == (b"done\n", b"")
    assert process.returncode == 0


def test_handlers_are_those_from_before_once_the_block_is_left():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with exit_in_one_line():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "latin1"}]
)
def test_a_console_that_cannot_show_a_sign_shows_another(environment):
    code = """
from lab.base.console import exit_in_one_line
from lab.base.errors import UserError
with exit_in_one_line():
    print("\\u9e1f \\u2026 done")
    raise UserError("no \\u9e1f")
"""
    process = python(code, **environment)
    output, error = process.communicate(timeout=30)
    assert output == b"? ? done\n"
    assert process.returncode == 2
    assert error.startswith(b"error: no ")
    assert len(error.splitlines()) == 1


def test_a_cause_is_told_once_and_no_temporary_file_is_named():
    error = DiskFull("/out/x.pkl: no space left on the disk for 9 bytes")
    error.__cause__ = OSError(28, "No space left on device", "/out/.0a1b.part")
    assert one_line(error) == "/out/x.pkl: no space left on the disk for 9 bytes"


def test_an_error_of_hydra_is_one_line_of_bearable_length():
    line = one_line(OmegaConfBaseException("Value 'x\n" * 10_000))
    assert len(line) < 1100
    assert "\n" not in line


def test_what_was_found_is_shown_in_one_short_line():
    assert shown("a\nb\0\udce9") == r"a\nb\x00\udce9"
    assert shown("鸟" * 200) == "鸟" * 80 + "..."
    assert shown(12) == "12"


def test_warnings_of_libraries_stay_off_the_screen_and_errors_do_not():
    code = """
import logging, warnings
from lab.base.console import exit_in_one_line
with exit_in_one_line():
    logging.basicConfig()
    warnings.warn("one")
    for name in ("transformers.x", "torch.y", "matplotlib.font_manager"):
        logging.getLogger(name).warning("two")
    logging.getLogger("torch").error("three")
    logging.getLogger("lab.x").warning("four")
"""
    _, error = python(code, PYTHONWARNINGS="").communicate(timeout=30)
    assert [line.rpartition(":")[2] for line in error.decode().splitlines()] == ["three", "four"]


def test_a_signal_before_the_first_import_is_one_line(tmp_path):
    (tmp_path / "signal.py").write_text("import os\nos.kill(os.getpid(), 2)\n")  # what pipeline.py imports first
    found = subprocess.run(
        [sys.executable, "pipeline.py"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        cwd=PROJECT,
        preexec_fn=heard,
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, b"", b"interrupted\n")


@pytest.mark.parametrize("arguments", ["--help", "stage=pipeline save_fig=false data.output_dir={}", "stage=none"])
def test_whoever_reads_what_is_printed_may_leave(tmp_path, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-u", "pipeline.py", *arguments.format(tmp_path).split()]
    found = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    os.close(writing)
    assert "Traceback" not in found.stderr
    assert "Broken" not in found.stderr
    assert found.returncode == (2 if "none" in arguments else 0)
    assert len(list(tmp_path.rglob("*_bbox.json"))) == ("pipeline" in arguments)  # the work is done


def test_errors_are_quiet_too_when_nobody_reads_them():
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run([sys.executable, "pipeline.py", "stage=none"], stdout=writing, stderr=writing, cwd=PROJECT)
    os.close(writing)
    assert found.returncode == 2
