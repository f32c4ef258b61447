"""From a request's items to the messages of a ``Conversation``, and the marks in them.

What the assistant did in one go (reasoning, text, calls) is several items, and one message to a
chat template: neighbours are put together again. A stored conversation goes before as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from radixserve.errors import InvalidRequestError
from radixserve.sampling.grammar import GrammarSpec
from radixserve_frontend.answer_blocks import Block
from radixserve_frontend.breakpoints import Breakpoint, check_breakpoints, cut_after
from radixserve_frontend.conversation import Conversation, NamedTool, ToolChoice
from radixserve_frontend.grown_texts import GrownTexts
from radixserve_frontend.openai.responses.items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputText,
    MessageItem,
    OutputText,
    ReasoningItem,
)
from radixserve_frontend.openai.responses.schema import (
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedFunction,
    ResponsesRequest,
)
from radixserve_frontend.tool_checks import check_depth
from radixserve_frontend.validation import show


class Turns:
    """A conversation's messages, growing item by item. Mutable.

    ``history``, a stored conversation, goes first and is not changed; ``instructions`` before it.
    """

    def __init__(
        self, request: ResponsesRequest, history: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._request = request
        self._instructions: list[dict[str, Any]] = []
        if request.instructions:
            self._instructions = [{"role": "system", "content": request.instructions}]
        self._messages: list[dict[str, Any]] = [dict(message) for message in history]
        self._num_stored = len(self._messages)
        self._names = {
            call["id"]: call["function"]["name"]
            for message in history
            for call in message.get("tool_calls", ())
        }
        self._breakpoints: list[Breakpoint] = []
        self._grown = GrownTexts()
        items = request.input
        if isinstance(items, str):
            self._messages.append({"role": "user", "content": items})
        else:
            for number, item in enumerate(items):
                self._add(number, item)
        if request.cache_control is not None:
            self._breakpoints.append(Breakpoint(None, request.cache_control.ttl))
            check_breakpoints(self._breakpoints)
        self._grown.settle(self._messages)

    @property
    def breakpoints(self) -> Sequence[Breakpoint]:
        return self._breakpoints

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What is said so far, without instructions: those are every request's own."""
        return self._messages

    def conversation(self) -> Conversation:
        """*Raises* ``InvalidRequestError`` for a choice of tools that there are not."""
        request = self._request
        return Conversation(
            messages=[*self._instructions, *self._messages],
            tools=[
                {
                    "type": "function",
                    "function": tool.model_dump(
                        include={"name", "description", "parameters", "strict"}, exclude_none=True
                    ),
                }
                for tool in request.tools or ()
            ],
            tool_choice=_tool_choice(request),
            parallel_tool_calls=request.parallel_tool_calls is not False,
            grammar=_grammar(request),
            template_variables=_template_variables(request),
        )

    def _add(
        self,
        number: int,
        item: MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem,
    ) -> None:
        match item:
            case MessageItem(role="assistant"):
                self._assistant()
                self._grown.add("content", _text(item))
                self._mark_parts(item)
            case MessageItem():
                self._add_message(item)
            case FunctionCallItem():
                self._names[item.call_id] = item.name
                call = _call(item.call_id, item.name, item.arguments)
                self._assistant().setdefault("tool_calls", []).append(call)
            case ReasoningItem():
                thought = "".join(part.text for part in item.content or ())
                if thought:
                    self._assistant()
                    self._grown.add("reasoning_content", thought)
            case FunctionCallOutputItem():
                self._add_output(number, item)

    def _assistant(self) -> dict[str, Any]:
        """The assistant's message to add to. One of a stored conversation is complete."""
        messages = self._messages
        if len(messages) <= self._num_stored or messages[-1]["role"] != "assistant":
            self._append({"role": "assistant", "content": ""})
        return messages[-1]

    def _add_message(self, item: MessageItem) -> None:
        if isinstance(item.content, str):
            self._append({"role": item.role, "content": item.content})
            return
        parts: list[dict[str, str]] = []
        self._append({"role": item.role, "content": parts})
        for part in item.content:
            text = part.text if isinstance(part, InputText | OutputText) else part.refusal
            parts.append({"type": "text", "text": text})
            self._mark(part)

    def _add_output(self, number: int, item: FunctionCallOutputItem) -> None:
        name = self._names.get(item.call_id)
        if name is None:
            raise InvalidRequestError(
                f"input[{number}].call_id is {show(item.call_id)}, which no function_call before "
                "has",
                param=f"input[{number}].call_id",
            )
        output = item.output
        text = output if isinstance(output, str) else "\n".join(part.text for part in output)
        self._append({"role": "tool", "tool_call_id": item.call_id, "name": name, "content": text})
        if not isinstance(output, str):
            for part in output:
                self._mark(part)

    def _append(self, message: dict[str, Any]) -> None:
        self._grown.settle(self._messages)
        self._messages.append(message)

    def _mark_parts(self, item: MessageItem) -> None:
        if not isinstance(item.content, str):
            for part in item.content:
                self._mark(part)

    def _mark(self, part: object) -> None:
        """What has been added so far is to be kept, if this part says so."""
        if not isinstance(part, InputText):
            return
        if part.cache_control is not None:
            keep_s = part.cache_control.ttl
        elif part.prompt_cache_breakpoint is not None:
            keep_s = self._request.keep_s(part.prompt_cache_breakpoint)
        else:
            return
        self._grown.settle(self._messages)
        cut = [*self._instructions, *cut_after(self._messages)]
        self._breakpoints.append(Breakpoint(cut, keep_s))
        # Each holds the messages before it: not one too many may be made.
        check_breakpoints(self._breakpoints)


def answer_message(blocks: Sequence[Block]) -> dict[str, Any]:
    """An answer as the conversation's next message."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(block.text for block in blocks if block.kind == "text"),
    }
    thought = "".join(block.text for block in blocks if block.kind == "reasoning")
    if thought:
        message["reasoning_content"] = thought
    calls = [
        _call(call_id(block), block.name, block.text) for block in blocks if block.kind == "call"
    ]
    if calls:
        message["tool_calls"] = calls
    return message


def call_id(block: Block) -> str:
    """The id by which a call's result is sent."""
    return f"call_{block.id}"


def _call(identifier: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": identifier,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _text(item: MessageItem) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(
        part.text if isinstance(part, InputText | OutputText) else part.refusal
        for part in item.content
    )


def _tool_choice(request: ResponsesRequest) -> ToolChoice:
    choice = request.tool_choice
    if choice is None:
        return "auto"
    if not request.tools and choice not in ("auto", "none"):
        raise InvalidRequestError(
            "tool_choice asks for a tool, but there are no tools", param="tool_choice"
        )
    return NamedTool(choice.name) if isinstance(choice, NamedFunction) else choice


def _grammar(request: ResponsesRequest) -> GrammarSpec | None:
    wanted = None if request.text is None else request.text.format
    match wanted:
        case JsonSchemaFormat():
            check_depth(wanted.schema_, "text.format.schema", "text.format.schema")
            source = json.dumps(wanted.schema_, ensure_ascii=False)
            return GrammarSpec(kind="json_schema", source=source)
        case JsonObjectFormat():
            return GrammarSpec(kind="json_schema", source='{"type":"object"}')
    return None


def _template_variables(request: ResponsesRequest) -> dict[str, Any]:
    effort = None if request.reasoning is None else request.reasoning.effort
    if effort is None:
        return {}
    # Two families' names for not thinking at all.
    off = {"enable_thinking": False, "thinking": False} if effort == "none" else {}
    return {"reasoning_effort": effort, **off}
