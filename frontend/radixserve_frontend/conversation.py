"""What a chat asks of the model, whatever dialect it came in, and how it is made ready to run.

    OpenAI chat, responses ─┐                     ┌─▶ prompt ids, params     (to the engine)
                            ├─▶ Conversation ─────┤
    Anthropic messages ─────┘   prepare_chat      └─▶ a parser for each choice (from its text)

Dialects translate their own fields into a ``Conversation`` and the parts of an answer
(``text/answer.py``) into their own objects; what lies between is the same for all of them.

Tools are shown to the model whatever the choice: prompts with the same tools keep the same prefix.
With the choice "none" nobody looks for calls, and what looks like one is content. The grammar of an
answer (``text/answer_grammar.py``) holds it to what was asked for: a tool that must be called,
arguments of strict tools, one call at most, the format of the content.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from radixserve.errors import InvalidRequestError
from radixserve.ids import Namespace
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.params import SamplingParams
from radixserve.text import lark
from radixserve.text.answer import AnswerParser, PlainAnswer
from radixserve.text.answer_grammar import Calls, answer_grammar
from radixserve.text.chat_formats import ChatFormats
from radixserve.text.reasoning import (
    THINK_CLOSE,
    THINK_OPEN,
    Thinking,
    ThinkingParser,
    thinking_after,
)
from radixserve.text.token_memory import Tail, TokenMemory
from radixserve.text.tokenizer import Tokenizer
from radixserve.text.tool_calls.format import Tool, ToolFormat
from radixserve_frontend.tool_checks import check_tools

_TOOL_FORMAT_REMEDY: Final = (
    "leave tools out, send tool_choice 'none', or start the server with --tool-format"
)


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
    tail: Tail | None
    """Of the prompt: what the answer's tokens are learnt behind."""
    params: SamplingParams
    """With the grammar, if there is one."""
    visible_ids: frozenset[int]
    """Special tokens that the parser wants to see in the text."""
    new_parser: Callable[[], AnswerParser]
    """Makes the parser of one choice."""
    is_plain: bool = True
    """Every text is content."""
    grammar_field: str = "response_format"
    """Where the grammar comes from: the field to blame if the engine cannot use it. The engine
    itself calls it "grammar"."""


def prepare_chat(
    memory: TokenMemory, namespace: Namespace, conversation: Conversation, params: SamplingParams
) -> PreparedChat:
    """Render and tokenize; earlier turns come in the tokens that this ``namespace`` has seen them
    in. *Raises* ``InvalidRequestError``. *Cost*: O(conversation); in a thread.

    Errors name fields as OpenAI's chat does ("messages", "tools", "tool_choice",
    "response_format"): a dialect with other names translates ``error.param``.
    """
    check_tools(conversation.tools)
    tokenizer = memory.tokenizer
    with_tools = bool(conversation.tools)
    formats = tokenizer.chat_formats(with_tools=with_tools)
    tool_format = _tool_format(tokenizer, conversation, formats)
    text = tokenizer.render_prompt(
        _messages(conversation, formats.tools),
        tools=conversation.tools,
        variables=conversation.template_variables,
        continues_last=conversation.continues_last,
    )
    prompt = memory.encode(namespace, text)
    thinking = _thinking(conversation, text) if formats.thinks else Thinking.CLOSED
    special_tokens = tokenizer.vocabulary.special_tokens
    calls = None if tool_format is None else _calls(conversation, tool_format, special_tokens)
    grammar = answer_grammar(
        thinking=thinking,
        calls=calls,
        content=conversation.grammar,
        spell=_speller(special_tokens),
    )
    names = frozenset(tool["function"]["name"] for tool in conversation.tools)

    def new_parser() -> AnswerParser:
        inner = PlainAnswer() if tool_format is None else tool_format.new_parser(names)
        is_over = thinking is Thinking.CLOSED
        return inner if is_over else ThinkingParser(inner, thinking=thinking)

    markers = () if tool_format is None else tool_format.markers
    if thinking is not Thinking.CLOSED:
        markers = (*markers, THINK_OPEN, THINK_CLOSE)
    return PreparedChat(
        prompt_ids=prompt.ids,
        tail=prompt.tail,
        params=params if grammar is None else replace(params, grammar=grammar),
        visible_ids=frozenset(special_tokens[each] for each in markers if each in special_tokens),
        new_parser=new_parser,
        is_plain=tool_format is None and thinking is Thinking.CLOSED,
        grammar_field="tools" if conversation.grammar is None else "response_format",
    )


def _tool_format(
    tokenizer: Tokenizer, conversation: Conversation, formats: ChatFormats
) -> ToolFormat | None:
    """The format of the calls to look for; None if there are none to look for."""
    choice = conversation.tool_choice
    if not conversation.tools:
        if choice not in ("auto", "none"):
            raise InvalidRequestError(
                "tool_choice asks for a call, but there are no tools", param="tool_choice"
            )
        return None
    if "tools" not in tokenizer.chat_template(with_tools=True).variables:
        raise InvalidRequestError(
            "this model's chat template shows no tools, so it cannot know of them; leave tools out",
            param="tools",
            code="unsupported_parameter",
        )
    if choice == "none":
        return None
    if formats.tools is None:
        raise InvalidRequestError(
            "it is not known how this model writes calls of tools; " + _TOOL_FORMAT_REMEDY,
            param="tools",
            code="unsupported_parameter",
        )
    names = [tool["function"]["name"] for tool in conversation.tools]
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise InvalidRequestError(
            f"tool_choice names {choice.name[:80]!r}, which is none of the tools",
            param="tool_choice",
        )
    return formats.tools


def _messages(
    conversation: Conversation, tool_format: ToolFormat | None
) -> Sequence[Mapping[str, Any]]:
    """The messages with ids of calls as the format's templates accept them."""
    messages = conversation.messages
    if not messages and conversation.continues_last:
        raise InvalidRequestError("there is no message to continue", param="messages")
    if conversation.continues_last and messages[-1].get("role") != "assistant":
        raise InvalidRequestError(
            "the last message is not the assistant's, so there is nothing of its to continue",
            param="messages",
        )
    if tool_format is None:
        return messages
    return [_with_call_ids(message, tool_format.call_id) for message in messages]


def _with_call_ids(message: Mapping[str, Any], call_id: Callable[[str], str]) -> Mapping[str, Any]:
    changes: dict[str, Any] = {}
    if isinstance(message.get("tool_call_id"), str):
        changes["tool_call_id"] = call_id(message["tool_call_id"])
    if message.get("tool_calls"):
        changes["tool_calls"] = [
            {**call, "id": call_id(call["id"])} if isinstance(call.get("id"), str) else call
            for call in message["tool_calls"]
        ]
    return {**message, **changes} if changes else message


def _thinking(conversation: Conversation, prompt: str) -> Thinking:
    if not conversation.continues_last:
        return thinking_after(prompt, None)
    content = conversation.messages[-1].get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content)
    return thinking_after(prompt, content or "")


def _calls(
    conversation: Conversation, tool_format: ToolFormat, special_tokens: Mapping[str, int]
) -> Calls | None:
    """What the grammar has to say of calls; None if it has nothing to."""
    choice = conversation.tool_choice
    is_demanded = choice == "required" or isinstance(choice, NamedTool)
    tools = [_tool(tool["function"]) for tool in conversation.tools]
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.name == choice.name]
    if not (
        is_demanded
        or not conversation.parallel_tool_calls
        or conversation.grammar is not None
        or any(tool.is_strict for tool in tools)
    ):
        return None
    return Calls(
        rules=tool_format.grammar(
            tools,
            enforced=is_demanded,
            parallel=conversation.parallel_tool_calls and not isinstance(choice, NamedTool),
            spell=_speller(special_tokens),
        ),
        demand="must" if is_demanded else "may",
    )


def _tool(function: Mapping[str, Any]) -> Tool:
    return Tool(
        name=function["name"],
        parameters=function.get("parameters") or {},
        is_strict=bool(function.get("strict")),
    )


def _speller(special_tokens: Mapping[str, int]) -> Callable[[str], str]:
    def spell(marker: str) -> str:
        token_id = special_tokens.get(marker)
        return lark.literal(marker) if token_id is None else lark.token(token_id)

    return spell
