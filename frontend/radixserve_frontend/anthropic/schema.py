"""The shape of requests: which fields exist, of which types. Ranges belong to ``SamplingParams``.

Three kinds of fields, as in OpenAI's dialect: those that do something; those that are harmless to
ignore, because they change nothing about the answer (accepted, type-checked, dropped); everything
else, which is refused by name. A field that is not implemented accepts exactly the values that mean
"off".
"""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from radixserve_frontend.extras import Extras
from radixserve_frontend.strict import (
    BY_TYPE,
    CacheControl,
    StrictModel,
    known_types,
    only,
    text_or_list,
)

MAX_MESSAGES = 100_000
"""As for Anthropic."""
MAX_BLOCKS = 65_536
MAX_TOOLS = 4096

_TEXT_ONLY = "this model reads text only"


class TextBlock(StrictModel):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None

    # Comes back with an answer that a client sends again: null, for nothing here cites.
    citations: Annotated[Any, only(None, [])] = None


class ThinkingBlock(StrictModel):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(StrictModel):
    """Somebody else's, unreadable: dropped."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(StrictModel):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Annotated[Any, only(None, {"type": "direct"})] = None
    toolset_name: Annotated[Any, only(None)] = None


ResultContent = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[
        list[Annotated[TextBlock, known_types("tool results", _TEXT_ONLY, "text")]],
        Field(fail_fast=True, max_length=MAX_BLOCKS),
        Tag("<list>"),
    ],
    text_or_list("must be a string or an array of text blocks"),
]


class ToolResultBlock(StrictModel):
    type: Literal["tool_result"]
    tool_use_id: str
    content: ResultContent | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: Annotated[Any, only(None)] = None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedThinkingBlock, Tag("<redacted_thinking>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")],
    BY_TYPE,
    known_types(
        "content blocks",
        _TEXT_ONLY,
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
    ),
]

MessageContent = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[Block], Field(fail_fast=True, max_length=MAX_BLOCKS), Tag("<list>")],
    text_or_list("must be a string or an array of content blocks"),
]

System = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[
        list[Annotated[TextBlock, known_types("system blocks", _TEXT_ONLY, "text")]],
        Field(fail_fast=True, max_length=MAX_BLOCKS),
        Tag("<list>"),
    ],
    text_or_list("must be a string or an array of text blocks"),
]


class Message(StrictModel):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: MessageContent


class Tool(StrictModel):
    """A tool of the client's own."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None
    type: str | None = None

    # Harmless: hints about how the call is told, and examples that no template has room for.
    eager_input_streaming: bool | None = None
    input_examples: list[dict[str, Any]] | None = None

    allowed_callers: Annotated[Any, only(None, ["direct"])] = None
    defer_loading: Annotated[Any, only(None, False)] = None

    @field_validator("type")
    @classmethod
    def _only_custom(cls, value: str | None) -> str | None:
        if value not in (None, "custom"):
            raise PydanticCustomError(
                "unsupported",
                "tools of type '{kind}' are not supported: they run elsewhere, or bring schemas "
                "that this server does not have; describe the tool with name and input_schema",
                {"kind": str(value)[:40]},
            )
        return value


class ToolChoice(StrictModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(StrictModel):
    """Whether to think. ``budget_tokens`` is a wish: nothing here cuts a thought off."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(StrictModel):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(StrictModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Edit(StrictModel):
    """Of a context's editing only what comes to nothing here: templates drop old thinking."""

    type: str
    keep: Any = None

    @field_validator("type")
    @classmethod
    def _only_thinking(cls, value: str) -> str:
        if not value.startswith("clear_thinking_"):
            raise PydanticCustomError(
                "unsupported",
                "edits of type '{kind}' are not supported; edit the messages before you send them",
                {"kind": value[:40]},
            )
        return value


class ContextManagement(StrictModel):
    edits: Annotated[list[Edit], Field(fail_fast=True, max_length=16)] | None = None


class Prompt(StrictModel):
    """What makes the prompt: all that counting its tokens takes."""

    model: str
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    system: System | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    """Marks the last block."""
    context_management: ContextManagement | None = None

    thread: Any = None
    """Refused with a word of its own, on which clients send the whole conversation instead."""
    mcp_servers: Annotated[Any, only(None, [])] = None
    speed: Annotated[Any, only(None, "standard")] = None

    # Harmless: whom to bill.
    user_profile_id: str | None = None
    workspace_id: str | None = None


class CountTokensRequest(Prompt):
    """``POST /v1/messages/count_tokens``."""


class MessagesRequest(Prompt, Extras):
    """``POST /v1/messages``."""

    max_tokens: Annotated[int, Field(ge=0)]
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(fail_fast=True)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    # Harmless: they change nothing about the answer.
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    diagnostics: dict[str, Any] | None = None

    container: Annotated[Any, only(None)] = None
