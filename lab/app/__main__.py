"""The live page.

python -m lab.app                               # the shipped model, http://127.0.0.1:7860
python -m lab.app model=llava15_7b logic=paper  # any model and rules, as the command line takes them
python -m lab.app host=0.0.0.0 port=8000        # for others on the network too: no password protects it
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from lab.base.console import exit_in_one_line
from lab.base.errors import UserError, shown

HOST, PORT, MODEL = "127.0.0.1", "7860", "picturebook"
OWN = {"host": HOST, "port": PORT, "model": MODEL, "device": "auto"}  # what is not for `load` as it stands


def main(arguments: Sequence[str]) -> None:
    """Serves until it is interrupted.

    Raises UserError if gradio is missing, or if an option or the model cannot be used.
    """
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install -r requirements-app.txt -c constraints.txt")
    own = OWN | {key: value for key, _, value in (one.partition("=") for one in arguments) if key in OWN}
    options = [one for one in arguments if one.partition("=")[0] not in OWN]
    if "logic.refine=sam" in options:
        raise UserError("logic.refine=sam: the page shows the grid's mask alone; leave it out, or use stage=pipeline")
    port = _port(own["port"])
    with TemporaryDirectory(prefix="localization-heads-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read as gradio is imported: uploads and files, and nothing else
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from lab.api import load
        from lab.app.desk import Desk
        from lab.app.page import serve

        desk = Desk(lambda: load(own["model"], *options, device=own["device"]), own["model"])
        try:
            with serve(desk, Path(folder), host=own["host"], port=port) as url:
                print(f"{url}  (Ctrl-C ends it)", flush=True)
                desk.start()
                _ = desk.model  # what is wrong with it ends the page
                Event().wait()
        except OSError:
            taken = f"port {port} of {own['host']} is taken or cannot be had"
            raise UserError(f"{taken}; choose another, for example port={port + 1}") from None


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 2**16:
        raise UserError(f"port={shown(text)}: expected a number from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with exit_in_one_line(serves=True):
        main(sys.argv[1:])
