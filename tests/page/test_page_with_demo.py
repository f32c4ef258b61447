"""The page as a newcomer meets it: a document, right answers, and a bar that shows the cache.

``RADIXSERVE_SCREENSHOTS`` names a directory to keep the pictures in.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.real_server import Serving, serving
from tests.page.page_user import DESKTOP, PageUser, using


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def server(browser: Any) -> Iterator[Serving]:
    """``radixserve serve`` as it is typed first: each time with an empty cache."""
    environ = {"PORT": "0", "NUM_THREADS": "1", "NUM_PAGES": "512"}
    named = {f"RADIXSERVE_{name}": value for name, value in environ.items()}
    with serving(environ=named) as found:
        yield found


def test_a_document_a_right_answer_and_the_document_is_cached(
    browser: Any, server: Serving, scheme: str, tmp_path: Path
) -> None:
    shots = Path(os.environ.get("RADIXSERVE_SCREENSHOTS", tmp_path))
    with using(browser, server.url, DESKTOP, scheme) as user:
        user.open()
        user.choose("prices")
        user.ask("A", "How much is the Quivo lamp?")
        first = user.answer("A")
        assert text_of(first) == "The Quivo lamp costs 65 euros."
        bar = user.sources(first)
        assert bar["device"] == 0
        user.ask("A", "And what colour is it?")
        assert text_of(user.answer("A")) == "The Quivo lamp comes in gold."

        user.page.locator("#add-conversation").click()
        user.ask("B", "How heavy is the Belva printer?")
        second = user.answer("B")
        assert text_of(second) == "The Belva printer weighs 6.1 kg."
        again = user.sources(second)
        # All of the system prompt and the document, and the beginning of the first message.
        assert again["device"] > bar["computed"] - 32
        assert again["computed"] < 32
        picture(user, shots / f"chat-{scheme}.png")

        second.get_by_text("Show in the tree").click()
        user.page.locator("#tree-place:not([data-path='0'])[data-phase=whole]").wait_for()
        tokens = user.model(
            "[...app.cache.picture.path].map(s => app.cache.picture.tree.tokens[s])"
        )
        # One node holds what both share, and each goes on by itself.
        assert tokens[0] == again["device"]
        assert len(tokens) >= 2
        boxes = user.model("app.cache.picture.painter.drawn.boxes")
        assert boxes >= 3
        picture(user, shots / f"cache-{scheme}.png")

        user.page.go_back()
        second.get_by_text("Why?").click()
        explained = user.page.locator("#explanation")
        assert "How heavy is the Belva printer?" in explained.inner_text()
        assert explained.locator("[data-cause=diverged]").count() == 1
        picture(user, shots / f"explain-{scheme}.png")


def text_of(answer: Any) -> str:
    text: str = answer.locator(".message-text").inner_text()
    return text


def picture(user: PageUser, path: Path) -> None:
    """Once everything stands still."""
    user.page.wait_for_timeout(600)
    user.page.screenshot(path=path)
    assert path.stat().st_size > 10_000
