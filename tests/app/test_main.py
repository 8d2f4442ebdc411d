"""python -m lab.app: what it says before it serves."""

import shutil
import socket
from importlib.util import find_spec

import pytest

import lab.app.__main__ as command
from lab.base.errors import UserError
from lab.base.paths import PROJECT


def test_without_gradio_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gradio: pip install -r requirements-app\.txt -c constraints\.txt"):
        command.main([])


@pytest.mark.parametrize("port", ["0", "65536", "eighty", "-1"])
def test_a_port_is_a_number(monkeypatch, port):
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=f"port={port}: expected a number from 1 to 65535"):
        command.main([f"port={port}"])


def test_what_the_page_does_not_show_is_refused(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=r"logic\.refine=sam: the page shows the grid's mask alone"):
        command.check_settings("picturebook", ["logic.refine=sam"], "auto")


def test_help_shows_commands_to_copy(capsys):
    command.main(["--help"])
    assert "python -m lab.app model=llava15_7b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "7998"], r"--port: expected key=value, such as port=8000 \(python -m lab\.app --help\)"),
        (["--port=7861"], r"--port=7861: write it without dashes in front, port=7861"),
        (
            ["model=llava15_7"],
            "No such checkpoint: llava15_7 is neither a preset, .* owner/name; did you mean llava15_7b or",
        ),
        (["foo"], "foo: expected key=value, such as port=8000"),
        (["=3"], "=3: expected key=value"),
        (
            ["stage=batch"],
            "stage=batch: does nothing for the page; it takes host, port, model, device, .* logic.top_k=5",
        ),
        (["data.image_file=x"], "data.image_file=x: does nothing for the page"),
        (["refine.prompt=points"], "refine.prompt=points: does nothing for the page"),
        (["host=nosuch.invalid"], r"host=nosuch\.invalid: there is no such name or address; expected 127\.0\.0\.1"),
        (["host="], "host=: there is no such name or address"),
        (["host=192.0.2.1"], r"host=192\.0\.2\.1: not an address of this machine; expected 127\.0\.0\.1"),
        (["port=" + "9" * 5000], "expected a number from 1 to 65535"),
        (["port=²"], "expected a number from 1 to 65535"),
        (["logic.top_k=many"], "logic.top_k"),
        (["logic.nothing=1"], "logic.nothing"),
        (["+logic.nothing=1"], "keys cannot be added or removed"),
        (["logic.heads=nowhere.json"], "nowhere.json"),
        (["device=foo"], "Unknown device 'foo'; choose auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_served(monkeypatch, capfd, options, message):
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    if "host" not in options[0]:
        monkeypatch.setattr(command, "check_place", lambda host, port: None)
    with pytest.raises(UserError, match=message) as caught:
        command.main(options)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_a_port_that_is_taken_is_told_with_another_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: is taken or cannot be had; choose another, for example"):
            command.check_place("127.0.0.1", port)


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: requirements-app.txt")
@pytest.mark.parametrize("weights", [None, b"", b"no weights"])
def test_no_address_is_told_of_a_model_that_cannot_be_loaded(monkeypatch, capfd, tmp_path, weights):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # and back again
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(command, "check_place", lambda host, port: None)
    model = tmp_path / "model"
    shutil.copytree(PROJECT / "examples" / "models" / "picturebook", model)
    (model / "model.safetensors").unlink()
    if weights is not None:
        (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError) as caught:
        command.main([f"model={model}"])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == f"loading {model}\n"
