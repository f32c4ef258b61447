"""The shape of requests: which fields exist, of which types. Ranges belong to SamplingParams.

Three kinds of fields, and no fourth: those that do something; those that are harmless to ignore,
because they change nothing about the answer (accepted, type-checked, dropped); everything else,
which is refused by name. A field of OpenAI's that is not implemented accepts exactly the values
that mean "off".

Types are strict: ``"1"`` is not 1 and 1 is not ``true``. ``null`` means absent, as for OpenAI.
"""

import sys
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag

from radixserve.sampling.params import MAX_LOGPROBS
from radixserve_frontend.extras import Extras
from radixserve_frontend.openai.conversing import ConversationFields, Messages
from radixserve_frontend.openai.response_format import ResponseFormat, StructuredOutputs
from radixserve_frontend.strict import CacheControl, StrictModel, only, text_or_list

MAX_STOP_TOKEN_IDS = 1024

_MAX_FLOAT = sys.float_info.max


def _one_bad_entry_will_do(value: Any) -> Any:
    """``fail_fast`` for an object of numbers, which pydantic has for arrays only: if an entry is
    not a finite number, the first such one alone."""
    if isinstance(value, dict):
        for key, entry in value.items():
            # A boolean is an int to Python, not to JSON; NaN and infinities fail the comparison.
            if type(entry) not in (int, float) or not -_MAX_FLOAT <= entry <= _MAX_FLOAT:
                return {key: entry}
    return value


def _form_of_prompt(value: Any) -> str | None:
    """Which of its four forms a prompt has, by its own type and its first entry's."""
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    if not value:
        return "<list>"
    if isinstance(value[0], list):
        return "<token lists>"
    # A boolean is an int to Python, not to JSON.
    return "<tokens>" if type(value[0]) is int else "<list>"


Stop = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Field(fail_fast=True), Tag("<list>")],
    text_or_list("must be a string or an array of strings"),
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


class GenerationRequest(Extras):
    """What both endpoints share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: Stop | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float] | None, BeforeValidator(_one_bad_entry_will_do)] = None
    response_format: ResponseFormat | None = None

    # Extras beyond OpenAI's dialect, by the names that other servers use.
    top_k: int | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: (
        Annotated[list[int], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)] | None
    ) = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    cache_control: CacheControl | None = None
    regex: str | None = None
    grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    prompt_logprobs: int | None = None

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


class ChatRequest(ConversationFields, GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: Messages
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    # Harmless: a hint about speed.
    prediction: dict[str, Any] | None = None

    # Not implemented: accepted where the value means "off".
    functions: Annotated[Any, only(None, [])] = None
    function_call: Annotated[Any, only(None, "none")] = None
    modalities: Annotated[Any, only(None, ["text"])] = None
    audio: Annotated[Any, only(None)] = None
    web_search_options: Annotated[Any, only(None)] = None
    verbosity: Annotated[Any, only(None)] = None


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``."""

    prompt: Prompt
    logprobs: int | None = None

    echo: bool | None = None
    suffix: Annotated[Any, only(None, "")] = None
    best_of: int | None = None

    @property
    def wants_only_prompt(self) -> bool:
        """The prompt is to be repeated, and scored, and not continued."""
        return bool(self.echo) and self.max_tokens == 0

    def prompts(self) -> list[str | list[int]]:
        """Every prompt of the request, in order, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [entry for entry in self.prompt if isinstance(entry, int)]
        if tokens:
            return [tokens]
        return [entry for entry in self.prompt if not isinstance(entry, int)]
