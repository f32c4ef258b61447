"""The shape of what is said: messages and their parts, calls and their results, reasoning.

Clients send an answer's items back as they received them; whatever an answer of ours holds is good
input.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from radixserve_frontend.strict import (
    BY_TYPE,
    CacheControl,
    StrictModel,
    known_types,
    only,
    text_or_list,
)

MAX_ITEMS: Final = 65_536

_TEXT_ONLY = "this model reads text only"

Status = Literal["in_progress", "completed", "incomplete"]
CacheTtl = Literal["30m", "12h"]


class CacheBreakpoint(StrictModel):
    """OpenAI's own mark: keep the prompt up to here."""

    mode: Literal["explicit"]
    ttl: CacheTtl | None = None


class InputText(StrictModel):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None
    cache_control: CacheControl | None = None


class OutputText(StrictModel):
    """What an answer of ours said, sent back."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[Any, only(None, [])] = None
    # Of no use in a prompt: dropped.
    logprobs: Annotated[None, BeforeValidator(lambda _: None)] = None


class Refusal(StrictModel):
    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[OutputText, Tag("<output_text>")]
    | Annotated[Refusal, Tag("<refusal>")],
    BY_TYPE,
    known_types("content parts", _TEXT_ONLY, "input_text", "output_text", "refusal"),
]

Content = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[Part], Field(fail_fast=True, max_length=MAX_ITEMS), Tag("<list>")],
    text_or_list("must be a string or an array of content parts"),
]


class MessageItem(StrictModel):
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class FunctionCallItem(StrictModel):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    namespace: Annotated[Any, only(None)] = None
    caller: Annotated[Any, only(None, {"type": "direct"})] = None


OutputParts = Annotated[
    list[Annotated[InputText, known_types("parts of a tool's output", _TEXT_ONLY, "input_text")]],
    Field(fail_fast=True, max_length=MAX_ITEMS),
]

FunctionOutput = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[OutputParts, Tag("<list>")],
    text_or_list("must be a string or an array of text parts"),
]


class FunctionCallOutputItem(StrictModel):
    type: Literal["function_call_output"]
    call_id: str
    output: FunctionOutput
    id: str | None = None
    status: Status | None = None
    name: str | None = None
    namespace: Annotated[Any, only(None)] = None
    caller: Annotated[Any, only(None, {"type": "direct"})] = None


class SummaryText(StrictModel):
    type: Literal["summary_text"]
    text: str


class ReasoningText(StrictModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(StrictModel):
    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[list[SummaryText], Field(fail_fast=True, max_length=MAX_ITEMS)] | None = None
    content: Annotated[list[ReasoningText], Field(fail_fast=True, max_length=MAX_ITEMS)] | None = (
        None
    )
    # Somebody else's, unreadable: dropped.
    encrypted_content: str | None = None
    status: Status | None = None


def _tag_of_item(value: Any) -> str | None:
    if isinstance(value, dict):
        # Messages may leave their type out; nothing else has a role.
        kind = value.get("type", "message" if "role" in value else None)
    else:
        kind = getattr(value, "type", None)
    return f"<{kind}>" if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionCallOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(
        _tag_of_item,
        custom_error_type="invalid_type",
        custom_error_message="must be an object with a type or, if it is a message, with a role",
    ),
    known_types(
        "input items",
        "send messages, function_call, function_call_output and reasoning",
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
    ),
]

Input = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[
        list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS), Tag("<list>")
    ],
    text_or_list("must be a string or an array of items"),
]
