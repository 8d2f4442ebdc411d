"""The live page.

python -m lab.app                               # the shipped model, http://127.0.0.1:7860
python -m lab.app model=llava15_7b logic=paper  # any model and rules, as the command line takes them
python -m lab.app host=0.0.0.0 port=8000        # for others on the network too: no password protects it
"""

import errno
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from lab.base.console import exit_in_one_line
from lab.base.errors import UserError, shown

HOST, PORT, MODEL = "127.0.0.1", "7860", "picturebook"
OWN = {"host": HOST, "port": PORT, "model": MODEL, "device": "auto"}  # what is not for `load` as it stands
GROUPS, KEYS = ("model", "logic"), ("device_id", "data.save_dtype")  # whose keys act here, and single keys that do
PORTS = range(1, 2**16)


def main(arguments: Sequence[str]) -> None:
    """Serves until it is interrupted.

    Raises UserError if gradio is missing, or if an option or the model cannot be used.
    """
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install -r requirements-app.txt -c constraints.txt")
    for one in arguments:
        check_option(one)
    own = OWN | {key: value for key, _, value in (one.partition("=") for one in arguments) if key in OWN}
    options = [one for one in arguments if one.partition("=")[0] not in OWN]
    port = _port(own["port"])
    named = check_settings(own["model"], options, own["device"])
    check_place(own["host"], port)
    with TemporaryDirectory(prefix="localization-heads-") as folder, ExitStack() as stack:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read as gradio is imported: uploads and files, and nothing else
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from lab.api import load
        from lab.app.desk import Desk

        print(f"loading {named}", flush=True)
        desk = Desk(load(own["model"], *options, device=own["device"]))  # an address is printed only if it can answer
        from lab.app.page import serve  # with gradio, which takes seconds to import

        try:
            url = stack.enter_context(serve(desk, Path(folder), host=own["host"], port=port))
        except OSError:
            raise UserError(_taken(port)) from None  # by someone who was faster
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        Event().wait()


def check_option(option: str) -> None:
    """Raises UserError if an option is no key=value, or would do nothing here."""
    key, equals, _ = option.partition("=")
    if equals and option.startswith("-"):
        raise UserError(f"{shown(option)}: write it without dashes in front, {shown(option.lstrip('-'))}")
    if not equals or not key:
        raise UserError(f"{shown(option)}: expected key=value, such as port=8000 (python -m lab.app --help)")
    key = key.lstrip("+~")  # which `load` refuses
    if key not in (*OWN, *KEYS) and key.partition(".")[0] not in GROUPS:
        takes = f"it takes {', '.join((*OWN, *KEYS))}, and the keys of model and logic, such as logic.top_k=5"
        raise UserError(f"{shown(option)}: does nothing for the page; {takes}")


def check_place(host: str, port: int) -> None:
    """Raises UserError if nothing can be served there."""
    here = f"expected {HOST}, 0.0.0.0 for others on the network too, or an address of this machine"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]") or " ", port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"host={shown(host)}: there is no such name or address; {here}") from None
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(place)
        except PermissionError:
            raise UserError(f"port={port}: may not be had without special rights; choose one from 1024 on") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(_taken(port)) from None
            raise UserError(f"host={shown(host)}: not an address of this machine; {here}") from None


def check_settings(model: str, options: Sequence[str], device: str) -> str:
    """The model as messages name it: its preset or, of `auto`, its checkpoint.

    Raises UserError if the options are none that it can be loaded with, before it is loaded.
    """
    from conf.schema import Refine
    from lab.api import settings
    from lab.stages.common import device_name
    from llava.checkpoint.weights import pick_device

    _, config = settings(model, *options, device=device)
    if config.logic.refine == Refine.sam:
        raise UserError("logic.refine=sam: the page shows the grid's mask alone; leave it out, or use stage=pipeline")
    pick_device(device_name(config))
    return config.model.name if model == "auto" else model


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > len(str(PORTS[-1])) or int(text) not in PORTS:
        raise UserError(f"port={shown(text)}: expected a number from {PORTS[0]} to {PORTS[-1]}")
    return int(text)


def _taken(port: int) -> str:
    other = port + 1 if port + 1 in PORTS else port - 1
    return f"port={port}: is taken or cannot be had; choose another, for example port={other}"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with exit_in_one_line(serves=True):
        main(sys.argv[1:])
