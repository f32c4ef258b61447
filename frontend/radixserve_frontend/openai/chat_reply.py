"""A chat's answer in OpenAI's objects: chunks of a stream, or one message.

    ReasoningText        {"reasoning_content": "..."}                     as DeepSeek has it
    ContentText          {"content": "..."}
    ToolCallStart        {"tool_calls": [{index, id, type, function: {name, arguments: ""}}]}
    ToolCallArguments    {"tool_calls": [{index, function: {arguments: "..."}}]}

Log-probabilities come with the last chunk of what their tokens made; they are those of all the
tokens, whatever the text turned out to be.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from radixserve.engine.interface import TextDelta
from radixserve.text.answer import (
    AnswerParser,
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import FinishReason, TokenLogprob
from radixserve_frontend.dialect import Totals
from radixserve_frontend.http_errors import ErrorAnswer
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.openai.logprobs import chat_logprobs, scored_prompt
from radixserve_frontend.openai.reply import Envelope, break_off

_CHUNK: Final = "chat.completion.chunk"
_ANSWER: Final = "chat.completion"


@dataclass(slots=True)
class _Call:
    """A call of a tool. Mutable: its arguments grow."""

    name: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    """One choice so far. Mutable: owned by its reply."""

    parser: AnswerParser
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def parse(self, delta: TextDelta) -> list[AnswerPart]:
        """The parts that the delta brings. *Mutates* the parser."""
        parts = self.parser.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason
            parts = parts + self.parser.finish()
        return parts

    @property
    def outcome(self) -> str | None:
        """OpenAI's reason: an answer that stopped by itself and calls tools waits for them."""
        if self.calls and self.finish_reason == "stop":
            return "tool_calls"
        return self.finish_reason


class ChatReply:
    """Implements ``dialect.Reply``. Mutable, one per request.

    ``is_plain``: every text is content, so a message's content is never null. ``with_scores``: the
    answer in one piece tells the prompt's log-probabilities.
    """

    def __init__(
        self,
        envelope: Envelope,
        tokenizer: Tokenizer,
        *,
        n: int,
        new_parser: Callable[[], AnswerParser],
        is_plain: bool,
        with_scores: bool = False,
    ) -> None:
        self._envelope = envelope
        self._tokenizer = tokenizer
        self._head, self._tail = envelope.chunk_parts(_CHUNK)
        self._is_plain = is_plain
        self._with_scores = with_scores
        self._scores: list[TokenLogprob | None] | None = None
        self._has_begun = False
        self._choices = [_Choice(new_parser()) for _ in range(n)]

    def chunk(self, index: int, delta: TextDelta) -> bytes:
        """See ``Reply.chunk``. The choices' first events carry their roles.

        All choices begin at once and in their order, because OpenAI's client puts a stream's
        choices together in the order of their first events; and together with the first token, not
        before, because a client that times its first event measures the first token.
        """
        if not (delta.text or delta.logprobs or delta.finish_reason):
            return b""
        events = b""
        if not self._has_begun:
            self._has_begun = True
            role = {"role": "assistant", "content": "" if self._is_plain else None}
            events = b"".join(self._event(each, role) for each in range(len(self._choices)))
        choice = self._choices[index]
        contents = [_delta_of(choice, part) for part in choice.parse(delta)]
        if not contents and (delta.logprobs or delta.finish_reason):
            contents = [{"content": ""} if delta.logprobs and self._is_plain else {}]
        last = len(contents) - 1
        return events + b"".join(
            self._event(index, content, delta if number == last else None)
            for number, content in enumerate(contents)
        )

    def end(self, totals: Totals) -> bytes:
        """See ``Reply.end``."""
        return self._envelope.end(_CHUNK, totals)

    def fail(self, answer: ErrorAnswer) -> bytes:
        """See ``Reply.fail``."""
        return break_off(answer)

    def add(self, index: int, delta: TextDelta) -> None:
        """See ``Reply.add``."""
        choice = self._choices[index]
        if delta.prompt_logprobs is not None:
            self._scores = delta.prompt_logprobs
        if delta.logprobs is not None:
            if choice.logprobs is None:
                choice.logprobs = []
            choice.logprobs.extend(delta.logprobs)
        for part in choice.parse(delta):
            match part:
                case ContentText(text):
                    choice.content.append(text)
                case ReasoningText(text):
                    choice.reasoning.append(text)
                case ToolCallStart(name=name):
                    choice.calls.append(_Call(name))
                case ToolCallArguments(index=number, text=text):
                    choice.calls[number].arguments.append(text)

    def answer(self, totals: Totals) -> dict[str, Any]:
        """See ``Reply.answer``."""
        choices = [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": (
                    None
                    if choice.logprobs is None
                    else chat_logprobs(choice.logprobs, self._tokenizer)
                ),
                "finish_reason": choice.outcome,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        answer = self._envelope.answer(_ANSWER, choices, totals)
        if self._with_scores:
            scores = self._scores
            shown = None if scores is None else scored_prompt(scores, self._tokenizer)
            answer["prompt_logprobs"] = shown
        return answer

    def echo(self) -> Mapping[str, Any] | None:
        """See ``Reply.echo``. Of several choices nobody knows which one it will be; and thinking is
        left out, as by most clients."""
        if len(self._choices) > 1:
            return None
        (choice,) = self._choices
        message = {"role": "assistant", "content": "".join(choice.content)}
        return message | ({"tool_calls": _calls(choice)} if choice.calls else {})

    def _event(self, index: int, content: dict[str, Any], delta: TextDelta | None = None) -> bytes:
        event: dict[str, Any] = {
            "index": index,
            "delta": content,
            "logprobs": None,
            "finish_reason": None,
        }
        if delta is not None:
            if delta.logprobs is not None:
                event["logprobs"] = chat_logprobs(delta.logprobs, self._tokenizer)
            if delta.finish_reason is not None:
                event["finish_reason"] = self._choices[index].outcome
                event["stop_reason"] = delta.stop_reason
        return self._head + encode_json(event) + self._tail


def _delta_of(choice: _Choice, part: AnswerPart) -> dict[str, Any]:
    """A part as a chunk tells of it. *Mutates* ``choice``: it keeps what is sent back."""
    match part:
        case ContentText(text):
            choice.content.append(text)
            return {"content": text}
        case ReasoningText(text):
            return {"reasoning_content": text}
        case ToolCallStart(index, name):
            call = _Call(name)
            choice.calls.append(call)
            function = {"name": name, "arguments": ""}
            new = {"index": index, "id": call.id, "type": "function", "function": function}
            return {"tool_calls": [new]}
        case ToolCallArguments(index, text):
            choice.calls[index].arguments.append(text)
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _message(choice: _Choice) -> dict[str, Any]:
    content = "".join(choice.content)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls and not content else content,
        "refusal": None,
    }
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["tool_calls"] = _calls(choice)
    return message


def _calls(choice: _Choice) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": "".join(call.arguments)},
        }
        for call in choice.calls
    ]
