"""A message, told event by event or put together as one.

    message_start                        input tokens, and how many of them the cache had
    ( content_block_start
      content_block_delta ...            text_delta, thinking_delta, input_json_delta
      content_block_stop ) ...
    message_delta                        why it stopped, and all that it cost
    message_stop

``message_start`` comes with the first token, not before: until then nobody knows what the cache
had, and a client that times its first event measures the first token. While nothing comes the
stream pings in comments.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radixserve.engine.interface import TextDelta
from radixserve.text.answer import AnswerParser
from radixserve.types import PrefixMark
from radixserve_frontend.answer_blocks import (
    AnswerBlocks,
    Block,
    BlockEvent,
    Closed,
    Grown,
    Opened,
)
from radixserve_frontend.anthropic.errors import anthropic_error
from radixserve_frontend.anthropic.usage import input_usage
from radixserve_frontend.dialect import Totals
from radixserve_frontend.http_errors import ErrorAnswer
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.sse import event_frame

_DELTAS = {
    "reasoning": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFacts:
    """What is known of a message before its first token."""

    request_id: str
    model: str
    prompt_tokens: int
    marks: Sequence[PrefixMark]
    shows_thinking: bool
    is_context_limited: bool
    """The context, not ``max_tokens``, is what limits the answer."""
    is_warm_up: bool
    """Nothing of the answer is wanted: ``max_tokens`` is 0, and the cache is to have the prompt."""

    @property
    def message_id(self) -> str:
        return f"msg_{self.request_id}"


class MessageReply:
    """Implements ``dialect.Reply``. Mutable, one per request; it has one choice."""

    def __init__(self, facts: MessageFacts, parser: AnswerParser) -> None:
        self._facts = facts
        self._blocks = AnswerBlocks(parser)
        self._has_begun = False
        self._numbers: dict[Block, int] = {}
        """Of the blocks that are shown."""
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None

    def chunk(self, index: int, delta: TextDelta) -> bytes:  # noqa: ARG002  # of one choice
        """See ``Reply.chunk``."""
        events = b""
        if not self._has_begun:
            self._has_begun = True
            usage = self._usage(delta.num_cached_tokens, len(delta.token_ids))
            message = self._message([], None, None, usage)
            events = _event("message_start", {"message": message})
        return events + b"".join(self._events_of(event) for event in self._feed(delta))

    def end(self, totals: Totals) -> bytes:
        """See ``Reply.end``."""
        usage = self._usage(totals.cached_tokens, totals.generated_tokens, is_final=True)
        delta = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        return _event("message_delta", {"delta": delta, "usage": usage, **totals.extras}) + _event(
            "message_stop", {}
        )

    def fail(self, answer: ErrorAnswer) -> bytes:
        """See ``Reply.fail``."""
        return event_frame("error", encode_json(anthropic_error(answer, self._facts.request_id)))

    def add(self, index: int, delta: TextDelta) -> None:  # noqa: ARG002  # of one choice
        """See ``Reply.add``."""
        for event in self._feed(delta):
            if isinstance(event, Opened):
                self._number(event.block)

    def answer(self, totals: Totals) -> dict[str, Any]:
        """See ``Reply.answer``."""
        content = [_complete(block) for block in self._numbers]
        usage = self._usage(totals.cached_tokens, totals.generated_tokens, is_final=True)
        message = self._message(
            [block for block in content if block is not None],
            self._stop_reason,
            self._stop_sequence,
            usage,
        )
        return {**message, **totals.extras}

    def echo(self) -> Mapping[str, Any] | None:
        """See ``Reply.echo``. Not of a warm-up, nor of an answer with a call that was cut off."""
        content = [_complete(block) for block in self._numbers]
        if not content or None in content:
            return None
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(block.text for block in self._numbers if block.kind == "text"),
        }
        thought = "".join(block.text for block in self._numbers if block.kind == "reasoning")
        if thought:
            message["reasoning_content"] = thought
        calls = [
            {
                "id": _new(block)["id"],
                "type": "function",
                "function": {"name": block.name, "arguments": block.text or "{}"},
            }
            for block in self._numbers
            if block.kind == "call"
        ]
        return message | ({"tool_calls": calls} if calls else {})

    def _feed(self, delta: TextDelta) -> list[BlockEvent]:
        events: list[BlockEvent] = []
        if not self._facts.is_warm_up:
            events = self._blocks.add(delta.text, len(delta.token_ids))
            if delta.finish_reason is not None:
                events += self._blocks.finish()
        if delta.finish_reason is not None:
            self._stop(delta)
        return events

    def _stop(self, delta: TextDelta) -> None:
        if delta.finish_reason == "length":
            limited = self._facts.is_context_limited
            self._stop_reason = "model_context_window_exceeded" if limited else "max_tokens"
        elif self._facts.is_warm_up:
            self._stop_reason = "max_tokens"
        elif isinstance(delta.stop_reason, str):
            self._stop_reason, self._stop_sequence = "stop_sequence", delta.stop_reason
        else:
            self._stop_reason = "tool_use" if self._blocks.has_calls else "end_turn"

    def _events_of(self, event: BlockEvent) -> bytes:
        number = self._number(event.block)
        if number is None:
            return b""
        match event:
            case Opened(block):
                return _event(
                    "content_block_start", {"index": number, "content_block": _new(block)}
                )
            case Grown(block, text):
                kind, name = _DELTAS[block.kind]
                return _event(
                    "content_block_delta", {"index": number, "delta": {"type": kind, name: text}}
                )
            case Closed():
                return _event("content_block_stop", {"index": number})

    def _number(self, block: Block) -> int | None:
        """The block's place among those shown."""
        if block.kind == "reasoning" and not self._facts.shows_thinking:
            return None
        return self._numbers.setdefault(block, len(self._numbers))

    def _usage(
        self, cached_tokens: int, generated_tokens: int, *, is_final: bool = False
    ) -> dict[str, Any]:
        usage = {
            **input_usage(self._facts.prompt_tokens, cached_tokens, self._facts.marks),
            "output_tokens": 0 if self._facts.is_warm_up else generated_tokens,
            "service_tier": "standard",
        }
        if is_final:
            usage["output_tokens_details"] = {"thinking_tokens": self._blocks.reasoning_tokens}
        return usage

    def _message(
        self,
        content: list[dict[str, Any]],
        stop_reason: str | None,
        stop_sequence: str | None,
        usage: dict[str, Any],
    ) -> dict[str, Any]:
        return {
            "id": self._facts.message_id,
            "type": "message",
            "role": "assistant",
            "model": self._facts.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": usage,
        }


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return event_frame(name, encode_json({"type": name, **fields}))


def _new(block: Block) -> dict[str, Any]:
    """A block as it begins."""
    match block.kind:
        case "text":
            return {"type": "text", "text": ""}
        case "reasoning":
            # Signatures prove to Anthropic that a thought is its own; ours need no proof.
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "call":
            return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": {}}


def _complete(block: Block) -> dict[str, Any] | None:
    """A block as it ended; None for a call that was cut off: its input is not known."""
    whole = _new(block)
    match block.kind:
        case "text":
            whole["text"] = block.text
        case "reasoning":
            whole["thinking"] = block.text
        case "call":
            try:
                whole["input"] = json.loads(block.text or "{}")
            except ValueError:
                return None
    return whole
