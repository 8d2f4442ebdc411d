"""Small JSON files that stages read: whatever lies there, it is read or told in one line, and nothing waits for it."""

import os
from pathlib import Path

import pytest

from lab.base.errors import UserError
from lab.base.files import read_json
from lab.batch.finished import read_finished
from lab.heads.files import read_heads
from lab.presence.files import read_calibration
from lab.report.folder import read_json_object
from lab.study.together import read_study
from llava.checkpoint.files import read_json as read_settings

HOSTILE = {
    "pipe": os.mkfifo,
    "device": lambda path: Path(path).symlink_to("/dev/zero"),
    "deep": lambda path: Path(path).write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "digits": lambda path: Path(path).write_text("1" * 5000),
    "bytes": lambda path: Path(path).write_bytes(b"\xff\xfe\xff"),
}


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path):
    path = tmp_path / "finished.json"
    HOSTILE[request.param](path)
    return path


def test_a_byte_order_mark_and_utf_16_are_read(tmp_path):
    path = tmp_path / "a.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes('{"ä": 1}'.encode(encoding))
        assert read_json(path) == {"ä": 1}


def test_whatever_lies_there_is_no_json(hostile):
    with pytest.raises((OSError, ValueError)):
        read_json(hostile)


@pytest.mark.parametrize("read", [read_heads, read_calibration, read_study, read_settings])
def test_a_file_that_is_needed_is_refused_in_one_line(read, hostile):
    with pytest.raises(UserError, match=r"finished\.json") as caught:
        read(hostile)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_needed_is_left_out(hostile):
    assert read_finished(hostile.parent) == {}
    assert read_json_object(hostile) is None
