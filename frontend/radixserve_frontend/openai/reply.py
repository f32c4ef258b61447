"""What the answers of both endpoints have in common: their envelope, and choices that add up."""

import time
from dataclasses import dataclass, field
from typing import Any

from radixserve.engine.interface import TextDelta
from radixserve.types import FinishReason, TokenLogprob
from radixserve_frontend.dialect import Totals
from radixserve_frontend.http_errors import ErrorAnswer, openai_error
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.openai.usage import usage_of
from radixserve_frontend.sse import DONE, frame


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

    def answer(self, kind: str, choices: list[dict[str, Any]], totals: Totals) -> dict[str, Any]:
        """A complete object."""
        return self._object(kind, choices, {"usage": usage_of(totals)}, totals)

    def end(self, kind: str, totals: Totals) -> bytes:
        """The end of a stream, after an event with no choices if it asked for usage or a report."""
        usage = {"usage": usage_of(totals)} if self.with_usage else {}
        if not usage and not totals.extras:
            return DONE
        return frame(encode_json(self._object(kind, [], usage, totals))) + DONE

    def _object(
        self, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any], totals: Totals
    ) -> dict[str, Any]:
        return {
            "id": self.response_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **usage,
            **totals.extras,
        }


def break_off(answer: ErrorAnswer) -> bytes:
    """The event of a stream that ends before its answer does. No ``[DONE]`` follows it."""
    return frame(encode_json(openai_error(answer)))


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
