"""The supervisor over engines that a test plays: what it sends when, and to whom it tells what."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from radixserve.config import EngineConfig
from radixserve.engine import restarts, supervisor
from radixserve.engine.client import Exit, Told
from radixserve.engine.messages import (
    Abort,
    Answer,
    CacheEvents,
    CacheStatsRead,
    Ping,
    Pong,
    Step,
    Submit,
    ToEngine,
    TreeChanged,
    WatchFailed,
)
from radixserve.engine.supervisor import Supervisor
from radixserve.errors import ConfigError, EngineDeadError, InvalidRequestError
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.types import (
    CacheInfo,
    CacheStats,
    EngineInfo,
    EngineRequest,
    EngineStats,
    TokenDelta,
)

INFO = EngineInfo(
    model="m",
    model_dir="/models/m",
    architecture="",
    num_parameters=0,
    device="cpu",
    dtype="float32",
    attention="torch",
    max_model_len=64,
    vocab_size=99,
    page_size=4,
    num_pages=9,
    kv_cache_bytes=1,
    eos_token_ids=[],
    sampling_defaults=SamplingDefaults(),
    load_seconds=0,
)
CACHE = CacheInfo(free_pages=9, cached_pages=0, in_use_pages=0, total_pages=9, page_size=4)
STATS = EngineStats(num_waiting=0, num_running=0, cache=CACHE)


class PlayedClient:
    """One life, as the test has it."""

    def __init__(self, config: EngineConfig, on_message: Callable[[Told], None]) -> None:
        self.config = config
        self.tell = on_message
        self.got: list[ToEngine] = []
        self.is_alive = True
        self.is_closed = False
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def send(self, message: ToEngine) -> None:
        if not self.is_alive:
            raise EngineDeadError("gone")
        self.got.append(message)

    async def ended(self) -> Exit:
        return await asyncio.shield(self._ended)

    def kill(self, reason: str) -> None:
        self.die(-signal.SIGKILL, reason)

    async def aclose(self) -> None:
        self.is_alive = False
        self.is_closed = True

    def die(self, status: int = -signal.SIGSEGV, because: str | None = None) -> None:
        self.is_alive = False
        self._ended.set_result(Exit(status, because))

    @property
    def submitted(self) -> list[EngineRequest]:
        return [message.request for message in self.got if isinstance(message, Submit)]

    def say(self, name: str, *token_ids: int, index: int = 0, **more: Any) -> None:
        delta = TokenDelta(
            request_id=RequestId(name), index=index, token_ids=list(token_ids), **more
        )
        self.tell(Step([delta], STATS))


@dataclass
class Notes:
    """A listener that notes everything."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    ends: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    heard: list[object] = field(default_factory=list)

    def on_step(self, step: Step) -> None: ...

    def on_delta(self, delta: TokenDelta) -> None:
        self.tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
        if delta.finish_reason is not None:
            self.ends[delta.request_id] = (delta.finish_reason, delta.error)

    def on_watched(self, message: CacheEvents | TreeChanged | WatchFailed) -> None:
        self.heard.append(message)

    def on_answer(self, answer: Answer) -> None:
        self.heard.append(answer)

    def on_down(self) -> None:
        self.heard.append("down")

    def on_up(self) -> None:
        self.heard.append("up")

    def on_given_up(self) -> None:
        self.heard.append("given up")


class Stage:
    """A supervisor, its listener, and all its clients so far."""

    def __init__(self) -> None:
        self.clients: list[PlayedClient] = []
        self.told = Notes()
        self.failures: list[Exception | None] = []
        """What the next starts raise; None: they hang."""
        self.supervisor: Supervisor

    async def start_client(
        self, config: EngineConfig, *, on_message: Callable[[Told], None]
    ) -> tuple[PlayedClient, EngineInfo]:
        if self.failures:
            failure = self.failures.pop(0)
            if failure is None:
                await asyncio.Event().wait()
            else:
                raise failure
        self.clients.append(PlayedClient(config, on_message))
        return self.clients[-1], INFO

    @property
    def client(self) -> PlayedClient:
        return self.clients[-1]

    async def rest(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def next_life(self) -> PlayedClient:
        before = len(self.clients)
        while len(self.clients) == before:
            await asyncio.sleep(0)
        await self.rest()
        return self.client

    def submit(self, *names: str, n: int = 1) -> None:
        for name in names:
            params = SamplingParams(n=n).resolve(SamplingDefaults(), max_tokens=50, seed=1)
            self.supervisor.submit(
                EngineRequest(
                    request_id=RequestId(name),
                    prompt_ids=list(name.encode()),
                    params=params,
                    end_token_ids=[0],
                )
            )

    def submitted(self) -> list[str]:
        """Who was sent to the engine that lives."""
        return [request.request_id for request in self.client.submitted]


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(restarts, "_FIRST_DELAY_S", 0.0)
    made = Stage()

    class Starter:
        start = made.start_client

    monkeypatch.setattr(supervisor, "EngineClient", Starter)
    made.supervisor = await Supervisor.start(EngineConfig(model="m"), made.told)
    yield made
    await made.supervisor.aclose()
    assert all(client.is_closed for client in made.clients)


async def test_the_next_process_is_made_like_the_first(stage: Stage) -> None:
    """A pool sized by the memory that is left, or a repository that has moved on, must not change
    what the requests in flight were promised."""
    stage.client.die()
    config = (await stage.next_life()).config
    assert (config.model, config.num_pages, config.max_model_len) == ("/models/m", 9, 64)
    assert stage.clients[0].config.num_pages is None


async def test_halves_are_let_in_one_after_the_other(stage: Stage) -> None:
    stage.submit(*"abcd")
    await stage.rest()
    assert stage.submitted() == [*"abcd"]
    stage.client.say("c", 1, 2)
    stage.client.die()
    await stage.next_life()
    assert stage.submitted() == ["a", "b"]
    stage.client.say("a", 5, 5, 5, 5)
    stage.client.say("b", 5, 5, 5)
    stage.submit("e")
    await stage.rest()
    assert stage.submitted() == ["a", "b"], "b has not settled"
    stage.client.say("b", 5)
    await stage.rest()
    assert stage.submitted() == [*"abcd"]
    assert stage.client.submitted[2].resumed[0].token_ids == [1, 2]
    assert stage.client.submitted[3].resumed == []
    stage.client.say("c", 6, finish_reason="length")
    stage.client.say("d", *[6] * 4)
    await stage.rest()
    assert stage.submitted() == [*"abcde"]
    assert stage.told.tokens["c"] == [1, 2, 6]
    assert stage.supervisor.num_resumed_requests == 4
    assert stage.supervisor.num_restarts == 1
    assert stage.told.heard == ["down", "up"]


async def test_who_dies_alone_twice_is_condemned_told_and_refused(stage: Stage) -> None:
    stage.submit("bad", n=2)
    await stage.rest()
    for _ in range(2):
        stage.client.die()
        await stage.next_life()
    assert stage.told.ends["bad"] == ("error", supervisor.CONDEMNED)
    assert stage.submitted() == []
    with pytest.raises(InvalidRequestError, match="refused"):
        stage.submit("bad", n=2)
    stage.submit("good")
    await stage.rest()
    assert stage.submitted() == ["good"]
    assert stage.supervisor.num_held == 0


async def test_many_killers_are_all_found(stage: Stage) -> None:
    """Regression: the deaths that one culprit took counted on against the engine."""
    names = [f"bad{number}" for number in range(10)]
    stage.submit(*names)
    await stage.rest()
    while len(stage.told.ends) < len(names):
        stage.client.die()
        await stage.rest()
        assert not stage.supervisor.given_up.is_set()
        if not stage.client.is_alive:
            await stage.next_life()
    assert {end for end, _ in stage.told.ends.values()} == {"error"}


async def test_a_start_that_the_system_refuses_or_that_hangs_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: anything but an error of ours gave the engine up; a load that hung was waited for
    without end."""
    monkeypatch.setattr(supervisor, "MIN_START_LIMIT_S", 0.01)
    stage.submit("a")
    await stage.rest()
    stage.failures = [OSError("no memory"), None]
    stage.client.die(-signal.SIGKILL)
    await stage.next_life()
    assert stage.submitted() == ["a"]
    assert stage.failures == []


async def test_a_stream_that_fails_ends_its_own_request(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the engine was killed for it, and the request went on with a hole."""
    stage.submit("a", "b", n=2)
    await stage.rest()
    take = stage.told.on_delta

    def on_delta(delta: TokenDelta) -> None:
        if 13 in delta.token_ids:
            raise ZeroDivisionError
        take(delta)

    monkeypatch.setattr(stage.told, "on_delta", on_delta)
    stage.client.say("a", 13)
    stage.client.say("b", 5)
    await stage.rest()
    assert stage.told.ends == {"a": ("error", supervisor.BROKEN_STREAM)}
    assert stage.client.got[-1] == Abort(RequestId("a"), None)
    assert stage.told.tokens["b"] == [5]
    stage.client.say("a", 6)
    assert stage.told.tokens["a"] == []
    assert len(stage.clients) == 1


async def test_kills_from_outside_resume_everybody_at_once(stage: Stage) -> None:
    stage.submit(*"abcd")
    await stage.rest()
    for life in range(1, 12):
        for name in "abcd":
            stage.client.say(name, life)
        stage.client.die(-signal.SIGKILL)
        await stage.next_life()
        assert stage.submitted() == [*"abcd"]
        assert stage.client.submitted[0].resumed[0].token_ids == [*range(1, life + 1)]
    assert stage.told.ends == {}


async def test_aborts_reach_whoever_has_the_request(stage: Stage) -> None:
    stage.submit("a", "b", n=2)
    await stage.rest()
    stage.supervisor.abort(RequestId("a"), 1)
    stage.supervisor.abort(RequestId("nobody"))
    await stage.rest()
    assert stage.client.got[-1] == Abort(RequestId("a"), 1)
    stage.client.say("a", 7)
    stage.client.say("a", 8, index=1)
    stage.client.die()
    await stage.next_life()
    assert stage.submitted() == ["a"]
    assert [choice.index for choice in stage.client.submitted[0].resumed] == [0]
    assert stage.told.tokens["a"] == [7], "a choice that was aborted says nothing more"
    # Held, it is just forgotten, and so is the rest once nobody is on trial.
    stage.supervisor.abort(RequestId("b"))
    stage.supervisor.abort(RequestId("a"))
    await stage.rest()
    assert stage.client.got[1:] == [Abort(RequestId("a"), None)]
    stage.submit("c")
    await stage.rest()
    assert stage.submitted() == ["a", "c"]


async def test_what_is_said_of_ended_requests_finds_nobody(stage: Stage) -> None:
    stage.submit("a")
    stage.client.say("a", 1, finish_reason="length")
    stage.client.say("a", 2)
    stage.client.say("never heard of", 3)
    assert stage.told.tokens == {"a": [1]}


async def test_a_crash_loop_is_given_up(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.submit("a")
    await stage.rest()
    stage.failures = [ConfigError("no memory left")] * restarts.MAX_IDLE_DEATHS
    stage.client.die()
    await stage.supervisor.given_up.wait()
    assert caplog.text.count("no memory left") == restarts.MAX_IDLE_DEATHS
    assert stage.told.ends["a"] == ("error", supervisor.GIVEN_UP)
    assert stage.told.heard == ["down", "given up"]
    assert not stage.supervisor.is_up
    with pytest.raises(EngineDeadError):
        stage.submit("b")
    with pytest.raises(EngineDeadError):
        await stage.supervisor.send(Ping())
    stage.supervisor.post(Ping())


async def test_a_start_that_fails_once_is_tried_again(stage: Stage) -> None:
    stage.submit("a")
    stage.failures = [EngineDeadError("died while starting")]
    stage.client.die()
    await stage.next_life()
    assert stage.submitted() == ["a"]
    assert stage.supervisor.num_restarts == 1


async def test_a_fault_of_the_supervisor_is_told_to_everybody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits forever because of it."""
    stage.submit("a")

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stage.told, "on_down", broken)
    stage.client.die()
    await stage.supervisor.given_up.wait()
    assert stage.told.ends["a"][0] == "error"
    assert "ZeroDivisionError" in caplog.text


async def test_counters_of_all_lives_add_up_and_who_is_held_waits(stage: Stage) -> None:
    stage.submit(*"abcd")
    stats = EngineStats(num_waiting=1, num_running=3, cache=CACHE, generated_tokens=5)
    stage.client.tell(Step([], stats))
    assert stage.supervisor.stats == stats
    stage.client.die()
    await stage.next_life()
    now = stage.supervisor.stats
    assert (now.generated_tokens, now.num_waiting, now.num_running) == (5, 2, 0)
    stage.client.tell(Step([], stats))
    assert stage.supervisor.stats.generated_tokens == 10


# -- hanging --------------------------------------------------------------------------------------


@pytest.fixture
async def quick_stage(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> Stage:
    """One whose engines are to be heard of within a twentieth of a second."""
    stage.supervisor._config = EngineConfig(model="m", engine_timeout_s=0.05)
    stage.client.die()
    await stage.next_life()
    return stage


async def test_an_engine_that_hangs_is_killed_and_its_requests_are_suspects(
    quick_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage = quick_stage
    hung = stage.client
    stage.submit("a", "b")
    await stage.next_life()
    assert await hung.ended() == Exit(-signal.SIGKILL, "it made no progress")
    assert "no progress for 0 s: killed" in caplog.text
    assert stage.submitted() == ["a"], "they are not let in together"


async def test_an_engine_that_answers_is_left_alone(quick_stage: Stage) -> None:
    stage = quick_stage
    client = stage.client
    for _ in range(30):
        await asyncio.sleep(0.005)
        if isinstance(client.got[-1] if client.got else None, Ping):
            client.got.clear()
            client.tell(Pong())
    assert stage.client is client
    assert stage.supervisor.is_ready


async def test_ready_is_who_was_heard_of_lately(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage.supervisor.is_ready
    now_s = stage.supervisor._watchdog._heard_s
    monkeypatch.setattr(stage.supervisor._watchdog, "_clock", lambda: now_s + 31)
    assert (stage.supervisor.is_up, stage.supervisor.is_ready) == (True, False)
    stage.client.tell(Pong())
    assert (stage.supervisor.is_up, stage.supervisor.is_ready) == (True, True)


async def test_messages_are_handed_on(stage: Stage) -> None:
    stats = CacheStats(engine=STATS, num_namespaces=1, num_nodes=2, eviction_policy="LRU")
    messages: list[Told] = [CacheEvents([], 1), WatchFailed(), Answer(3, CacheStatsRead(stats))]
    for message in messages:
        stage.client.tell(message)
    assert stage.told.heard == messages


async def test_a_message_that_does_not_leave_is_no_error(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stage.supervisor.post(Ping())
    stage.client.is_alive = False
    await stage.rest()
    assert "did not reach the engine" in caplog.text
    stage.client.is_alive = True
