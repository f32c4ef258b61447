"""``--log-requests``: what users ask and what they are answered, in the log, at level debug.

Off by default, and then nothing here costs anything. Bounded: the first ``MAX_CHARS`` of each.
"""

import logging
from typing import Final

from radixserve.engine.interface import TextDelta

logger = logging.getLogger(__name__)

MAX_CHARS: Final = 20_000


class LoggedAnswer:
    """Logs a request, then keeps the texts of its choices until its end. Mutable."""

    def __init__(self, request_id: str, body: bytes) -> None:
        text = body[: 4 * MAX_CHARS].decode("utf-8", "replace")[:MAX_CHARS]
        logger.debug("request %s: %r", request_id, text)
        self._request_id = request_id
        self._texts: dict[int, list[str]] = {}
        self._room = MAX_CHARS

    def add(self, index: int, delta: TextDelta) -> None:
        """Keep a delta's text. *Mutates* the answer."""
        if self._room > 0:
            self._texts.setdefault(index, []).append(delta.text[: self._room])
            self._room -= len(delta.text)

    def end(self) -> None:
        """Log what was said."""
        for index, texts in sorted(self._texts.items()):
            logger.debug("answer %s, choice %d: %r", self._request_id, index, "".join(texts))
