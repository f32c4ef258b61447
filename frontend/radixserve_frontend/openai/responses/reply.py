"""A response, told event by event or put together as one.

    response.created, response.in_progress
    ( response.output_item.added
      response.content_part.added                               texts and reasoning
      response.output_text.delta ... .done                      or reasoning_text,
                                                                or function_call_arguments
      response.content_part.done
      response.output_item.done ) ...
    response.completed, or .incomplete, or (after an ``error``) .failed

Every event has the next sequence number; nothing follows the last one. They begin with the first
token, as chat's do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radixserve.engine.interface import TextDelta
from radixserve.text.answer import AnswerParser
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import PrefixMark
from radixserve_frontend.answer_blocks import (
    AnswerBlocks,
    Block,
    BlockEvent,
    Closed,
    Grown,
    Opened,
)
from radixserve_frontend.dialect import Totals
from radixserve_frontend.http_errors import MAX_MESSAGE_CHARS, ErrorAnswer, clip
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.openai.logprobs import chat_logprobs
from radixserve_frontend.openai.responses.conversion import answer_message
from radixserve_frontend.openai.responses.objects import (
    ResponseFrame,
    item_id,
    item_object,
    text_part,
    usage_object,
)
from radixserve_frontend.sse import event_frame


@dataclass(frozen=True, slots=True)
class Finished:
    """A complete answer, for whoever keeps it."""

    response: dict[str, Any]
    blocks: Sequence[Block]
    num_tokens: int
    num_logprobs: int
    """How many log-probabilities ``response`` holds, each with its token: far more than a text."""


class ResponseReply:
    """Implements ``dialect.Reply``. Mutable, one per request; it has one choice.

    ``keep`` is told of the answer when it is complete, before the client is.
    """

    def __init__(
        self,
        frame: ResponseFrame,
        parser: AnswerParser,
        tokenizer: Tokenizer,
        *,
        marks: Sequence[PrefixMark],
        keep: Callable[[Finished], None],
    ) -> None:
        self._frame = frame
        self._blocks = AnswerBlocks(parser)
        self._tokenizer = tokenizer
        self._marks = marks
        self._keep = keep
        self._num_events = 0
        self._num_tokens = 0
        self._logprobs: dict[Block, list[dict[str, Any]]] = {}
        self._pending_logprobs: list[dict[str, Any]] = []
        """Of tokens whose text is held back."""
        self._num_logprobs = 0
        self._status = "in_progress"

    def chunk(self, index: int, delta: TextDelta) -> bytes:  # noqa: ARG002  # of one choice
        """See ``Reply.chunk``."""
        events = self._feed(delta)
        return self._begin() + b"".join(self._events_of(event) for event in events)

    def end(self, totals: Totals) -> bytes:
        """See ``Reply.end``."""
        response = self._finish(totals)
        return self._event(f"response.{self._status}", response=response)

    def fail(self, answer: ErrorAnswer) -> bytes:
        """See ``Reply.fail``."""
        message = clip(answer.message, MAX_MESSAGE_CHARS)
        self._status = "failed"
        error = {"code": "server_error", "message": message}
        response = self._frame.object("failed", self._output(), error=error)
        return (
            self._begin()
            + self._event("error", code=answer.code, message=message, param=answer.param)
            + self._event("response.failed", response=response)
        )

    def add(self, index: int, delta: TextDelta) -> None:  # noqa: ARG002  # of one choice
        """See ``Reply.add``."""
        for event in self._feed(delta):
            self._take_logprobs(event)

    def answer(self, totals: Totals) -> dict[str, Any]:
        """See ``Reply.answer``."""
        return self._finish(totals)

    def echo(self) -> Mapping[str, Any]:
        """See ``Reply.echo``."""
        return answer_message(self._blocks.blocks)

    def _begin(self) -> bytes:
        if self._num_events:
            return b""
        response = self._frame.object("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _feed(self, delta: TextDelta) -> list[BlockEvent]:
        self._num_tokens += len(delta.token_ids)
        if delta.logprobs is not None:
            self._pending_logprobs += chat_logprobs(delta.logprobs, self._tokenizer)["content"]
            self._num_logprobs += sum(1 + len(entry.top) for entry in delta.logprobs)
        events = self._blocks.add(delta.text, len(delta.token_ids))
        if delta.finish_reason is not None:
            events += self._blocks.finish()
            self._status = "incomplete" if delta.finish_reason == "length" else "completed"
        return events

    def _finish(self, totals: Totals) -> dict[str, Any]:
        usage = usage_object(totals, self._marks, self._blocks.reasoning_tokens)
        response = self._frame.object(self._status, self._output(), usage=usage)
        response.update(totals.extras)
        self._keep(Finished(response, self._blocks.blocks, self._num_tokens, self._num_logprobs))
        return response

    def _output(self) -> list[dict[str, Any]]:
        blocks = self._blocks.blocks
        return [
            item_object(block, self._status_of(block), self._logprobs.get(block, ()))
            for block in blocks
        ]

    def _is_end(self, block: Block) -> bool:
        """Whether the answer ended with this block."""
        return self._status != "in_progress" and block is self._blocks.blocks[-1]

    def _status_of(self, block: Block) -> str:
        """Only the last item of an answer that was cut off is not complete."""
        is_cut = self._status != "completed" and self._is_end(block)
        return "incomplete" if is_cut else "completed"

    def _take_logprobs(self, event: BlockEvent) -> list[dict[str, Any]]:
        """The pending ones are told with the text that has come; those of thoughts and calls are
        not told. What the end of an answer leaves over belongs to its last text."""
        is_text = event.block.kind == "text"
        match event:
            case Opened():
                return []
            case Closed() if not self._is_end(event.block):
                return []
        taken, self._pending_logprobs = self._pending_logprobs, []
        if not is_text:
            return []
        self._logprobs.setdefault(event.block, []).extend(taken)
        return taken

    def _events_of(self, event: BlockEvent) -> bytes:
        block = event.block
        place = {"item_id": item_id(block), "output_index": block.index}
        logprobs = self._take_logprobs(event)
        match event:
            case Opened():
                item = item_object(block, "in_progress")
                added = self._event(
                    "response.output_item.added", output_index=block.index, item=item
                )
                if block.kind == "call":
                    return added
                part = _part(block, "", ())
                return added + self._event(
                    "response.content_part.added", **place, content_index=0, part=part
                )
            case Grown(text=text):
                match block.kind:
                    case "call":
                        return self._event(
                            "response.function_call_arguments.delta", **place, delta=text
                        )
                    case "reasoning":
                        return self._event(
                            "response.reasoning_text.delta", **place, content_index=0, delta=text
                        )
                    case "text":
                        return self._event(
                            "response.output_text.delta",
                            **place,
                            content_index=0,
                            delta=text,
                            logprobs=logprobs,
                        )
            case Closed():
                item = item_object(block, self._status_of(block), self._logprobs.get(block, ()))
                return self._done(block, place) + self._event(
                    "response.output_item.done", output_index=block.index, item=item
                )

    def _done(self, block: Block, place: dict[str, Any]) -> bytes:
        logprobs = self._logprobs.get(block, [])
        match block.kind:
            case "call":
                return self._event(
                    "response.function_call_arguments.done",
                    **place,
                    name=block.name,
                    arguments=block.text,
                )
            case "reasoning":
                done = self._event(
                    "response.reasoning_text.done", **place, content_index=0, text=block.text
                )
            case "text":
                done = self._event(
                    "response.output_text.done",
                    **place,
                    content_index=0,
                    text=block.text,
                    logprobs=logprobs,
                )
        part = _part(block, block.text, logprobs)
        return done + self._event("response.content_part.done", **place, content_index=0, part=part)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        return event_frame(kind, encode_json({"type": kind, "sequence_number": number, **fields}))


def _part(block: Block, text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return text_part(text, logprobs)
