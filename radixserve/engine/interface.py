"""What a front end sees of an engine: token ids in, a stream of text out.

``AsyncEngine`` (``async_engine.py``) implements it over the engine process; tests of the front end
may bring their own. Nothing here knows HTTP, and nothing here knows how the engine is reached.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import (
    NO_HINTS,
    CacheEvent,
    CacheExplanation,
    CacheHints,
    CacheReport,
    CacheStats,
    EngineInfo,
    EngineStats,
    FinishReason,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """What became known of one choice: some text, some tokens, perhaps its end.

    Text may lag behind tokens: half a UTF-8 character, or the beginning of what could become a stop
    string, is held back until it is decided. Over a whole stream the texts concatenate to the
    answer and the token ids to everything that was generated.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop string or stop token id that ended the choice, if one of the request's own did."""
    num_cached_tokens: int = 0
    cache_report: CacheReport | None = None
    """Comes once, with the request's first delta of its first choice."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Comes once, likewise, if the request asked."""
    error: str | None = None


class TextStream(Protocol):
    """The deltas of all choices of one request, in the order in which they became known.

    Iteration ends after every choice has finished. ``aclose`` before that aborts the request: its
    pages come back, and what it has computed stays in the cache. Idempotent.
    """

    request_id: RequestId

    def __aiter__(self) -> AsyncIterator[TextDelta]: ...

    async def aclose(self) -> None: ...


class CacheEventStream(Protocol):
    """What comes into the cache and goes: a snapshot, then every event. Who reads too slowly gets
    a ``lost`` event and another snapshot instead of some.

    Iteration ends when the engine drains or ends. ``aclose`` ends it before. Idempotent.
    """

    def __aiter__(self) -> AsyncIterator[CacheEvent]: ...

    async def aclose(self) -> None: ...


class Engine(Protocol):
    """An engine as a front end uses it."""

    info: EngineInfo
    tokenizer: Tokenizer

    @property
    def stats(self) -> EngineStats:
        """The newest figures that the engine has sent."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once the engine process has ended."""
        ...

    async def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        hints: CacheHints = NO_HINTS,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
        continues_prompt: bool = False,
        visible_ids: frozenset[int] = frozenset(),
    ) -> TextStream:
        """Start a request. Returns as soon as it is accepted.

        ``tenant``: on whose account; ``priority``: smaller goes first. ``deadline_s``: how many
        seconds it has from now; then its stream raises ``DeadlineError``.

        ``continues_prompt``: the answer's text goes on from the prompt's (a completion) rather than
        being one of its own (a chat): see ``Detokenizer``. ``visible_ids``: special tokens that are
        part of the text nevertheless.

        *Raises* ``InvalidRequestError`` (``ContextLengthError`` if it cannot fit),
        ``OverloadedError``, ``ShuttingDownError``, ``EngineDeadError``; then nothing was started.
        """
        ...

    async def explain(
        self, prompt_ids: Sequence[int], *, namespace: Namespace = DEFAULT_NAMESPACE
    ) -> CacheExplanation:
        """What a prompt would find in the cache now, without running it: for whoever runs the
        server, because it also tells of other namespaces.

        *Raises* ``InvalidRequestError``, ``EngineDeadError``.
        """
        ...

    async def clear_cache(self, namespace: Namespace | None = None) -> int:
        """Forget what is cached and not in use, of one namespace or all. Returns how many pages
        became free. *Raises* ``EngineDeadError``."""
        ...

    async def cache_stats(self) -> CacheStats:
        """The figures at this moment. *Raises* ``EngineDeadError``."""
        ...

    def watch_cache(self) -> CacheEventStream:
        """Watch which pages the cache holds; the engine notes it only while somebody does.

        *Raises* ``ShuttingDownError``, ``EngineDeadError``.
        """
        ...

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, end who watches the cache, and wait until the requests in flight
        have ended, or the time is up."""
        ...

    async def aclose(self) -> None:
        """Abort what is in flight and end the engine process."""
        ...
