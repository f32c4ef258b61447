"""The shape of requests: which fields exist, of which types. Ranges belong to SamplingParams.

Three kinds of fields, and no fourth: those that do something; those that are harmless to ignore,
because they change nothing about the answer (accepted, type-checked, dropped); everything else,
which is refused by name. A field of OpenAI's that is not implemented accepts exactly the values
that mean "off".

Types are strict: ``"1"`` is not 1 and 1 is not ``true``. ``null`` means absent, as for OpenAI.
"""

import json
import sys
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from radixserve.sampling.params import MAX_LOGPROBS
from radixserve.types import MAX_KEEP_S

MAX_MESSAGES = 65536
MAX_STOP_TOKEN_IDS = 1024

_MAX_FLOAT = sys.float_info.max
_CACHE_TTLS_S = {"5m": 300.0, "1h": 3600.0}


class StrictModel(BaseModel):
    """Strict types, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_field_will_do(cls, value: Any) -> Any:
        """Pydantic makes an error of every unknown field, and a body has room for a million: three
        seconds during which no other thread runs, and gigabytes. One is enough to refuse it."""
        if not isinstance(value, dict) or value.keys() <= cls.model_fields.keys():
            return value
        unknown = next(name for name in value if name not in cls.model_fields)
        known = {name: value[name] for name in cls.model_fields if name in value}
        return {**known, unknown: value[unknown]}


def _only(*accepted: Any) -> BeforeValidator:
    """Accept only values that leave an unimplemented feature off."""

    def check(value: Any) -> Any:
        for candidate in accepted:
            # 0 == False and 1 == True, hence the types.
            if type(value) is type(candidate) and value == candidate:
                return value
        shown = " or ".join(json.dumps(each) for each in accepted)
        raise PydanticCustomError(
            "unsupported",
            "this feature is not supported; leave it out (or send {shown})",
            {"shown": shown},
        )

    return BeforeValidator(check)


def _one_bad_entry_will_do(value: Any) -> Any:
    """``fail_fast`` for an object of numbers, which pydantic has for arrays only: if an entry is
    not a finite number, the first such one alone."""
    if isinstance(value, dict):
        for key, entry in value.items():
            # A boolean is an int to Python, not to JSON; NaN and infinities fail the comparison.
            if type(entry) not in (int, float) or not -_MAX_FLOAT <= entry <= _MAX_FLOAT:
                return {key: entry}
    return value


def _form_of_text(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<list>" if isinstance(value, list) else None


def _form_of_prompt(value: Any) -> str | None:
    """Which of its four forms a prompt has, by its own type and its first entry's."""
    if not isinstance(value, list) or not value:
        return _form_of_text(value)
    if isinstance(value[0], list):
        return "<token lists>"
    # A boolean is an int to Python, not to JSON.
    return "<tokens>" if type(value[0]) is int else "<list>"


Stop = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Field(fail_fast=True), Tag("<list>")],
    Discriminator(
        _form_of_text,
        custom_error_type="invalid_type",
        custom_error_message="must be a string or an array of strings",
    ),
]

Prompt = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], Field(fail_fast=True, min_length=1), Tag("<list>")]
    | Annotated[list[int], Field(fail_fast=True), Tag("<tokens>")]
    | Annotated[
        list[Annotated[list[int], Field(fail_fast=True)]],
        Field(fail_fast=True),
        Tag("<token lists>"),
    ],
    Discriminator(
        _form_of_prompt,
        custom_error_type="invalid_type",
        custom_error_message="must be a string, an array of strings, an array of token ids, or an "
        "array of arrays of token ids",
    ),
]


class StreamOptions(StrictModel):
    include_usage: bool | None = None
    # Padding against traffic analysis, which OpenAI adds by default: harmless to leave out.
    include_obfuscation: bool | None = None


def _ttl_s(value: Any) -> float:
    if value is None:
        return _CACHE_TTLS_S["5m"]
    if isinstance(value, str) and value in _CACHE_TTLS_S:
        return _CACHE_TTLS_S[value]
    # A boolean is an int to Python, not to JSON.
    if type(value) in (int, float) and 0 < value <= MAX_KEEP_S:
        return float(value)
    raise PydanticCustomError(
        "invalid_ttl",
        'must be "5m", "1h" or a number of seconds above 0, at most {limit}',
        {"limit": MAX_KEEP_S},
    )


class CacheControl(StrictModel):
    """Keep the prompt's prefix for a while: as Anthropic's, for the whole prompt."""

    type: str
    ttl: Annotated[float, BeforeValidator(_ttl_s)] = _CACHE_TTLS_S["5m"]

    @field_validator("type")
    @classmethod
    def _only_ephemeral(cls, value: str) -> str:
        if value != "ephemeral":
            raise PydanticCustomError("unsupported", 'must be "ephemeral"', {})
        return value


class TextPart(StrictModel):
    type: str
    text: str

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
    Discriminator(
        _form_of_text,
        custom_error_type="invalid_type",
        custom_error_message="must be a string or an array of text parts",
    ),
]

ROLES = ("system", "developer", "user", "assistant")


class Message(StrictModel):
    """One turn. The fields that only ever hold null are those a client sends back when it appends
    an answer of ours, as it received it, to the conversation."""

    role: str
    content: Content
    name: str | None = None
    tool_calls: Annotated[Any, _only(None, [])] = None
    function_call: Annotated[Any, _only(None)] = None
    refusal: Annotated[Any, _only(None)] = None
    audio: Annotated[Any, _only(None)] = None
    annotations: Annotated[Any, _only(None, [])] = None

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value in ("tool", "function"):
            raise PydanticCustomError(
                "unsupported",
                "messages of role '{role}' are not supported: tools are not",
                {"role": value},
            )
        if value not in ROLES:
            raise PydanticCustomError(
                "invalid_value",
                "{shown} is not one of {roles}",
                {"shown": repr(value[:40]), "roles": ", ".join(ROLES)},
            )
        return value

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates read it."""
        content: str | list[dict[str, str]]
        if isinstance(self.content, str):
            content = self.content
        else:
            content = [{"type": "text", "text": part.text} for part in self.content]
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.name is not None:
            message["name"] = self.name
        return message


class GenerationRequest(StrictModel):
    """What both endpoints share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: Stop | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float] | None, BeforeValidator(_one_bad_entry_will_do)] = None

    # Extras beyond OpenAI's dialect, by the names that other servers use.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: (
        Annotated[list[int], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)] | None
    ) = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    cache_salt: str | None = None
    cache_report: bool | None = None
    cache_control: CacheControl | None = None

    # Harmless: they change nothing about the answer.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)

    @property
    def wants_cache_report(self) -> bool:
        return bool(self.cache_report)

    @property
    def wants_stream_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    # Harmless: a hint about speed, and a permission that only tools could use.
    prediction: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    # Not implemented: accepted where the value means "off".
    tools: Annotated[Any, _only(None, [])] = None
    tool_choice: Annotated[Any, _only(None, "none")] = None
    functions: Annotated[Any, _only(None, [])] = None
    function_call: Annotated[Any, _only(None, "none")] = None
    response_format: Annotated[Any, _only(None, {"type": "text"})] = None
    modalities: Annotated[Any, _only(None, ["text"])] = None
    audio: Annotated[Any, _only(None)] = None
    web_search_options: Annotated[Any, _only(None)] = None
    reasoning_effort: Annotated[Any, _only(None)] = None
    verbosity: Annotated[Any, _only(None)] = None


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``."""

    prompt: Prompt
    logprobs: int | None = None

    echo: Annotated[Any, _only(None, False)] = None
    suffix: Annotated[Any, _only(None, "")] = None
    best_of: int | None = None

    def prompts(self) -> list[str | list[int]]:
        """Every prompt of the request, in order, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [entry for entry in self.prompt if isinstance(entry, int)]
        if tokens:
            return [tokens]
        return [entry for entry in self.prompt if not isinstance(entry, int)]
