"""Files from elsewhere: nothing in them is executed, and none of them crashes, stalls or fills the memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.base.hostile import hostile_exchange, hostile_files, impossible_records

ROOT = Path(__file__).parents[2]
FILES = {f"{name}.pkl": data for name, data in {**hostile_files(), **impossible_records()}.items()}
FILES |= {f"{name}.safetensors": data for name, data in hostile_exchange().items()}
SECONDS, BYTES = 2, 500 * 10**6


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_record_ends_in_one_line_within_two_seconds_and_half_a_gigabyte(tmp_path, name):
    bad = f"bad{Path(name).suffix}"
    (tmp_path / bad).write_bytes(FILES[name])
    refused(tmp_path, bad)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to itself"])
def test_what_is_no_file_is_refused_unread(tmp_path, kind):
    path = tmp_path / "bad.pkl"
    make = {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "link to itself": lambda path: path.symlink_to(path),
    }
    make[kind](path)
    refused(tmp_path, "bad.pkl")


def refused(folder: Path, name: str) -> None:
    """Runs stage=analyze on the file in a process of its own.

    Its seconds are those of the processor once the program is loaded: a machine that runs other tests beside takes its
    time.
    """
    told = folder.with_name(f"{folder.name}.told")
    command = [sys.executable, "-m", "tests.base.measured", str(told), "stage=analyze"]
    process = subprocess.run(
        [*command, f"data.attention_file={folder / name}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HYDRA_FULL_ERROR": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    assert len(process.stderr) < 1000
    assert name in process.stderr
    assert process.stdout == ""
    assert [path.name for path in folder.iterdir()] == [name]
    seconds, peak = told.read_text().split()
    assert float(seconds) < SECONDS
    assert int(peak) < BYTES
