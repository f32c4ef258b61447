"""What the answers of both endpoints have in common: their envelope, and choices that add up."""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from radixserve.engine.interface import TextDelta
from radixserve.types import FinishReason, TokenLogprob
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.sse import frame


class Reply(Protocol):
    """Turns the deltas of one request into OpenAI's objects. ``index`` counts choices over all
    prompts: prompt ``i``'s choice ``j`` is ``i * n + j``."""

    def chunk(self, index: int, delta: TextDelta) -> bytes:
        """The events that this delta makes, framed; empty if it has nothing to tell yet."""
        ...

    def last_chunk(self, totals: dict[str, Any]) -> bytes:
        """The last event of a stream that asked for usage or a cache report: no choices, only
        these."""
        ...

    def add(self, index: int, delta: TextDelta) -> None:
        """Keep the delta for ``answer``. *Mutates* the reply."""
        ...

    def answer(self, totals: dict[str, Any]) -> dict[str, Any]:
        """The whole answer, once every delta has been added. ``totals``: usage, and what else
        there is to say of the request as a whole."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The fields that every object of one answer repeats, serialised once."""

    response_id: str
    model: str
    with_usage: bool
    """The stream asked for usage, so every chunk has the field."""
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk_parts(self, kind: str) -> tuple[bytes, bytes]:
        """What comes before and after the one choice of a chunk, framing included."""
        head = encode_json(
            {"id": self.response_id, "object": kind, "created": self.created, "model": self.model}
        )
        return (
            b"data: " + head[:-1] + b',"choices":[',
            b'],"usage":null}\n\n' if self.with_usage else b"]}\n\n",
        )

    def answer(
        self, kind: str, choices: list[dict[str, Any]], totals: dict[str, Any]
    ) -> dict[str, Any]:
        """A complete object."""
        return {
            "id": self.response_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **totals,
        }

    def last_chunk(self, kind: str, totals: dict[str, Any]) -> bytes:
        """The event with no choices that closes a stream."""
        return frame(encode_json(self.answer(kind, [], totals)))


@dataclass(slots=True)
class CollectedChoice:
    """One choice's parts so far, for an answer in one piece. Mutable: owned by its reply."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def add(self, delta: TextDelta) -> None:
        """*Mutates* the choice. Cost: what the delta holds."""
        self.texts.append(delta.text)
        if delta.logprobs is not None:
            if self.logprobs is None:
                self.logprobs = []
            self.logprobs.extend(delta.logprobs)
        if delta.finish_reason is not None:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason

    @property
    def text(self) -> str:
        return "".join(self.texts)
