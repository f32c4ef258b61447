"""From Anthropic's messages to a ``Conversation``, and the marks in it to breakpoints.

Anthropic's turns are lists of blocks; chat templates read OpenAI's messages. One user's turn with
results of tools becomes a ``tool`` message per result and a user message of what else it says, in
its order. Neighbours of one role become one turn, as Anthropic has it.

Dropped: what a model of ours cannot read (redacted thinking, signatures), and a header that one
client writes into the system prompt for its maker's accounts. It changes with every request and
would make every prompt a new one.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from radixserve.errors import InvalidRequestError
from radixserve.sampling.grammar import GrammarSpec
from radixserve_frontend.anthropic.schema import (
    Block,
    Message,
    Prompt,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from radixserve_frontend.breakpoints import Breakpoint, check_breakpoints, cut_after
from radixserve_frontend.conversation import Conversation, NamedTool, ToolChoice
from radixserve_frontend.grown_texts import GrownTexts
from radixserve_frontend.strict import CacheControl
from radixserve_frontend.tool_checks import check_depth
from radixserve_frontend.validation import show

_BILLING_HEADER = re.compile(r"x-anthropic-billing-header:[^\n]*\n?")


@dataclass(frozen=True, slots=True)
class Converted:
    """A request's conversation and the marks in it."""

    conversation: Conversation
    breakpoints: Sequence[Breakpoint]


def convert(prompt: Prompt) -> Converted:
    """*Raises* ``InvalidRequestError`` for turns that do not fit together. *Cost*: O(prompt)."""
    if prompt.thread is not None:
        raise InvalidRequestError(
            "conversations are not kept here between messages; send the whole conversation, "
            "without thread",
            param="thread",
            code="thread_unsupported_request",
        )
    turns = _Turns()
    turns.add_system(prompt.system)
    for tool in prompt.tools or ():
        turns.mark(tool.cache_control)
    for number, message in enumerate(prompt.messages):
        turns.add(number, message)
    continues_last = turns.end()
    if prompt.cache_control is not None:
        turns.breakpoints.append(Breakpoint(None, prompt.cache_control.ttl))
        check_breakpoints(turns.breakpoints)
    choice = prompt.tool_choice
    return Converted(
        conversation=Conversation(
            messages=turns.messages,
            tools=[_tool(tool) for tool in prompt.tools or ()],
            tool_choice=_tool_choice(prompt),
            parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
            grammar=_grammar(prompt),
            template_variables=_template_variables(prompt),
            continues_last=continues_last,
        ),
        breakpoints=turns.breakpoints,
    )


class _Turns:
    """OpenAI's messages, growing block by block. Mutable."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.breakpoints: list[Breakpoint] = []
        self._tool_names: dict[str, str] = {}
        self._grown = GrownTexts()

    def add_system(self, system: str | Sequence[TextBlock] | None) -> None:
        blocks = [system] if isinstance(system, str) else system or ()
        for block in blocks:
            text = block if isinstance(block, str) else block.text
            text = _BILLING_HEADER.sub("", text) if _BILLING_HEADER.match(text) else text
            if text:
                self._turn("system")["content"].append(_part(text))
            if not isinstance(block, str):
                self.mark(block.cache_control)

    def mark(self, control: CacheControl | None) -> None:
        """What has been added so far is to be kept."""
        if control is not None:
            self._grown.settle(self.messages)
            self.breakpoints.append(Breakpoint(cut_after(self.messages), control.ttl))
            # Each holds the messages before it: not one too many may be made.
            check_breakpoints(self.breakpoints)

    def add(self, number: int, message: Message) -> None:
        """One turn of Anthropic's."""
        where = f"messages[{number}].content"
        if isinstance(message.content, str):
            self._add_text(message.role, message.content)
            return
        for index, block in enumerate(message.content):
            self._add_block(message.role, block, f"{where}[{index}]")
            self.mark(getattr(block, "cache_control", None))

    def end(self) -> bool:
        """Whether the last turn is the assistant's, to be gone on with."""
        self._grown.settle(self.messages)
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return False
        last = self.messages[-1]
        if "tool_calls" in last:
            raise InvalidRequestError(
                f"the last message calls the tool {show(last['tool_calls'][-1]['id'])} and nothing "
                "follows; send the tool's result",
                param="messages",
            )
        if not last["content"]:
            self.messages.pop()
            return False
        return True

    def _turn(self, role: str) -> dict[str, Any]:
        """The message to add to: the last one, if it is of this role, or a new one."""
        if not self.messages or self.messages[-1]["role"] != role:
            content: Any = "" if role == "assistant" else []
            self._grown.settle(self.messages)
            self.messages.append({"role": role, "content": content})
        return self.messages[-1]

    def _add_text(self, role: str, text: str) -> None:
        turn = self._turn(role)
        if role == "assistant":
            # Blocks of one answer are parts of one text; the line ends between them are its own.
            self._grown.add("content", text)
        else:
            turn["content"].append(_part(text))

    def _add_block(self, role: str, block: Block, where: str) -> None:
        match block:
            case TextBlock():
                self._add_text(role, block.text)
            case ThinkingBlock() | RedactedThinkingBlock() | ToolUseBlock():
                if role != "assistant":
                    raise InvalidRequestError(
                        f"{where}: only the assistant's turns have {block.type} blocks",
                        param="messages",
                    )
                self._add_of_assistant(block, where)
            case ToolResultBlock():
                if role != "user":
                    raise InvalidRequestError(
                        f"{where}: only the user's turns have tool_result blocks", param="messages"
                    )
                self._add_result(block, where)

    def _add_of_assistant(
        self, block: ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, where: str
    ) -> None:
        turn = self._turn("assistant")
        match block:
            case ThinkingBlock():
                self._grown.add("reasoning_content", block.thinking)
            case ToolUseBlock():
                if block.id in self._tool_names:
                    raise InvalidRequestError(
                        f"{where}.id is {show(block.id)}, as another call's", param="messages"
                    )
                self._tool_names[block.id] = block.name
                check_depth(block.input, f"{where}.input", "messages")
                call = {
                    "id": block.id,
                    "type": "function",
                    "function": {
                        "name": block.name,
                        "arguments": json.dumps(block.input, ensure_ascii=False),
                    },
                }
                turn.setdefault("tool_calls", []).append(call)

    def _add_result(self, block: ToolResultBlock, where: str) -> None:
        name = self._tool_names.get(block.tool_use_id)
        if name is None:
            raise InvalidRequestError(
                f"{where}.tool_use_id is {show(block.tool_use_id)}, which no tool_use before has",
                param="messages",
            )
        content = block.content or ""
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        if block.is_error and not text.lower().startswith("error"):
            # Templates know no failed results; the model has to read it.
            text = f"Error: {text}" if text else "Error"
        self._grown.settle(self.messages)
        self.messages.append(
            {"role": "tool", "tool_call_id": block.tool_use_id, "name": name, "content": text}
        )


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(prompt: Prompt) -> ToolChoice:
    choice = prompt.tool_choice
    if choice is None or choice.type == "auto":
        return "auto"
    if choice.type == "none":
        return "none"
    if not prompt.tools:
        raise InvalidRequestError(
            f"tool_choice is {show(choice.type)}, but there are no tools", param="tool_choice"
        )
    if choice.type == "any":
        return "required"
    if choice.name is None:
        raise InvalidRequestError(
            "tool_choice.name is missing: which tool is to be used?", param="tool_choice"
        )
    return NamedTool(choice.name)


def _grammar(prompt: Prompt) -> GrammarSpec | None:
    config = prompt.output_config
    if config is None or config.format is None:
        return None
    check_depth(config.format.schema_, "output_config.format.schema", "output_config")
    source = json.dumps(config.format.schema_, ensure_ascii=False)
    return GrammarSpec(kind="json_schema", source=source)


def _template_variables(prompt: Prompt) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    if prompt.thinking is not None:
        # Two families' names for the same.
        wanted = prompt.thinking.type != "disabled"
        variables |= {"enable_thinking": wanted, "thinking": wanted}
    if prompt.output_config is not None and prompt.output_config.effort is not None:
        variables["reasoning_effort"] = prompt.output_config.effort
    return variables
