"""Pictures from the web, from a server of this machine."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from lab.base import remote
from lab.base.errors import UserError
from lab.base.images import header_size, open_image
from lab.base.remote import fetch, is_url, kept_at


def picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(stream, format="png")
    return stream.getvalue()


class Pages(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - the server makes one of these for each request

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/gone"):
            self.send_error(404, "Not Found")
            return
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/cat.png" if "here" in self.path else "file:///etc/hostname")
            self.end_headers()
            return
        self.send_response(200)
        if self.path.startswith("/short"):
            self.send_header("Content-Length", str(10 * len(picture())))
        self.end_headers()
        if self.path.startswith("/nothing"):
            return
        self.wfile.write(picture() if "text" not in self.path else b"<html>no picture</html>")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The address of a server; its pictures are kept in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Pages.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_picture_is_fetched_once_when_it_is_first_opened(site, tmp_path):
    path = kept_at(f"{site}/photos/cat.png?size=large")
    assert (path.name, Pages.asked) == ("cat.png", [])
    assert path.is_relative_to(tmp_path / "cache/localization-heads")
    assert header_size(path) == (8, 6)
    assert open_image(path).getpixel((0, 0)) == (90, 90, 90)
    assert Pages.asked == ["/photos/cat.png?size=large"]
    assert kept_at(f"{site}/photos/cat.png?size=large") == path
    assert kept_at(f"{site}/photos/cat.png") != path
    assert open_image(kept_at(f"{site}/moved/here")).size == (8, 6)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("/gone.png", r"/gone.png: cannot be fetched \(HTTP 404 Not Found\); check the address"),
        ("/moved/away", "Redirection to url 'file:///etc/hostname' is not allowed"),
        ("/short", "it ended after .* bytes, before its end"),
        ("/nothing", "it ended after 0 bytes"),
        ("/text", "not an image, or of an unknown kind"),
    ],
)
def test_what_is_no_picture_ends_in_one_line(site, page, message):
    with pytest.raises(UserError, match=message) as caught:
        open_image(kept_at(site + page))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://[x/a.png", "http://\ud800/x.png", "http://", "http://a:b/x.png", "http://a b/"]
)
def test_what_is_no_address_is_told_when_it_is_opened(site, address):
    path = kept_at(address)
    with pytest.raises(UserError, match="cannot be fetched"):
        open_image(path)
    assert not path.exists()


def test_a_long_name_in_any_script_is_one_of_a_file(site):
    assert open_image(kept_at(f"{site}/{'%E9%B8%9F' * 100}.png")).size == (8, 6)


def test_size_and_time_have_limits(site, monkeypatch):
    monkeypatch.setattr(remote, "MOST_BYTES", 50)
    with pytest.raises(UserError, match="it is larger than 0 MB"):
        fetch(kept_at(f"{site}/big.png"))
    monkeypatch.setattr(remote, "MOST_BYTES", 10**6)
    monkeypatch.setattr(remote, "PATIENCE", 1e-9)
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(kept_at(f"{site}/slow.png"))
    assert not kept_at(f"{site}/slow.png").exists()


def test_nobody_there_is_one_line(site, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="Connection refused"):
        open_image(kept_at("http://127.0.0.1:9/x.png"))
    fetch(tmp_path / "any.png")  # a path that stands for no address
    assert [is_url(text) for text in ("HTTPS://a/b.jpg", "http://a", "ftp://a", "file:///a", "http.jpg")] == [
        True, True, False, False, False,
    ]  # fmt: skip
