"""A browser for the page's tests: Debian's Chromium, driven by Playwright, or a skip that says why.

``RADIXSERVE_CHROMIUM`` names another one.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.frontend.real_server import Serving, running_server
from tests.page.page_user import PageUser, using

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium, for one module at a time: while Playwright runs, an event loop does,
    beside which no asynchronous test can run."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="there is no Playwright: pip install playwright"
    )
    named = os.environ.get("RADIXSERVE_CHROMIUM", "chromium")
    path = shutil.which(named)
    if path is None:
        pytest.skip(
            f"there is no {named!r} to see the page with: install it (on Debian, apt-get install "
            "chromium), or name another Chromium by RADIXSERVE_CHROMIUM"
        )
    with tempfile.TemporaryDirectory() as home, sync_api.sync_playwright() as playwright:
        # Nothing of whoever runs the tests, and nothing that stays.
        environ = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        running = playwright.chromium.launch(executable_path=path, args=FLAGS, env=environ)
        yield running
        running.close()


@pytest.fixture(scope="module")
def server(browser: Any) -> Iterator[Serving]:
    """Asks for the browser first: without one no server need start."""
    with running_server() as serving:
        yield serving


@pytest.fixture
def user(browser: Any, server: Serving) -> Iterator[PageUser]:
    with using(browser, server.url) as one:
        one.open()
        yield one
