"""Results on the hub: nothing is sent unless asked for, and never records or pictures."""

from types import SimpleNamespace

import huggingface_hub
import pytest

from lab.base.errors import UserError
from lab.publish import main

FILES = dict.fromkeys(
    (
        "localization_heads.json", "metrics.md", "config.evaluate.yaml", "presence.json", "presence.md",
        "study_heads.pdf", "ablate.svg",
    ),
    "{}",
)  # fmt: skip
OTHERS = {"bird.pkl": "attention", "bird_mask.png": "pixels", "bird_bbox.json": "{}", ".running.lock": ""}


@pytest.fixture
def folder(tmp_path):
    for name, content in {**FILES, **OTHERS}.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def sent(monkeypatch):
    """What the hub was asked for."""
    asked = []

    class Hub:
        def create_repo(self, name, **options):
            asked.append((name, options))
            return SimpleNamespace(repo_id=name, __str__=lambda: name)

        def create_commit(self, name, operations, **options):
            asked.append((name, sorted(one.path_in_repo for one in operations), options["repo_type"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return asked


def test_without_push_it_says_what_it_would_send_and_sends_nothing(folder, sent, capsys):
    main([str(folder), "--to", "user/heads"])
    told = capsys.readouterr().out
    assert all(name in told for name in FILES)
    assert not any(name in told for name in OTHERS)
    assert "nothing was sent; --push sends 7 files to user/heads" in told
    assert sent == []


def test_push_sends_the_results_in_one_commit(folder, sent):
    main([str(folder), "--to", "user/heads", "--push", "--private"])
    assert sent[0] == ("user/heads", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert sent[1:] == [("user/heads", sorted(FILES), "dataset")]


def test_what_cannot_be_sent_is_told_in_one_line(folder, tmp_path, sent):
    with pytest.raises(UserError, match="is no folder"):
        main([str(tmp_path / "nowhere"), "--to", "user/heads"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no results in"):
        main([str(tmp_path / "empty"), "--to", "user/heads"])
    with pytest.raises(UserError, match="--to"):
        main([str(folder)])


@pytest.mark.parametrize("name", ["", "not a name", "heads", "a/b/c", "../x"])
def test_what_is_no_name_on_the_hub_is_refused_before_anything_is_listed(name, folder, capsys):
    with pytest.raises(UserError, match=r"argument --to: expected USER/NAME, of letters"):
        main([str(folder), "--to", name])
    assert capsys.readouterr().out == ""


def test_an_empty_folder_argument_is_not_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"argument folder: it is empty"):
        main(["", "--to", "user/heads"])


def test_one_file_is_told_as_one(tmp_path, capsys):
    (tmp_path / "metrics.md").write_text("")
    main([str(tmp_path), "--to", "user/heads"])
    assert "--push sends 1 file to user/heads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (None, "Connection refused; can the hub be reached from here?"),
        (401, "Connection refused; is HF_TOKEN set, and may it write there?"),
        (503, "Connection refused; try again later"),
    ],
)
def test_what_the_hub_says_is_told_in_one_line_with_what_may_be_wrong(status, told, folder, monkeypatch):
    class Refused(OSError):
        response = SimpleNamespace(status_code=status)

    def refuse(*_, **__):
        raise Refused("Connection refused\nand more")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(UserError) as caught:
        main([str(folder), "--to", "user/heads", "--push"])
    assert str(caught.value) == f"user/heads: {told}"
