"""What a chat asks of the model, whatever dialect it came in, and how it is made ready to run.

    OpenAI chat, responses ─┐                     ┌─▶ prompt ids, params     (to the engine)
                            ├─▶ Conversation ─────┤
    Anthropic messages ─────┘   prepare_chat      └─▶ a parser for each choice (from its text)

Dialects translate their own fields into a ``Conversation`` and the parts of an answer
(``text/answer.py``) into their own objects; what lies between is the same for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.params import SamplingParams
from radixserve.text.answer import AnswerParser, PlainAnswer
from radixserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The one tool that must be called."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The turns so far and what the next one may look like."""

    messages: Sequence[Mapping[str, Any]]
    """As chat templates read them, which is OpenAI's form: role, content, and where they apply
    ``tool_calls``, ``tool_call_id``, ``name``, ``reasoning_content``."""
    tools: Sequence[Mapping[str, Any]] = ()
    """OpenAI's chat form: ``{"type": "function", "function": {"name", "description",
    "parameters", "strict"}}``."""
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    grammar: GrammarSpec | None = None
    """What the content must match."""
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    """Further names for the chat template (``enable_thinking``)."""
    continues_last: bool = False
    """The answer goes on from the last message, which is the assistant's, instead of following
    it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedChat:
    """A conversation, ready to run."""

    prompt_ids: list[int]
    params: SamplingParams
    """With the grammar, if there is one."""
    visible_ids: frozenset[int]
    """Special tokens that the parser wants to see in the text."""
    new_parser: Callable[[], AnswerParser]
    """Makes the parser of one choice."""


def prepare_chat(
    tokenizer: Tokenizer, conversation: Conversation, params: SamplingParams
) -> PreparedChat:
    """Render and tokenize. *Raises* ``InvalidRequestError``. *Cost*: O(conversation); in a thread.

    Errors name fields as OpenAI's chat does ("messages", "tools", "tool_choice",
    "response_format"): a dialect with other names translates ``error.param``.
    """
    return PreparedChat(
        prompt_ids=tokenizer.encode_chat(conversation.messages),
        params=params,
        visible_ids=frozenset(),
        new_parser=PlainAnswer,
    )
