"""Takes the picture of the page that README.md shows, in a real browser.

python -m lab.app.picture out=examples/images/app.png
"""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

from lab.base.arguments import typed_options
from lab.base.console import exit_in_one_line
from lab.base.errors import UserError

SHOWN = {"picture": "cat.png", "expression": "a cat on the floor", "expression2": "the umbrella"}
SIZE = (1360, 1900)  # CSS pixels: the cards, the rules and every head
WAIT = 120_000  # milliseconds until everything is there


def take(out: Path, query: Mapping[str, str] = SHOWN, size: tuple[int, int] = SIZE) -> None:
    """Serves the page with the shipped model, opens the link, and saves what is seen as a PNG.

    Raises UserError without gradio, playwright or chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None or find_spec("gradio") is None:
        raise UserError("the picture needs chromium, and the packages of requirements-dev.txt")
    from playwright.sync_api import sync_playwright

    with TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        from lab.api import load
        from lab.app.desk import Desk
        from lab.app.page import serve

        with serve(Desk(load()), Path(folder)) as url, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            page.goto(f"{url}?{urlencode(query)}")
            page.wait_for_function("document.querySelectorAll('.lh-words').length > 1", timeout=WAIT)
            page.wait_for_timeout(500)
            page.screenshot(path=out)
            browser.close()


@dataclass
class PictureConfig:
    """Where the picture goes."""

    out: str = "examples/images/app.png"


if __name__ == "__main__":
    with exit_in_one_line():
        out = Path(typed_options(PictureConfig, sys.argv[1:]).out)
        take(out)
        print(f"wrote {out}")
