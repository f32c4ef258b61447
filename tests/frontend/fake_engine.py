"""An engine without a model, for tests of the front end: scripted answers, and a memory of what was
asked of it. It obeys ``radixserve.engine.interface`` and nothing more.

A token is a byte of UTF-8; an answer is "abcdefghij" over and over unless a script says otherwise.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from radixserve.engine.interface import (
    EngineHealth,
    NodeTokens,
    TextDelta,
    TreeEvent,
    TreeViewer,
)
from radixserve.errors import (
    ContextLengthError,
    EngineDeadError,
    InvalidRequestError,
    ShuttingDownError,
)
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import (
    NO_HINTS,
    CacheEvent,
    CacheExplanation,
    CacheHints,
    CacheInfo,
    CacheReport,
    CacheStats,
    EngineInfo,
    EngineStats,
    TokenLogprob,
)
from tests.frontend.fake_tokenizer import FakeTokenizer

MAX_MODEL_LEN = 4096
ALPHABET = "abcdefghij"


@dataclass
class Submitted:
    """What one ``submit`` was given, and what became of it."""

    prompt_ids: list[int]
    params: SamplingParams
    namespace: Namespace
    hints: CacheHints
    continues_prompt: bool
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    is_finished: bool = False

    @property
    def was_aborted(self) -> bool:
        """Closed before its end."""
        return self.closed.is_set() and not self.is_finished

    @property
    def prompt(self) -> str:
        return bytes(self.prompt_ids).decode("utf-8")


@dataclass(frozen=True)
class Ahead:
    """A prefix that is to be computed ahead of its request."""

    text: str
    namespace: Namespace
    tenant: str


class FakeStream:
    """Deltas of one submission, each let through by the engine's gate."""

    def __init__(
        self, engine: "FakeEngine", submitted: Submitted, deltas: Sequence[TextDelta | Exception]
    ) -> None:
        self.request_id = RequestId(f"fake-{len(engine.submitted)}")
        self.queued_s: float | None = 0.25
        self._engine = engine
        self._submitted = submitted
        self._deltas = iter(deltas)
        self._last_words: list[TextDelta] = []

    def end(self) -> None:
        """A shutdown ends it, as a real engine's does."""
        self._last_words = [
            TextDelta(
                index=index,
                text="",
                token_ids=[],
                finish_reason="abort",
                error="the server is shutting down",
            )
            for index in range(self._submitted.params.n)
        ]

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        await self._engine.gate.pass_one()
        if self._submitted.closed.is_set():
            if self._last_words and not self._submitted.is_finished:
                return self._last_words.pop(0)
            raise StopAsyncIteration
        try:
            delta = next(self._deltas)
        except StopIteration:
            self._submitted.is_finished = True
            raise StopAsyncIteration from None
        if isinstance(delta, Exception):
            raise delta
        return delta

    async def aclose(self) -> None:
        # A real engine has to send a message; a cancelled caller must get through this too.
        await asyncio.sleep(0)
        self._submitted.closed.set()
        self._engine.something_closed.set()


class Gate:
    """Holds deltas back: open (the default), or letting through as many as a test allows."""

    def __init__(self) -> None:
        self._permits: asyncio.Semaphore | None = None

    def hold(self, num_passing: int = 0) -> None:
        """From now on let ``num_passing`` deltas through, then none."""
        self._permits = asyncio.Semaphore(num_passing)

    def release(self) -> None:
        """Let everything through again."""
        permits, self._permits = self._permits, None
        if permits is not None:
            for _ in range(10_000):
                permits.release()

    async def pass_one(self) -> None:
        if self._permits is None:
            # Like a real engine, let others run between deltas.
            await asyncio.sleep(0)
        else:
            await self._permits.acquire()


class FakeWatch:
    """Cache events as a test puts them in; None ends them."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[CacheEvent | None] = asyncio.Queue()
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[CacheEvent]:
        return self

    async def __anext__(self) -> CacheEvent:
        event = await self.events.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        self.is_closed = True


class FakeTreeWatch:
    """What becomes of a tree as a test puts it in; None ends it. ``tokens``: of its nodes."""

    def __init__(self, viewer: TreeViewer) -> None:
        self.viewer = viewer
        self.events: asyncio.Queue[TreeEvent | None] = asyncio.Queue()
        self.tokens: dict[int, NodeTokens] = {}
        self.asked: list[tuple[int, int, int]] = []
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[TreeEvent]:
        return self

    async def __anext__(self) -> TreeEvent:
        event = await self.events.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def read(
        self, node_id: int, *, num_before: int, num_first: int, num_last: int
    ) -> NodeTokens | None:
        self.asked.append((num_before, num_first, num_last))
        return self.tokens.get(node_id)

    async def aclose(self) -> None:
        self.is_closed = True


Script = Callable[[Submitted], Sequence[TextDelta | Exception]]
"""What to answer; an exception in it is raised in the middle of the stream."""


class FakeEngine:
    """Implements ``interface.Engine``. Make it inside a running loop."""

    def __init__(self, script: Script | None = None) -> None:
        self.info = EngineInfo(
            model="fake",
            model_dir="/nowhere",
            architecture="FakeForCausalLM",
            num_parameters=12_345_678,
            device="cpu",
            dtype="float32",
            attention="torch",
            max_model_len=MAX_MODEL_LEN,
            vocab_size=256,
            page_size=16,
            num_pages=1024,
            eos_token_ids=[0],
            sampling_defaults=SamplingDefaults(),
            load_seconds=0.5,
            kv_cache_bytes=2**30,
        )
        self.tokenizer = cast(Tokenizer, FakeTokenizer())
        self.script = script or alphabet
        self.gate = Gate()
        self.submitted: list[Submitted] = []
        self._streams: list[FakeStream] = []
        self.something_submitted = asyncio.Event()
        self.something_closed = asyncio.Event()
        self.watches: list[FakeWatch] = []
        self.tree_watches: list[FakeTreeWatch] = []
        self.is_alive = True
        self.is_up = True
        self.is_ready = True
        self.is_draining = False
        self.is_closed = False
        self.num_cached_tokens = 0
        self.asked: list[tuple[list[int], Namespace]] = []
        self.cleared: list[Namespace | None] = []
        self.public_prefixes: list[list[int]] = []
        self.ahead: list[Ahead] = []

    @property
    def stats(self) -> EngineStats:
        running = sum(not each.closed.is_set() for each in self.submitted)
        return EngineStats(
            num_waiting=0,
            num_running=running,
            cache=CacheInfo(
                free_pages=1000, cached_pages=20, in_use_pages=4, total_pages=1024, page_size=16
            ),
            num_steps=7,
            prompt_tokens=100,
            cached_tokens=25,
            in_flight_tokens=5,
            admissions={"evicted": 2, "complete": 1},
            evicted_pages=3,
            generated_tokens=50,
        )

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
        follows: RequestId | None = None,
        continues_prompt: bool = False,
        visible_ids: frozenset[int] = frozenset(),
    ) -> FakeStream:
        if self.is_draining:
            raise ShuttingDownError("the engine is draining")
        if not self.is_alive:
            raise EngineDeadError("the engine process has ended")
        for token_id in prompt_ids:
            if not 0 <= token_id < self.info.vocab_size:
                raise InvalidRequestError(f"token {token_id} is not in the vocabulary")
        if len(prompt_ids) + (params.max_tokens or 1) > MAX_MODEL_LEN:
            raise ContextLengthError(
                f"the prompt has {len(prompt_ids)} tokens; the context holds {MAX_MODEL_LEN}",
                param="prompt",
            )
        submitted = Submitted(list(prompt_ids), params, namespace, hints, continues_prompt)
        self.submitted.append(submitted)
        self.something_submitted.set()
        stream = FakeStream(self, submitted, self.script(submitted))
        self._streams.append(stream)
        return stream

    def set_public_prefixes(self, prefixes: Sequence[Sequence[int]]) -> None:
        for prefix in prefixes:
            if len(prefix) > MAX_MODEL_LEN:
                raise ContextLengthError("the prompt is too long", param="prompt")
        self.public_prefixes = [list(prefix) for prefix in prefixes]

    def prefill_ahead(
        self,
        prompt_ids: Sequence[int],
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        tenant: str = "",
    ) -> None:
        if len(prompt_ids) >= MAX_MODEL_LEN:
            raise ContextLengthError("the prompt is too long", param="prompt")
        self.ahead.append(Ahead(bytes(prompt_ids).decode(), namespace, tenant))

    async def explain(
        self,
        prompt_ids: Sequence[int],
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        looks_elsewhere: bool = False,
    ) -> CacheExplanation:
        """Everything but the last 4 tokens is there, says this engine."""
        self._require_alive()
        if len(prompt_ids) > MAX_MODEL_LEN:
            raise ContextLengthError("the prompt is too long", param="prompt")
        self.asked.append((list(prompt_ids), namespace))
        return CacheExplanation(
            num_prompt_tokens=len(prompt_ids),
            matched_tokens=len(prompt_ids) - 4,
            host_tokens=2,
            disk_tokens=1,
            cause="evicted",
            evicted_seconds_ago=1.23456,
            in_other_namespaces=True if looks_elsewhere else None,
        )

    async def clear_cache(self, namespace: Namespace | None = None) -> int:
        self._require_alive()
        self.cleared.append(namespace)
        return 20

    async def cache_stats(self) -> CacheStats:
        self._require_alive()
        return CacheStats(engine=self.stats, num_namespaces=2, num_nodes=7, eviction_policy="LRU")

    def _require_alive(self) -> None:
        if not self.is_alive:
            raise EngineDeadError("the engine process has ended")

    def watch_cache(self) -> FakeWatch:
        watch = FakeWatch()
        self.watches.append(watch)
        return watch

    def watch_tree(self, viewer: TreeViewer) -> FakeTreeWatch:
        watch = FakeTreeWatch(viewer)
        self.tree_watches.append(watch)
        return watch

    async def drain(self, timeout_s: float) -> None:
        self.is_draining = True
        for watch in self.watches:
            watch.events.put_nowait(None)
        for tree_watch in self.tree_watches:
            tree_watch.events.put_nowait(None)

    @property
    def health(self) -> EngineHealth:
        return EngineHealth(
            is_up=self.is_up and self.is_alive,
            is_ready=self.is_ready and self.is_up and self.is_alive,
            has_given_up=not self.is_alive and not self.is_closed,
            num_restarts=3,
            num_resumed_requests=8,
        )

    async def aclose(self) -> None:
        self.is_closed = True
        for stream in self._streams:
            stream.end()
        await self.die()

    async def die(self) -> None:
        """End for good, without a word to anybody."""
        self.is_alive = False
        for submitted in self.submitted:
            submitted.closed.set()
        self.gate.release()


def alphabet(submitted: Submitted) -> list[TextDelta]:
    """``max_tokens`` (10) letters for each choice, the choices taking turns."""
    num_tokens = submitted.params.max_tokens or 10
    letters = list(itertools.islice(itertools.cycle(ALPHABET), num_tokens))
    return [
        delta_of(
            letter,
            index=index,
            logprobs=submitted.params.logprobs,
            finish_reason="length" if position == num_tokens - 1 else None,
            num_cached_tokens=min(16, len(submitted.prompt_ids) - 1),
            cache_report=_report_of(submitted) if position == index == 0 else None,
        )
        for position, letter in enumerate(letters)
        for index in range(submitted.params.n)
    ]


def _report_of(submitted: Submitted) -> CacheReport:
    """Of the 16 cached tokens, 10 came from the device."""
    num_cached = min(16, len(submitted.prompt_ids) - 1)
    num_device = min(10, num_cached)
    return CacheReport(
        device_tokens=num_device,
        in_flight_tokens=num_cached - num_device,
        computed_tokens=len(submitted.prompt_ids) - num_cached,
        cause="diverged",
    )


def says(*texts: str, finish_reason: str = "stop") -> Script:
    """A script that says these pieces, whatever it is asked."""

    def script(submitted: Submitted) -> list[TextDelta]:
        last = len(texts) - 1
        return [
            delta_of(
                text,
                logprobs=submitted.params.logprobs,
                finish_reason=finish_reason if position == last else None,
            )
            for position, text in enumerate(texts)
        ]

    return script


def fails(after: str, error: str, reason: str = "error") -> Script:
    """A script that says something and then fails."""

    def script(submitted: Submitted) -> list[TextDelta]:
        failure = TextDelta(
            index=0, text="", token_ids=[], finish_reason=cast(Any, reason), error=error
        )
        return [*([delta_of(after)] if after else []), failure]

    return script


def delta_of(
    text: str,
    *,
    index: int = 0,
    logprobs: int | None = None,
    finish_reason: str | None = None,
    num_cached_tokens: int = 0,
    cache_report: CacheReport | None = None,
) -> TextDelta:
    """A delta of ``text``, one token a byte."""
    token_ids = list(text.encode("utf-8", "replace"))
    entries = None
    if logprobs is not None:
        entries = [
            TokenLogprob(
                token_id=token_id,
                logprob=-0.5,
                top=[((token_id + shift) % 256, -0.5 - shift) for shift in range(logprobs)],
            )
            for token_id in token_ids
        ]
    return TextDelta(
        index=index,
        text=text,
        token_ids=token_ids,
        logprobs=entries,
        finish_reason=cast(Any, finish_reason),
        num_cached_tokens=num_cached_tokens,
        cache_report=cache_report,
    )
