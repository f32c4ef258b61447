"""Somebody who uses the page: opens it, writes, waits for answers. Notes whatever goes wrong."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DESKTOP = (1280, 800)
PHONE = (360, 740)
WAIT_MS = 20_000
"""Nothing here takes as long; what hangs fails instead."""


class PageUser:
    """Acts on one tab. ``page`` is Playwright's."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._note)

    def open(self, view: str = "chat") -> None:
        self.page.goto(f"{self.url}/#{view}")

    def go(self, view: str) -> None:
        """By the link, as a person does."""
        self.page.locator(f"#link-{view}").click()
        self.page.locator(f"#view-{view}").wait_for()

    def choose(self, *documents: str) -> None:
        """These documents, and no other."""
        for box in self.page.locator("#documents input").all():
            box.set_checked(box.input_value() in documents)

    def column(self, letter: str) -> Any:
        return self.page.locator(f".column[data-letter={letter}]")

    def ask(self, letter: str, text: str) -> None:
        """Write to the conversation and send."""
        field = self.column(letter).locator(".composer textarea")
        field.fill(text)
        field.press("Enter")

    def answer(self, letter: str) -> Any:
        """The conversation's last answer, once it has come to its end."""
        answers = self.column(letter).locator(".message-assistant")
        found = answers.last
        found.wait_for()
        self.column(letter).locator(".send[data-does=send]").wait_for()
        return found

    def sources(self, answer: Any) -> dict[str, int]:
        """What the bar under an answer shows."""
        shown = answer.locator(".source-bar").evaluate("bar => ({...bar.dataset})")
        return {name: int(count) for name, count in shown.items()}

    def model(self, expression: str) -> Any:
        """What an expression over the page's own modules (``app``) says."""
        return self.page.evaluate(
            "async () => { const app = await import('/page/app.js'); return " + expression + "; }"
        )

    def see_whole_tree(self) -> None:
        """Go to the Cache view and wait for the first picture and its frame."""
        self.go("cache")
        self.page.locator("#tree-place[data-phase=whole]").wait_for()
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")


@contextmanager
def using(
    browser: Any, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light"
) -> Iterator[PageUser]:
    """A user in a session of their own, who in the end has nothing to complain of."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    try:
        user = PageUser(context.new_page(), url)
        yield user
        assert user.complaints == []
    finally:
        context.close()


def answer_events(text: str) -> str:
    """A stream that answers this, as the server would."""
    chunk: dict[str, Any] = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
    details = {"cached_tokens": 3}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": details}
    end = {"choices": [], "usage": usage}
    return "".join(f"data: {json.dumps(each)}\n\n" for each in (chunk, end)) + "data: [DONE]\n\n"
