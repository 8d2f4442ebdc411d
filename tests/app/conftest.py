"""The shipped model at the page's desk, loaded once for all tests of the page."""

import pytest

from lab.api import load
from lab.app.desk import Desk


@pytest.fixture(scope="session")
def desk():
    return Desk(load())
