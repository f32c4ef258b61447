"""The shape of a chat's messages: who says what, calls of tools and their results.

Clients append an answer as they received it to the conversation; whatever an answer of ours holds
is a good message.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, Tag, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from radixserve_frontend.strict import CacheControl, StrictModel, only, text_or_list

MAX_MESSAGES: Final = 65536
MAX_CALLS: Final = 1024
"""Calls of tools in one message."""

ROLES: Final = ("system", "developer", "user", "assistant", "tool")


class TextPart(StrictModel):
    type: str
    text: str
    cache_control: CacheControl | None = None
    """Keep the prompt up to here (``marks.py``)."""

    @field_validator("type")
    @classmethod
    def _only_text(cls, value: str) -> str:
        if value != "text":
            raise PydanticCustomError(
                "unsupported",
                "content parts of type '{kind}' are not supported; this model reads text only",
                {"kind": value[:40]},
            )
        return value


Content = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[TextPart], Field(fail_fast=True, min_length=1), Tag("<list>")],
    text_or_list("must be a string or an array of text parts"),
]


class CalledFunction(StrictModel):
    name: str
    arguments: str
    """JSON text, as the model wrote it."""

    # What OpenAI's client adds to an answer that it has parsed.
    parsed_arguments: Any = None


class ToolCall(StrictModel):
    """A call that the assistant made."""

    id: str
    type: str = "function"
    function: CalledFunction

    # Part of a stream's deltas, and of what some clients put together from them.
    index: int | None = None

    @field_validator("type")
    @classmethod
    def _only_functions(cls, value: str) -> str:
        if value != "function":
            raise PydanticCustomError("unsupported", 'must be "function"', {})
        return value

    def as_dict(self) -> dict[str, Any]:
        """The call as chat templates read it."""
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return {"id": self.id, "type": "function", "function": function}


class Message(StrictModel):
    """One turn. The fields that only ever hold null are those a client sends back when it appends
    an answer of ours, as it received it, to the conversation."""

    # In this order: what a content must be depends on what comes before it.
    role: Annotated[str, WithJsonSchema({"type": "string", "enum": list(ROLES)})]
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=MAX_CALLS)] | None = None
    tool_call_id: Annotated[str | None, Field(validate_default=True)] = None
    refusal: str | None = None
    content: Annotated[Content | None, Field(validate_default=True)] = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """Another server's name for the same."""

    function_call: Annotated[Any, only(None)] = None
    audio: Annotated[Any, only(None)] = None
    annotations: Annotated[Any, only(None, [])] = None

    # What OpenAI's client adds to an answer that it has parsed.
    parsed: Any = None

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value == "function":
            raise PydanticCustomError(
                "unsupported",
                "messages of role 'function' are not supported; send tools, and results in "
                "messages of role 'tool'",
                {},
            )
        if value not in ROLES:
            raise PydanticCustomError(
                "invalid_value",
                "{shown} is not one of {roles}",
                {"shown": repr(value[:40]), "roles": ", ".join(ROLES)},
            )
        return value

    @field_validator("tool_calls")
    @classmethod
    def _only_the_assistant_calls(
        cls, value: list[ToolCall] | None, info: ValidationInfo
    ) -> list[ToolCall] | None:
        if value and info.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("invalid_value", "only the assistant calls tools", {})
        return value

    @field_validator("tool_call_id")
    @classmethod
    def _results_belong_to_calls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("role") == "tool":
            raise _missing()
        return value

    @field_validator("content")
    @classmethod
    def _says_something(cls, value: Any, info: ValidationInfo) -> Any:
        data = info.data
        may_be_silent = data.get("role") == "assistant" and (
            data.get("tool_calls") or data.get("refusal") is not None
        )
        # Where another field is at fault, that one is to be told.
        if value is None and not may_be_silent and {"role", "tool_calls"} <= data.keys():
            raise _missing()
        return value

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates read it."""
        message: dict[str, Any] = {"role": self.role, "content": self._plain_content()}
        reasoning = self.reasoning_content or self.reasoning
        optional: Mapping[str, Any] = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": reasoning if self.role == "assistant" else None,
            "tool_calls": [call.as_dict() for call in self.tool_calls or ()] or None,
        }
        # Templates ask whether a field is there, not what it holds.
        return message | {name: value for name, value in optional.items() if value is not None}

    def _plain_content(self) -> str | list[dict[str, str]]:
        if self.content is None:
            return self.refusal or ""
        if isinstance(self.content, str):
            return self.content
        return [{"type": "text", "text": part.text} for part in self.content]


def _missing() -> PydanticCustomError:
    return PydanticCustomError("missing", "this field is required", {})
