"""Paths: the home folder, the project's own files, and what no system takes for a path."""

import os
from pathlib import Path

import pytest

from lab.base.paths import PROJECT, find, home, refused, resolved


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory and the home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_a_path_is_found_here_at_home_or_in_the_project(folder):
    assert find("file") == Path("file")
    assert find("~/x.png") == folder / "home" / "x.png"
    assert find("examples/images/bird.png") == PROJECT / "examples/images/bird.png"
    assert find("nothing") == Path("nothing")


@pytest.mark.parametrize("path", ["~nobody_at_all/x", "x" * 5000, "a\0b", "file/x", "\udce9", ""])
def test_no_path_ends_in_an_error_by_being_looked_for(path, folder):
    assert find(path) == Path(path)
    assert resolved(path)
    assert home(path) == Path(path)


@pytest.mark.parametrize(
    ("path", "kind", "why"),
    [
        ("x" * 256, "file", "file name too long"),
        ("data:image/png;base64," + "iVBORw0KGgo" * 60, "file", "file name too long"),
        ("a/" * 4000, "folder", "file name too long"),
        ("a\0b", "file", "no path holds a NUL character"),
        ("~nobody_at_all/x", "file", "there is no user nobody_at_all"),
        ("file/x.png", "file", "file is a file, not a folder"),
        ("file", "folder", "it is a file, expected a folder"),
        ("home", "file", "it is a folder, expected a file"),
        ("pipe", "file", "it is a pipe or a device, expected a file"),
        ("/dev/zero", "file", "it is a pipe or a device, expected a file"),
        ("pipe", "folder", "it is a pipe or a device, expected a folder"),
        ("file", "file", None),
        ("~", "folder", None),
        ("~/new", "folder", None),
        ("liuhaotian/llava-v1.5-7b", "folder", None),
    ],
)
def test_what_cannot_be_a_path_is_told(path, kind, why, folder):
    assert refused(path, kind) == why


def test_links_that_go_in_circles_are_refused(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert "symbolic links" in refused("a", "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may go anywhere")
def test_a_folder_without_permission_is_refused(folder):
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(0)
    try:
        assert refused("closed", "folder") == "permission denied"
        assert refused("closed/x.png", "file") == "permission denied"
    finally:
        closed.chmod(0o700)


def test_a_refusal_by_the_system_is_told_in_its_words(folder, monkeypatch):
    def stat(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", stat)
    assert refused("closed/x.png", "file") == "permission denied"
