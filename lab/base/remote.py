"""Pictures from the web: a URL stands for a file in the user's cache, which is fetched once, when it is first opened.

    path = kept_at("https://example.org/cat.jpg")   # ~/.cache/localization-heads/<digest>/cat.jpg, not there yet
    fetch(path)                                     # now it is; a second call does nothing

Everything between works with the path alone. Only http and https are fetched, also behind a redirection.
"""

import hashlib
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lab.base.errors import UserError, shown
from lab.base.files import safe_name, write_atomic
from lab.base.paths import exists, home

SCHEMES = ("http", "https")
MOST_BYTES = 64 * 2**20  # of a picture
PATIENCE = 30.0  # seconds that fetching one may take
PIECE = 2**16
NOTE = "url.txt"  # beside the picture: where it is from


def is_url(text: str) -> bool:
    """Whether a text is a web address, and no path."""
    return text.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def kept_at(url: str) -> Path:
    """The file that stands for a web address. It is noted where to fetch it from; nothing is fetched yet."""
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError:  # as of http://[x: fetching it tells what is wrong
        name = ""
    path = _cache() / digest / safe_name(name)
    if not (path.parent / NOTE).exists():
        write_atomic(path.parent / NOTE, url.encode("utf-8", "surrogatepass"))
    return path


def fetch(path: Path) -> None:
    """Fetches the picture that a path stands for, unless it is there; does nothing for any other path.

    Raises UserError if it cannot be fetched, takes longer than PATIENCE, or is larger than MOST_BYTES.
    """
    if not path.is_relative_to(_cache()) or exists(path) or not exists(path.parent / NOTE):
        return
    url = (path.parent / NOTE).read_bytes().decode("utf-8", "surrogatepass")
    try:
        write_atomic(path, _body(url))
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(
            f"{shown(url)}: cannot be fetched ({_why(error)}); check the address, or save the picture"
        ) from None


def _cache() -> Path:
    return home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "localization-heads"


def _body(url: str) -> bytes:
    began, body = time.monotonic(), bytearray()
    request = urllib.request.Request(url, headers={"User-Agent": "localization-heads"})
    with _opener().open(request, timeout=PATIENCE) as response:
        while piece := response.read(PIECE):
            body += piece
            if len(body) > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MB")
            if time.monotonic() - began > PATIENCE:
                raise ValueError(f"it takes longer than {PATIENCE:g} seconds")
        if response.length or not body:
            raise ValueError(f"it ended after {len(body):,} bytes, before its end")
    return bytes(body)


def _opener() -> urllib.request.OpenerDirector:
    """As urllib's own, without files and FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPRedirectHandler,  # which follows no address of a file
    ):
        opener.add_handler(handler())
    return opener


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)
