"""``cache_control`` on parts of a chat's messages, as routers in front of Anthropic's models send
it, with the same meaning as there (``breakpoints.py``)."""

from collections.abc import Mapping, Sequence
from typing import Any

from radixserve_frontend.breakpoints import Breakpoint, check_breakpoints
from radixserve_frontend.openai.messages import Message


def message_breakpoints(
    messages: Sequence[Message], plain: Sequence[Mapping[str, Any]]
) -> list[Breakpoint]:
    """The marks in ``messages``, whose form for templates is ``plain``. *Raises*
    ``InvalidRequestError`` if there are too many."""
    breakpoints = []
    for number, message in enumerate(messages):
        if message.content is None or isinstance(message.content, str):
            continue
        for place, part in enumerate(message.content):
            if part.cache_control is not None:
                marked = plain[number]
                cut = {**marked, "content": list(marked["content"][: place + 1])}
                cut.pop("tool_calls", None)
                keep_s = part.cache_control.ttl
                breakpoints.append(Breakpoint([*plain[:number], cut], keep_s))
                # Each holds the messages before it: not one too many may be made.
                check_breakpoints(breakpoints)
    return breakpoints
