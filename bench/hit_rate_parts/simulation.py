"""The project's scheduler and cache serving traffic, on a clock that only the simulation moves.

    arrive    calls whose time has come are queued
    schedule  the real ``Scheduler`` admits, evicts, preempts, plans a step
    run       the clock moves on by what such a step would take (``StepTime``); replies are written
    update    pages enter the tree, requests end, replies stay in the tree with their prompts

One step is in flight at a time. Calls that come while it runs are queued when it ends; waits count
from when they came. The eviction policy reads the same clock, and so do the paced chunks
(``scheduler/pacing.py``). Nothing else has a clock: a run can be repeated exactly.

*Saturated*, a simulation ignores when calls come: as many as can run always wait as well, so that
what it gets done is what it can.

Admissions are seen in plans: a request that is in one for the first time was admitted then, and a
plan lists newcomers in the order of their admission. (One that is preempted within the very step
that admitted it is counted when it is admitted again, so no wait is understated.)

*Cost*: 10 to 20 µs a token generated, mostly the scheduler's own.
"""

import heapq
from dataclasses import dataclass

from tqdm import tqdm

from hit_rate_parts.real_cache import MakePolicy
from hit_rate_parts.traffic import Call, Traffic
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.policy import MAX_OVERTAKES
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineRequest, EngineStats, SampledToken, TokenDelta


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds a step takes: a constant, and more for each token computed and request running.

    The defaults are round numbers of the order of a mid-sized model on one machine: reading the
    weights, computing a token, reading one request's keys and values. They are not measurements.
    """

    step_s: float = 0.02
    token_s: float = 0.0001
    running_s: float = 0.0005

    def of(self, num_tokens: int, num_running: int) -> float:
        """How long a step takes."""
        return self.step_s + self.token_s * num_tokens + self.running_s * num_running


@dataclass(frozen=True, slots=True)
class Server:
    """What serves: the options of ``radixserve serve`` that matter here, with their defaults."""

    page_size: int = 16
    max_running: int = 64
    max_batch_tokens: int = 2048
    max_itl_stretch: float | None = 2.0
    step_time: StepTime = StepTime()


@dataclass(slots=True)
class Service:
    """What became of one call. Mutable while the simulation runs."""

    arrival_s: float
    num_prompt_tokens: int
    num_cached_tokens: int = 0
    admission_s: float = 0.0
    first_token_s: float = 0.0
    end_s: float = 0.0
    position: int = 0
    """How many requests were waiting when it came."""
    num_overtakes: int = 0
    """How many others were admitted, for the first time, between its arrival and its admission."""

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.first_token_s - self.arrival_s

    @property
    def wait_s(self) -> float:
        """Time to admission."""
        return self.admission_s - self.arrival_s

    @property
    def bound(self) -> int:
        """At most so many others are admitted first, the scheduler says (``waiting.py``)."""
        return self.position + MAX_OVERTAKES


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all calls, in the order of the traffic; None for one that no pool of that size
    could ever hold."""

    services: tuple[Service | None, ...]
    stats: EngineStats
    end_s: float


class Simulation:
    """One run of traffic through one server; used once."""

    def __init__(
        self,
        traffic: Traffic,
        server: Server,
        num_pages: int,
        make_policy: MakePolicy,
        *,
        saturated: bool = False,
    ) -> None:
        self._calls = traffic.calls
        self._server = server
        self._saturated = saturated
        self._now_s = 0.0
        self._num_tokens = num_pages * server.page_size
        policy = make_policy(self._clock, num_pages, server.page_size)
        cache = PrefixCache(num_pages, server.page_size, policy, clock=self._clock)
        self._scheduler = Scheduler(
            cache, max_batch_tokens=server.max_batch_tokens, max_running=server.max_running
        )
        self._pacer = Pacer(server.max_itl_stretch)
        self._services: list[Service | None] = [None] * len(self._calls)
        self._num_admitted = 0
        self._admitted: set[RequestId] = set()
        self._followers: dict[int, list[int]] = {}
        """Calls that wait for the end of another."""
        self._due: list[tuple[float, int]] = []
        """A heap of calls that wait for nothing but their time."""
        for index, call in enumerate(self._calls):
            if call.after is None:
                self._due.append((call.time_s, index))
            else:
                self._followers.setdefault(call.after, []).append(index)
        heapq.heapify(self._due)

    def _clock(self) -> float:
        return self._now_s

    def run(self) -> Outcome:
        """Serve everything."""
        scheduler = self._scheduler
        description = "saturated" if self._saturated else "serving"
        with tqdm(
            total=len(self._calls), desc=description, unit="req", disable=None, leave=False
        ) as bar:
            while True:
                self._arrive()
                if scheduler.has_work:
                    bar.update(self._step())
                elif self._due:
                    self._now_s = self._due[0][0]
                else:
                    break
        return Outcome(tuple(self._services), scheduler.stats(), self._now_s)

    def _arrive(self) -> None:
        while self._due and self._has_come(self._due[0][0]):
            time_s, index = heapq.heappop(self._due)
            call = self._calls[index]
            if call.num_tokens > self._num_tokens:
                self._ended(index, time_s)
                continue
            arrival_s = self._now_s if self._saturated else time_s
            service = Service(arrival_s, call.num_prompt_tokens)
            service.position = self._scheduler.stats().num_waiting
            # Until it is admitted: how many had been when it came.
            service.num_overtakes = self._num_admitted
            self._services[index] = service
            self._scheduler.add(_request(index, call))

    def _has_come(self, time_s: float) -> bool:
        if self._saturated:
            return self._scheduler.stats().num_waiting < self._server.max_running
        return time_s <= self._now_s

    def _step(self) -> int:
        """Run one step; returns how many calls have ended in it."""
        plan = self._scheduler.schedule(max_chunk_tokens=self._pacer.max_chunk_tokens())
        assert plan.rows, "there is work, nothing is in flight, and no row was planned"
        self._note_admissions(plan)
        num_tokens = plan.num_scheduled_tokens
        step_s = self._server.step_time.of(num_tokens, len(self._scheduler.running))
        num_streams = sum(row.num_scheduled_tokens == 1 for row in plan.rows)
        self._pacer.observe(num_streams, num_tokens - num_streams, step_s)
        self._now_s += step_s
        num_ended = 0
        for delta in self._scheduler.update(plan, self._sample(plan)):
            num_ended += self._take(delta)
        return num_ended

    def _note_admissions(self, plan: StepPlan) -> None:
        for row in plan.rows:
            request_id = row.request.request_id
            if request_id not in self._admitted:
                self._admitted.add(request_id)
                service = self._services[int(request_id)]
                assert service is not None
                service.admission_s = self._now_s
                service.num_overtakes = self._num_admitted - service.num_overtakes
                self._num_admitted += 1

    def _sample(self, plan: StepPlan) -> StepResult:
        return StepResult(
            tuple(
                (SampledToken(self._calls[int(row.request.request_id)].reply.token_id),)
                if row.num_samples
                else ()
                for row in plan.rows
            )
        )

    def _take(self, delta: TokenDelta) -> bool:
        """Note a token; returns whether it was the last."""
        index = int(delta.request_id)
        service = self._services[index]
        assert service is not None
        if not service.first_token_s:
            service.first_token_s = self._now_s
            service.num_cached_tokens = delta.num_cached_tokens
        if delta.finish_reason is None:
            return False
        service.end_s = self._now_s
        self._admitted.discard(delta.request_id)
        self._ended(index, self._now_s)
        return True

    def _ended(self, index: int, time_s: float) -> None:
        for follower in self._followers.pop(index, ()):
            heapq.heappush(self._due, (max(time_s, self._calls[follower].time_s), follower))


def _request(index: int, call: Call) -> EngineRequest:
    return EngineRequest(
        request_id=RequestId(str(index)),
        prompt_ids=call.token_ids()[: call.num_prompt_tokens].tolist(),
        params=SamplingParams(max_tokens=call.reply.num_tokens, temperature=0.0),
        end_token_ids=[],
    )
