"""python -m lab.app: what it says before it serves."""

import pytest

import lab.app.__main__ as command
from lab.base.errors import UserError


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
        command.main(["logic.refine=sam"])


def test_help_shows_commands_to_copy(capsys):
    command.main(["--help"])
    assert "python -m lab.app model=llava15_7b" in capsys.readouterr().out
