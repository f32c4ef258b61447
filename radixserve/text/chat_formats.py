"""How a checkpoint's answers are written: tool calls and thinking. Its chat template tells, or the
server's settings do.

Knows no request.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from radixserve.text.reasoning import THINK_CLOSE, THINK_OPEN
from radixserve.text.tool_calls.format import ToolFormat
from radixserve.text.tool_calls.registry import TOOL_FORMATS, find_tool_format

TOOL_FORMAT_NAMES: Final = ("auto", *TOOL_FORMATS, "none")
REASONING_FORMAT_NAMES: Final = ("auto", "think", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormats:
    """What to look for in an answer."""

    tools: ToolFormat | None
    thinks: bool


def find_formats(
    template: str,
    *,
    special_tokens: Collection[str],
    knows_thinking: bool,
    tool_format: str = "auto",
    reasoning_format: str = "auto",
) -> ChatFormats:
    """The formats of these names; "auto": what the template (its source) tells, and for thinking
    the vocabulary (``knows_thinking``: it has a token for its end)."""
    tools = (
        find_tool_format(template, special_tokens)
        if tool_format == "auto"
        else TOOL_FORMATS.get(tool_format)
    )
    thinks = reasoning_format == "think"
    if reasoning_format == "auto":
        thinks = knows_thinking or THINK_OPEN in template or THINK_CLOSE in template
    return ChatFormats(tools=tools, thinks=thinks)
