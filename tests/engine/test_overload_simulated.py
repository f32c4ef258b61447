"""Overload in a time of the test's own: the real gate and the real scheduler, a model that says
nothing, and steps that take as long as a formula says. What ``bench/overload.py`` measures, without
the machine in it."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.config import QueueLimits
from radixserve.engine.gate import Gate
from radixserve.errors import OverloadedError
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.plan import StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineRequest, SampledToken

MAX_RUNNING = 8
UNBOUNDED = QueueLimits(max_queued_requests=10**6, max_queued_tokens=10**9, max_queue_s=10**6)


@dataclass(slots=True)
class Server:
    """A gate, a scheduler and the time."""

    pace: float
    """Seconds of a step with no tokens in it; each token takes a fiftieth of that."""
    limits: QueueLimits = field(default_factory=QueueLimits)
    seed: int = 0
    now_s: float = 0.0
    rng: random.Random = field(init=False)
    scheduler: Scheduler = field(init=False)
    gate: Gate = field(init=False)
    sent_s: dict[RequestId, tuple[str, float]] = field(default_factory=dict)
    ttft_s: dict[str, list[float]] = field(default_factory=dict)
    num_refused: dict[str, int] = field(default_factory=dict)
    num_done: int = 0
    num_sent: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.scheduler = Scheduler(
            PrefixCache(1000, 16), max_batch_tokens=128, max_running=MAX_RUNNING
        )
        self.gate = Gate(self.limits, clock=lambda: self.now_s)

    def send(self, tenant: str = "") -> None:
        """One request comes: it is refused, or waits."""
        self.num_sent += 1
        name = RequestId(str(self.num_sent))
        prompt = [self.rng.randrange(10**6) for _ in range(self.rng.randrange(16, 64))]
        try:
            self.gate.enter(name, len(prompt), tenant=tenant)
        except OverloadedError:
            self.num_refused[tenant] = self.num_refused.get(tenant, 0) + 1
            return
        self.sent_s[name] = tenant, self.now_s
        params = SamplingParams(max_tokens=self.rng.randrange(2, 16), seed=0)
        self.scheduler.add(
            EngineRequest(
                request_id=name, prompt_ids=prompt, params=params, end_token_ids=[], tenant=tenant
            )
        )

    def step(self) -> None:
        """One step, and the time that it takes."""
        plan = self.scheduler.schedule()
        admitted = self.scheduler.admitted
        self.now_s += self.pace * (1 + plan.num_scheduled_tokens / 50)
        sampled = tuple((SampledToken(1),) * row.num_samples for row in plan.rows)
        for delta in self.scheduler.update(plan, StepResult(sampled)):
            if delta.request_id in self.sent_s:
                tenant, sent_s = self.sent_s.pop(delta.request_id)
                self.ttft_s.setdefault(tenant, []).append(self.now_s - sent_s)
            self.num_done += delta.finish_reason is not None
        self.gate.observe(admitted, self.scheduler.stats())

    def capacity(self, num_requests: int) -> float:
        """Requests per second when there are always more."""
        for _ in range(4 * MAX_RUNNING):
            self.send()
        while self.num_done < num_requests:
            before = self.num_done
            self.step()
            for _ in range(self.num_done - before):
                self.send()
        return self.num_done / self.now_s

    def warm_up(self, rate: float) -> None:
        """Let the gate see the engine at work, and forget what came of it."""
        self.flood(3 * rate, 60)
        self.ttft_s.clear()
        self.num_refused.clear()

    def flood(self, rate: float, num_requests: int, *, light_every_s: float = 0.0) -> None:
        """Poisson arrivals of the tenant "heavy"; of "light" one now and then. To their end."""
        arrivals = np.cumsum(np.random.default_rng(self.seed).exponential(1 / rate, num_requests))
        arrivals += self.now_s
        events = [(float(at_s), "heavy") for at_s in arrivals]
        if light_every_s:
            events += [
                (at_s, "light") for at_s in np.arange(arrivals[0], arrivals[-1], light_every_s)
            ]
        for at_s, tenant in sorted(events):
            while self.now_s < at_s and self.scheduler.has_work:
                self.step()
            self.now_s = max(self.now_s, at_s)
            self.send(tenant)
        while self.scheduler.has_work:
            self.step()

    def p99_s(self, tenant: str = "heavy") -> float:
        return float(np.percentile(self.ttft_s[tenant], 99))


def capacity(pace: float) -> float:
    return Server(pace, UNBOUNDED).capacity(200)


@pytest.mark.parametrize("pace", [0.03, 0.15], ids=["16 requests/s", "3 requests/s"])
def test_at_five_times_the_capacity_first_tokens_take_at_most_twice_as_long(pace: float) -> None:
    rate = capacity(pace)
    p99_s = {}
    for times in (1, 5):
        server = Server(pace, seed=1)
        server.warm_up(rate)
        server.flood(times * rate, times * 600)
        p99_s[times] = server.p99_s()
        assert len(server.gate) == 0
    # Four in five are too many.
    assert server.num_refused["heavy"] / 3000 == pytest.approx(0.8, abs=0.05)
    # The bound is on the wait alone; a first token takes a few steps more.
    assert p99_s[5] <= 2 * p99_s[1]
    assert p99_s[5] <= QueueLimits().max_queue_s + 15 * pace


def test_without_the_gate_they_take_ever_longer() -> None:
    rate = capacity(0.03)
    server = Server(0.03, UNBOUNDED)
    server.flood(5 * rate, 1500)
    assert server.p99_s() > 10 * QueueLimits().max_queue_s


def test_a_light_tenant_beside_a_flood() -> None:
    """It is never refused, and waits for a place only, not behind the others."""
    rate = capacity(0.03)
    server = Server(0.03, seed=2)
    server.warm_up(rate)
    server.flood(5 * rate, 2500, light_every_s=0.5)
    assert server.num_refused.keys() == {"heavy"}
    assert len(server.ttft_s["light"]) > 30
    assert server.p99_s("light") < server.p99_s("heavy") / 3
