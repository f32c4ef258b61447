"""What the endpoints that generate have in common, as an interface that ``endpoint.py`` drives.

    bytes ──prepare()──▶ Prepared ──▶ deltas ──▶ chunk() … end() or fail()    streamed
                                        └──────▶ add() … answer()             in one piece

``prepare`` is CPU work of unbounded length (parsing, rendering, tokenizing) and runs in a thread;
everything else runs on the event loop, once per delta, and has to be cheap.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from radixserve.engine.interface import TextDelta
from radixserve.errors import InvalidRequestError, UnknownModelError
from radixserve_frontend.caller import Caller
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import Conversation
from radixserve_frontend.generation import Job
from radixserve_frontend.http_errors import ErrorAnswer
from radixserve_frontend.openai.schema import GenerationRequest
from radixserve_frontend.validation import show


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What is known of a request besides its body."""

    request_id: str
    """Goes into the answer's id."""
    caller: Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What there is to say of a request as a whole, at its end."""

    prompt_tokens: int
    """Once per prompt, whatever ``n`` is."""
    cached_tokens: int
    generated_tokens: int
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the answer, if the request asked for them: ``cache_report``."""


class Reply(Protocol):
    """Turns the deltas of one request into a dialect's objects. Mutable, one per request.

    ``index`` counts choices over all prompts: prompt ``i``'s choice ``j`` is ``i * n + j``.
    """

    def chunk(self, index: int, delta: TextDelta) -> bytes:
        """The events that this delta makes, framed; empty if it has nothing to tell yet."""
        ...

    def end(self, totals: Totals) -> bytes:
        """The events that close a complete stream."""
        ...

    def fail(self, answer: ErrorAnswer) -> bytes:
        """The events that break a stream off."""
        ...

    def add(self, index: int, delta: TextDelta) -> None:
        """Keep the delta for ``answer``."""
        ...

    def answer(self, totals: Totals) -> dict[str, Any]:
        """The whole answer, once every delta has been added."""
        ...

    def echo(self) -> Mapping[str, Any] | None:
        """The complete answer as clients send it back, as one message of ``Conversation``'s form;
        None if they do not, or if nobody can know how. However the answer was told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that is ready to run."""

    job: Job
    reply: Reply
    stream: bool
    cache_report: bool
    conversation: Conversation | None = None
    """What the answer goes on, if it does go on a conversation."""
    field_names: Mapping[str, str] = field(default_factory=dict)
    """What this dialect calls the fields that the engine blames ("prompt", "max_tokens")."""


class Dialect(Protocol):
    """One endpoint's way from bytes to a prepared request."""

    endpoint: str
    """The route: what metrics are labelled with."""

    def shape_error(self, answer: ErrorAnswer) -> dict[str, Any]:
        """The body of an error."""
        ...

    def prepare(self, body: bytes, arrival: Arrival) -> Prepared:
        """Parse, check, render and tokenize.

        *Raises* ``InvalidRequestError``. *Cost*: proportional to the body; runs outside the loop.
        """
        ...


def check_model(model: str, config: ServerConfig) -> None:
    """*Raises* ``UnknownModelError`` unless ``model`` names the model served here."""
    if model not in config.model_names:
        raise UnknownModelError(
            f"the model {show(model)} is not served here; "
            f"this server has {show(config.model_names[0])} (see GET /v1/models)"
        )


def check_stream_options(request: GenerationRequest) -> None:
    """*Raises* ``InvalidRequestError`` for stream options without a stream."""
    if request.stream_options is not None and not request.wants_stream:
        raise InvalidRequestError(
            "stream_options was sent, but stream is not true; set stream to true or leave it out",
            param="stream_options",
        )


def check_not_streamed(name: str, is_wanted: bool, request: GenerationRequest) -> None:
    """*Raises* ``InvalidRequestError`` if the field ``name`` wants what no stream can tell."""
    if is_wanted and request.wants_stream:
        raise InvalidRequestError(
            f"{name} is known only when the whole answer is; set stream to false or leave "
            f"{name} out",
            param=name,
        )


def check_choices(num_prompts: int, n: int, config: ServerConfig) -> None:
    """*Raises* ``InvalidRequestError`` if one request wants more answers than allowed."""
    if num_prompts * n > config.max_choices:
        raise InvalidRequestError(
            f"{num_prompts} prompts times n = {n} are {num_prompts * n} answers; one request may "
            f"ask for {config.max_choices} (the server's --max-choices): send several requests",
            param="n" if num_prompts == 1 else "prompt",
        )
