"""The shape of requests: which fields exist, of which types. Ranges belong to ``SamplingParams``.

The same three kinds of fields as in chat (``openai/schema.py``): those that do something, those
that are harmless to ignore, and those that are refused unless they mean "off".
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from radixserve.sampling.params import MAX_LOGPROBS
from radixserve_frontend.extras import Extras
from radixserve_frontend.openai.responses.items import CacheBreakpoint, CacheTtl, Input
from radixserve_frontend.strict import (
    BY_TYPE,
    CacheControl,
    StrictModel,
    known_types,
    only,
)

MAX_TOOLS: Final = 4096
LOGPROBS: Final = "message.output_text.logprobs"

_CACHE_TTLS_S: Final = {"30m": 1800.0, "12h": 43_200.0}


class FunctionTool(StrictModel):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    # Harmless: what a function gives back is not the model's to write.
    output_schema: dict[str, Any] | None = None
    allowed_callers: Annotated[Any, only(None, ["direct"])] = None
    defer_loading: Annotated[Any, only(None, False)] = None


class NamedFunction(StrictModel):
    type: Literal["function"]
    name: str


def _form_of_choice(value: Any) -> str | None:
    if isinstance(value, str):
        return "<mode>"
    return "<function>" if isinstance(value, dict | NamedFunction) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")]
    | Annotated[NamedFunction, Tag("<function>")],
    Discriminator(
        _form_of_choice,
        custom_error_type="invalid_type",
        custom_error_message='must be "none", "auto", "required" or an object',
    ),
    known_types("tool choices", "name a function", "function"),
]


class TextFormat(StrictModel):
    type: Literal["text"]


class JsonObjectFormat(StrictModel):
    type: Literal["json_object"]


class JsonSchemaFormat(StrictModel):
    type: Literal["json_schema"]
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


Format = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")],
    BY_TYPE,
    known_types(
        "formats", "send text, json_object or json_schema", "text", "json_object", "json_schema"
    ),
]


class TextConfig(StrictModel):
    format: Format | None = None
    verbosity: Annotated[Any, only(None, "medium")] = None


class Reasoning(StrictModel):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    # Harmless: the reasoning itself is given, whole, and no summary of it.
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None


class CacheOptions(StrictModel):
    mode: Literal["implicit", "explicit"] | None = None
    ttl: CacheTtl | None = None


class StreamOptions(StrictModel):
    # Padding against traffic analysis, which OpenAI adds by default: harmless to leave out.
    include_obfuscation: bool | None = None


def _small_metadata(value: Any) -> Any:
    """At once, before pydantic makes an error of each of a million entries."""
    if isinstance(value, dict) and (
        len(value) > 16
        or any(not isinstance(entry, str) or len(entry) > 512 for entry in value.values())
        or any(len(key) > 64 for key in value)
    ):
        raise PydanticCustomError(
            "invalid_value",
            "must have at most 16 entries, of at most 64 characters of key and 512 of text",
            {},
        )
    return value


class ResponsesRequest(Extras):
    """``POST /v1/responses``."""

    model: str
    input: Input
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: (
        Annotated[
            list[
                Annotated[
                    FunctionTool,
                    known_types(
                        "tools", "only functions, which the client runs itself, are", "function"
                    ),
                ]
            ],
            Field(fail_fast=True, max_length=MAX_TOOLS),
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: (
        Annotated[
            list[
                Annotated[
                    str,
                    # Reasoning is not encrypted here: it comes back in the clear and can be sent
                    # again, so whoever asks for the encrypted form needs none.
                    only(LOGPROBS, "reasoning.encrypted_content"),
                ]
            ],
            Field(fail_fast=True, max_length=16),
        ]
        | None
    ) = None
    metadata: Annotated[dict[str, str] | None, BeforeValidator(_small_metadata)] = None
    prompt_cache_options: CacheOptions | None = None

    top_k: int | None = None
    """Not OpenAI's, as ``cache_control`` is not, and whatever ``Extras`` has."""
    cache_control: CacheControl | None = None

    # Harmless: they change nothing about the answer.
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    max_tool_calls: int | None = None

    truncation: Annotated[Any, only(None, "disabled")] = None
    background: Annotated[Any, only(None, False)] = None
    conversation: Annotated[Any, only(None)] = None
    context_management: Annotated[Any, only(None, [])] = None
    prompt: Annotated[Any, only(None)] = None
    moderation: Annotated[Any, only(None)] = None

    @property
    def wants_store(self) -> bool:
        return self.store is None or self.store

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def keep_s(self, mark: CacheBreakpoint) -> float:
        """How long a mark of OpenAI's own asks for."""
        options = self.prompt_cache_options
        ttl = mark.ttl or (options.ttl if options is not None else None) or "30m"
        return _CACHE_TTLS_S[ttl]
