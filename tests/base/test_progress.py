"""Progress and tables: a bar on a terminal, plain lines in a file, and nothing wider than 80 columns."""

import logging
import re
import sys

import pytest

from lab.base import console as cli
from lab.base.console import progress, table
from lab.stages.evaluate import SHORT
from tests.stages.test_cli import pipeline_process


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock is one second later."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(seconds))


def test_a_file_gets_plain_lines_with_rate_and_time_left(clock, caplog, capfd):
    caplog.set_level(logging.INFO)
    assert list(progress(range(100), "batch", every=40)) == list(range(100))
    first, *_, last = caplog.messages
    assert re.fullmatch(r"batch: \d+ of 100, 1\.\d s each, \d\d:\d\d left", first)
    assert last.startswith("batch: all 100, ")
    assert 3 <= len(caplog.messages) <= 5
    assert all(line.isprintable() and len(line) <= 72 for line in caplog.messages)
    assert capfd.readouterr() == ("", "")


def test_without_a_known_end_no_time_left_is_made_up(clock, caplog):
    caplog.set_level(logging.INFO)
    assert len(list(progress((i for i in range(30)), "read", every=20))) == 30
    assert "so far" in caplog.messages[0]
    assert caplog.messages[-1].startswith("read: all 30, ")


def test_what_is_done_at_once_needs_no_line(caplog):
    caplog.set_level(logging.INFO)
    assert list(progress([1, 2], "quick")) == [1, 2]
    assert list(progress([], "nothing", every=0)) == []
    assert not caplog.messages


def test_a_terminal_gets_a_bar_that_log_lines_do_not_break(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_on_a_terminal", lambda: True)
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        for i in progress(range(3), "batch"):
            if i == 1:
                logging.getLogger("x").warning("a word in between")
    finally:
        root.removeHandler(handler)
    shown = capsys.readouterr().err
    assert "batch: 100%" in shown
    assert "3/3" in shown
    assert "a word in between" in [line.split("\r")[-1] for line in shown.split("\n")]  # on a line of its own


def test_a_pipe_is_no_terminal():
    done = pipeline_process("stage=batch", "data.start_index=9")  # refused before the model is loaded
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


def test_a_table_that_goes_to_a_file_is_whole():
    assert "n" * 200 in table(("name", "count"), [("n" * 200, 5)])


def test_tables_fit_80_columns(monkeypatch):
    monkeypatch.setattr("lab.base.console._read_on_a_terminal", lambda: True)
    numbers = ["100.0"] * len(SHORT)
    lines = table(("heads", *SHORT), [("oracle, best 1024 heads", *numbers), ("chosen", *numbers)]).splitlines()
    assert max(map(len, lines)) <= 80
    assert "oracle, best 1024 heads" in lines[2]  # nothing is cut
    lines = table(("name", "count"), [("n" * 200, 5), ("b", 12)]).splitlines()
    assert [len(line) for line in lines] == [80, 80, 80, 80]
    assert "…  " in lines[2]
