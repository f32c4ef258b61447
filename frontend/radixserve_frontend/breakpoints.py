"""Marks in a conversation, as prefixes of its prompt.

A client marks a block: "keep the prompt up to here for so long". What that is in tokens is found by
rendering the conversation up to the block, as if it ended there, and taking what both prompts have
in common:

    whole     system | user: long document, question | assistant: ...
    cut       system | user: long document           | assistant:
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ the mark

So a mark never claims a token that the prompt does not begin with, even where a template rewrites
earlier turns or joins blocks into one token; it may be that much shorter, or run on into the words
with which every turn begins. Marks on tools and on the system prompt end where the first turn does
begin: templates put tools before, after or into the system prompt, and only all of it is a prefix.

Both are read from the same memory of tokens, so that the mark counts in the prompt's own.

Cost: one rendering per mark, and the tokenization of what is not known by then, in a thread; none
for a mark on the last block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from radixserve.errors import InvalidRequestError
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.text.token_memory import TokenMemory
from radixserve.types import CacheHints, PrefixMark
from radixserve_frontend.conversation import Conversation, prepare_chat

MAX_BREAKPOINTS: Final = 4
"""As for Anthropic. Each costs a rendering."""

# Stands for the first turn where there is none yet: templates want one. What it says must not be
# how a real one begins.
_PROBE: Final = {"role": "user", "content": "\x1f"}


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Where a client asks to keep the prompt up to, and how long."""

    messages: Sequence[Mapping[str, Any]] | None
    """The conversation up to the marked block, it included; None: all of it."""
    keep_s: float


def check_breakpoints(breakpoints: Sequence[Breakpoint]) -> None:
    """*Raises* ``InvalidRequestError`` if there are too many."""
    if len(breakpoints) > MAX_BREAKPOINTS:
        raise InvalidRequestError(
            f"{len(breakpoints)} blocks have cache_control; at most {MAX_BREAKPOINTS} may",
            param="cache_control",
        )


def cut_after(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages as they are now, safe from what is appended to the last one later."""
    if not messages:
        return []
    last = {
        key: list(value) if isinstance(value, list) else value
        for key, value in messages[-1].items()
    }
    return [*messages[:-1], last]


def conversation_hints(
    memory: TokenMemory,
    namespace: Namespace,
    conversation: Conversation,
    prompt_ids: Sequence[int],
    breakpoints: Sequence[Breakpoint],
) -> CacheHints:
    """When the prompt comes back: its marks; and soon, if a tool may be called, for then it comes
    back with the tool's result."""
    return CacheHints(
        marks=prefix_marks(memory, namespace, conversation, prompt_ids, breakpoints),
        returns_soon=bool(conversation.tools) and conversation.tool_choice != "none",
    )


def prefix_marks(
    memory: TokenMemory,
    namespace: Namespace,
    conversation: Conversation,
    prompt_ids: Sequence[int],
    breakpoints: Sequence[Breakpoint],
) -> tuple[PrefixMark, ...]:
    """Each breakpoint's place in the prompt. A cut that cannot be rendered by itself marks the
    whole prompt: that keeps what was asked for, and more."""
    marks = []
    for each in breakpoints:
        num_tokens = len(prompt_ids)
        if each.messages is not None:
            part = _render(memory, namespace, conversation, each.messages)
            num_tokens = _common_prefix(prompt_ids, part)
        if num_tokens:
            marks.append(PrefixMark(num_tokens=num_tokens, keep_s=each.keep_s))
    return tuple(marks)


def num_marked_tokens(marks: Sequence[PrefixMark]) -> int:
    """How deep the deepest mark is."""
    return max((mark.num_tokens for mark in marks), default=0)


def _render(
    memory: TokenMemory,
    namespace: Namespace,
    conversation: Conversation,
    messages: Sequence[Mapping[str, Any]],
) -> Sequence[int] | None:
    if all(message["role"] in ("system", "developer") for message in messages):
        messages = [*messages, _PROBE]
    # Only what is rendered matters, and nothing else shall be made ready.
    cut = replace(
        conversation, messages=messages, continues_last=False, tool_choice="none", grammar=None
    )
    try:
        return prepare_chat(memory, namespace, cut, SamplingParams()).prompt_ids
    except InvalidRequestError:
        return None


def _common_prefix(whole: Sequence[int], part: Sequence[int] | None) -> int:
    if part is None:
        return len(whole)
    length = min(len(whole), len(part))
    differ = np.flatnonzero(np.asarray(whole[:length]) != np.asarray(part[:length]))
    return int(differ[0]) if len(differ) else length
