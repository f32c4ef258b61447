"""A runner without a model: it keeps, in every slot of every page, a hash of the whole prefix.

Before it "computes" a row it reads the row's context back through the page table and fails if any
slot holds anything but exactly this request's own prefix. So a page shared wrongly, copied too
late or twice, written while somebody else holds it, or freed too early is caught at once, and the
next token, a function of the prefix, tells whether the whole history was right.

It is a device, too: it runs steps in the order in which they were launched, from what was staged at
their launch, and takes tokens that the host does not know yet from the samples of the steps before.
How far it lags behind the host is its ``Pace``. Samples are revealed by ``wait`` alone.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from radixserve.cache.prefix_cache import PageCopy, PrefixCache
from radixserve.ids import Namespace, PageArray, RequestId
from radixserve.request import Request
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineRequest, SampledToken, TokenDelta

VOCAB_SIZE = 50
_MASK = (1 << 61) - 1
_JUNK = -2


def extend_hash(prefix_hash: int, token: int) -> int:
    return (prefix_hash * 1_000_003 + token + 1) & _MASK


def prefix_hash(namespace: str, tokens: list[int]) -> int:
    result = sum(namespace.encode()) + 7
    for token in tokens:
        result = extend_hash(result, token)
    return result


def next_token(prefix: int, seed: int) -> int:
    """What the simulated model says after a prefix; never the end-of-sequence token 0 by itself."""
    return 1 + (prefix ^ (seed * 0x9E3779B97F4A7C15)) % (VOCAB_SIZE - 1)


def oracle(
    prompt: list[int], count: int, *, namespace: str = "", seed: int = 0, stop: frozenset[int]
) -> list[int]:
    """The answer of an engine that has no cache, no batch and no bounds."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(prefix_hash(namespace, tokens), seed))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


class Pace(Enum):
    """When the device runs what was launched."""

    AT_LAUNCH = "faster than the host"
    AT_WAIT = "not before the host waits for it"
    RANDOM = "now so, now so"


class Fault(Enum):
    """What goes wrong with a step."""

    NONE = "nothing"
    LAUNCH = "launching raises, with part of the work queued"
    WAIT = "it is launched, and waiting for it raises"
    LOGITS = "its first row that samples has logits that are not numbers"


class DeviceError(Exception):
    """The device has failed, as it was told to."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What a launch stages of a row: nothing that changes later is looked at again."""

    request: Request
    table: PageArray
    known: list[int]
    start: int
    end: int
    num_samples: int
    is_to_fork: bool


@dataclass(slots=True, eq=False)
class SimulatedStep:
    """A step under way."""

    runner: "SimulatedRunner"
    ordinal: int
    rows: list[_Row]
    copies: tuple[PageCopy, ...]
    fault: Fault
    sampled: list[tuple[SampledToken | None, ...]] = field(default_factory=list)
    has_run: bool = False

    def wait(self) -> StepResult:
        self.runner.events.append(("wait", self.ordinal))
        self.runner.advance_to(self)
        if self.fault is Fault.WAIT:
            raise DeviceError("the step is lost")
        return StepResult(tuple(self.sampled))


class SimulatedRunner:
    """Executes plans on an array of prefix hashes. Raises AssertionError on any wrong content."""

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        *,
        max_in_flight: int = 1,
        pace: Pace = Pace.AT_LAUNCH,
        seed: int = 0,
    ) -> None:
        self.max_in_flight = max_in_flight
        self.content = np.full((num_pages, page_size), -1, dtype=np.int64)
        self.num_computed_tokens = 0
        self.plans: list[StepPlan] = []
        self.events: list[tuple[str, int]] = []
        """("launch" or "wait", ordinal of the step), in the host's order."""
        self.next_fault = Fault.NONE
        self._pace = pace
        self._rng = random.Random(seed)
        self._queue: deque[SimulatedStep] = deque()
        self._samples: dict[Request, dict[int, int]] = {}
        """The device's own record: what it sampled for which position."""
        self._spoiled: set[Request] = set()
        """Whose keys and values a faulty step has left in an unknown state."""

    def run(self, plan: StepPlan) -> StepResult:
        return self.launch(plan).wait()

    def launch(self, plan: StepPlan) -> SimulatedStep:
        assert plan.rows, "an empty plan is not launched"
        fault, self.next_fault = self.next_fault, Fault.NONE
        rows = [self._stage(row) for row in plan.rows]
        step = SimulatedStep(self, len(self.plans), rows, plan.copies, fault)
        self._queue.append(step)
        if fault is Fault.LAUNCH:
            raise DeviceError("the step cannot be launched")
        self.plans.append(plan)
        self.events.append(("launch", step.ordinal))
        if self._pace is not Pace.AT_WAIT:
            num_run = len(self._queue)
            if self._pace is Pace.RANDOM:
                num_run = self._rng.randint(0, num_run)
            for _ in range(num_run):
                self._run(self._queue.popleft())
        return step

    def advance_to(self, step: SimulatedStep) -> None:
        while not step.has_run:
            self._run(self._queue.popleft())

    def _stage(self, row: PlannedRow) -> _Row:
        request = row.request
        lease = request.lease
        assert lease is not None
        end = row.start + row.num_scheduled_tokens
        size = self.content.shape[1]
        assert request.num_launched_tokens == end
        assert lease.num_pages * size >= end, "no page for a planned token"
        assert row.start // size >= lease.num_shared_pages, "a row writes into a page of the tree"
        assert end - request.num_tokens < self.max_in_flight, "a token that nobody can know"
        assert end <= request.num_tokens or row.num_scheduled_tokens == 1
        return _Row(
            request,
            lease.page_table.copy(),
            request.token_ids.tolist(),
            row.start,
            end,
            row.num_samples,
            request.is_to_fork,
        )

    def _run(self, step: SimulatedStep) -> None:
        step.has_run = True
        sources = {copy.source for copy in step.copies}
        targets = [copy.target for copy in step.copies]
        assert not sources & set(targets), "a page is source and target in one step"
        assert len(set(targets)) == len(targets), "two copies into one page"
        is_lost = step.fault in (Fault.LAUNCH, Fault.WAIT)
        if is_lost:
            self._spoiled.update(row.request for row in step.rows)
        for copy in step.copies:
            self.content[copy.target] = _JUNK if is_lost else self.content[copy.source]
        writers: dict[int, Request] = {}
        has_broken_logits = step.fault is Fault.LOGITS
        for row in step.rows:
            current = self._run_row(row, writers)
            self.num_computed_tokens += row.end - row.start
            samples: tuple[SampledToken | None, ...] = ()
            if row.num_samples and has_broken_logits:
                has_broken_logits = False
                self._spoiled.add(row.request)
                samples = (None,) * row.num_samples
            elif row.num_samples:
                first = 0 if row.is_to_fork else row.request.index
                seed = (row.request.params.seed or 0) + first
                samples = tuple(
                    SampledToken(next_token(current, seed + choice))
                    for choice in range(row.num_samples)
                )
            if len(samples) == 1:
                token = samples[0].token_id if samples[0] is not None else 1
                self._samples.setdefault(row.request, {})[row.end] = token
            step.sampled.append(samples)

    def _run_row(self, row: _Row, writers: dict[int, Request]) -> int:
        """Read a row's context back, write its own slots; the hash of everything up to its end."""
        request = row.request
        size = self.content.shape[1]
        sampled = self._samples.get(request, {})
        tokens = row.known[: row.end]
        tokens += [sampled[position] for position in range(len(tokens), row.end)]
        current = prefix_hash(request.namespace, [])
        for position, token in enumerate(tokens):
            current = extend_hash(current, token)
            page, offset = int(row.table[position // size]), position % size
            if position >= row.start:
                assert writers.setdefault(page, request) is request, "two rows write into one page"
                self.content[page, offset] = _JUNK if request in self._spoiled else current
            elif request not in self._spoiled:
                assert self.content[page, offset] == current, (
                    f"{request}: position {position} holds somebody else's keys"
                )
        return current


class Simulation:
    """A scheduler, its cache and a simulated runner, and everything they have said."""

    def __init__(
        self,
        *,
        num_pages: int = 64,
        page_size: int = 4,
        max_batch_tokens: int = 64,
        max_running: int = 8,
        enable_prefix_cache: bool = True,
        max_overtakes: int = 64,
        max_in_flight: int = 1,
        pace: Pace = Pace.AT_LAUNCH,
    ) -> None:
        self.cache = PrefixCache(num_pages, page_size)
        self.runner = SimulatedRunner(num_pages, page_size, max_in_flight=max_in_flight, pace=pace)
        self.scheduler = Scheduler(
            self.cache,
            max_batch_tokens=max_batch_tokens,
            max_running=max_running,
            enable_prefix_cache=enable_prefix_cache,
            max_overtakes=max_overtakes,
        )
        self.in_flight: deque[tuple[StepPlan, SimulatedStep]] = deque()
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], TokenDelta] = {}
        self.admitted: list[str] = []

    def add(
        self,
        name: str,
        prompt: list[int],
        max_tokens: int = 4,
        *,
        n: int = 1,
        seed: int = 0,
        namespace: str = "",
        stop_token_ids: tuple[int, ...] = (),
        tenant: str = "",
        priority: int = 0,
    ) -> None:
        self.scheduler.add(
            EngineRequest(
                request_id=RequestId(name),
                prompt_ids=prompt,
                params=SamplingParams(
                    n=n, seed=seed, max_tokens=max_tokens, stop_token_ids=stop_token_ids
                ),
                end_token_ids=[0, *stop_token_ids],
                namespace=Namespace(namespace),
                tenant=tenant,
                priority=priority,
            )
        )

    def abort(self, name: str, index: int | None = None, *, check: bool = True) -> None:
        self.take(self.scheduler.abort(RequestId(name), index))
        self._check(check)

    def step(self, *, max_chunk_tokens: int | None = None, check: bool = True) -> StepPlan:
        """Plan and launch a step; then, if no more may be in flight or nothing could be planned,
        take in the oldest. Returns the plan."""
        if self._is_full():
            self.land(check=check)
        plan = self.launch(max_chunk_tokens=max_chunk_tokens, check=check)
        if self._is_full() or (self.in_flight and not plan.rows):
            self.land(check=check)
        return plan

    def launch(self, *, max_chunk_tokens: int | None = None, check: bool = True) -> StepPlan:
        assert not self._is_full(), "wait first"
        plan = self.scheduler.schedule(max_chunk_tokens=max_chunk_tokens)
        assert plan.rows or self.in_flight or not self.scheduler.has_work, "nobody gets on"
        self._check(check)
        for row in plan.rows:
            name = str(row.request.request_id)
            if name not in self.admitted:
                self.admitted.append(name)
        if plan.rows:
            try:
                self.in_flight.append((plan, self.runner.launch(plan)))
            except DeviceError as error:
                while self.in_flight:
                    self.land(check=check)
                self.take(self.scheduler.fail(plan, str(error)))
                self._check(check)
        return plan

    def _is_full(self) -> bool:
        return len(self.in_flight) >= self.runner.max_in_flight

    def land(self, *, check: bool = True) -> None:
        """Wait for the oldest step in flight."""
        plan, step = self.in_flight.popleft()
        try:
            self.take(self.scheduler.update(plan, step.wait()))
        except DeviceError as error:
            self.take(self.scheduler.fail(plan, str(error)))
        self._check(check)

    def _check(self, check: bool) -> None:
        if check:
            self.scheduler.check_invariants()

    def take(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            key = (str(delta.request_id), delta.index)
            assert key not in self.ends, "a choice went on after its end"
            self.answers.setdefault(key, []).extend(delta.token_ids)
            if delta.finish_reason is not None:
                self.ends[key] = delta

    def run(self, *, max_steps: int = 10_000, check: bool = True) -> None:
        """Step until nothing is left to do."""
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step(check=check)
        raise AssertionError(f"still not done after {max_steps} steps")

    def assert_no_leaks(self) -> None:
        assert not self.scheduler.has_work
        assert not self.in_flight
        info = self.cache.info()
        assert info.in_use_pages == 0
        assert info.free_pages + info.cached_pages == info.total_pages
        self.scheduler.check_invariants()
