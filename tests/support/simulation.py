"""A runner without a model: it keeps, in every slot of every page, a hash of the whole prefix.

Before it "computes" a row it reads the row's context back through the page table and fails if any
slot holds anything but exactly this request's own prefix. So a page shared wrongly, copied too
late or twice, written while somebody else holds it, or freed too early is caught at once, and the
next token, a function of the prefix, tells whether the whole history was right.

It is a device, too: it runs steps in the order in which they were launched, from what was staged at
their launch, and takes tokens that the host does not know yet from the samples of the steps before.
How far it lags behind the host is its ``Pace``. Samples are revealed by ``wait`` alone.

With host slots it performs moves between these and its pages: stores, then loads, before the
copies. What a step that fails was to load is lost; so is whatever is computed from that, and a row
that does samples a token that no oracle knows.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from radixserve.cache.prefix_cache import PageCopy, PrefixCache
from radixserve.ids import Namespace, PageArray, RequestId
from radixserve.request import Request
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.tiers.costs import Costs
from radixserve.tiers.moves import Moves
from radixserve.tiers.page_names import PageKey, PageNamer
from radixserve.tiers.tiers import Tiers
from radixserve.types import CacheReport, EngineRequest, SampledToken, TokenDelta
from tests.cache.failing_pool import FailingPool
from tests.support.slow_disk import SlowDisk

VOCAB_SIZE = 50
_MASK = (1 << 61) - 1
_JUNK = -2
_LOST = -3
LOST_TOKEN = VOCAB_SIZE + 1
"""What a row says that goes on from keys which were never loaded."""


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
    moves: Moves
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
        host: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """``host``: int64[num_slots, page_size], the host tier's memory."""
        self.max_in_flight = max_in_flight
        self.host = np.empty((0, page_size), dtype=np.int64) if host is None else host
        self.num_loaded_pages = 0
        self.num_stored_pages = 0
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
        assert not plan.is_empty, "an empty plan is not launched"
        fault, self.next_fault = self.next_fault, Fault.NONE
        rows = [self._stage(row) for row in plan.rows]
        self._check_loads(plan)
        step = SimulatedStep(self, len(self.plans), rows, plan.copies, plan.moves, fault)
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

    def _check_loads(self, plan: StepPlan) -> None:
        size = self.content.shape[1]
        pages: list[int] = []
        for load in plan.loads:
            lease = load.request.lease
            assert lease is not None
            assert load.start % size == load.num_tokens % size == 0, "no whole pages"
            assert load.request.num_launched_tokens == load.start + load.num_tokens
            assert load.start // size >= lease.num_shared_pages, "a load into a page of the tree"
            first = load.start // size
            own = lease.page_table[first : first + load.num_tokens // size]
            assert len(own) * size == load.num_tokens, "no page for a planned load"
            pages += own.tolist()
        assert pages == [load.page for load in plan.moves.loads]
        assert not {row.request for row in plan.rows} & {load.request for load in plan.loads}
        sources = {load.slot for load in plan.moves.loads}
        targets = [store.slot for store in plan.moves.stores]
        assert not sources & set(targets), "a slot is source and target in one step"
        assert len(set(targets)) == len(targets), "two stores into one slot"
        assert len(set(pages)) == len(pages), "two loads into one page"

    def _move(self, moves: Moves, *, is_lost: bool) -> None:
        for store in moves.stores:
            self.host[store.slot] = _JUNK if is_lost else self.content[store.page]
        for load in moves.loads:
            self.content[load.page] = _LOST if is_lost else self.host[load.slot]
        self.num_stored_pages += len(moves.stores)
        self.num_loaded_pages += len(moves.loads)

    def _run(self, step: SimulatedStep) -> None:
        step.has_run = True
        sources = {copy.source for copy in step.copies}
        targets = [copy.target for copy in step.copies]
        assert not sources & set(targets), "a page is source and target in one step"
        assert len(set(targets)) == len(targets), "two copies into one page"
        is_lost = step.fault in (Fault.LAUNCH, Fault.WAIT)
        if is_lost:
            # Who is going to compute all of it again is not spoiled for good.
            self._spoiled.update(row.request for row in step.rows if not self._is_void(row))
        self._move(step.moves, is_lost=is_lost)
        for copy in step.copies:
            self.content[copy.target] = _JUNK if is_lost else self.content[copy.source]
        writers: dict[int, Request] = {}
        has_broken_logits = step.fault is Fault.LOGITS
        for row in step.rows:
            current, counts_on_lost = self._run_row(row, writers)
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
                    SampledToken(
                        LOST_TOKEN if counts_on_lost else next_token(current, seed + choice)
                    )
                    for choice in range(row.num_samples)
                )
            if len(samples) == 1:
                token = samples[0].token_id if samples[0] is not None else 1
                self._samples.setdefault(row.request, {})[row.end] = token
            step.sampled.append(samples)

    def _is_void(self, row: _Row) -> bool:
        """Whether anything that a row is to go on from was lost."""
        size = self.content.shape[1]
        context = (self.content[row.table[i // size], i % size] for i in range(row.start))
        return any(content == _LOST for content in context)

    def _run_row(self, row: _Row, writers: dict[int, Request]) -> tuple[int, bool]:
        """Read a row's context back, write its own slots; the hash of everything up to its end, and
        whether any of it was lost."""
        request = row.request
        size = self.content.shape[1]
        sampled = self._samples.get(request, {})
        tokens = row.known[: row.end]
        tokens += [sampled[position] for position in range(len(tokens), row.end)]
        current = prefix_hash(request.namespace, [])
        is_lost = False
        for position, token in enumerate(tokens):
            current = extend_hash(current, token)
            page, offset = int(row.table[position // size]), position % size
            if position >= row.start:
                assert writers.setdefault(page, request) is request, "two rows write into one page"
                self.content[page, offset] = _JUNK if request in self._spoiled else current
                if is_lost:
                    self.content[page, offset] = _LOST
            elif self.content[page, offset] == _LOST:
                is_lost = True
            elif request not in self._spoiled and not is_lost:
                assert self.content[page, offset] == current, (
                    f"{request}: position {position} holds somebody else's keys"
                )
        return current, is_lost


class Simulation:
    """A scheduler, its cache and a simulated runner, and everything they have said.

    With ``num_slots`` there is a host tier, and with ``has_disk`` a disk below, whose jobs end when
    a test says so, and one whenever nothing else can go on. ``files``: what another one has left.
    """

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
        num_slots: int = 0,
        has_disk: bool = False,
        files: dict[PageKey, npt.NDArray[np.uint8]] | None = None,
    ) -> None:
        self.pool = FailingPool(num_pages)
        self.cache = PrefixCache(num_pages, page_size, pool=self.pool)
        buffer = np.zeros((num_slots, 8 * page_size), dtype=np.uint8)
        self.disk = SlowDisk(buffer, files) if has_disk else None
        self.tiers: Tiers | None = None
        if num_slots:
            self.tiers = Tiers(
                PageNamer(b"simulated", page_size),
                buffer,
                self.cache.public_prefixes,
                Costs(page_size),
                self.disk,
            )
        self.runner = SimulatedRunner(
            num_pages,
            page_size,
            max_in_flight=max_in_flight,
            pace=pace,
            host=buffer.view(np.int64),
        )
        self.scheduler = Scheduler(
            self.cache,
            max_batch_tokens=max_batch_tokens,
            max_running=max_running,
            enable_prefix_cache=enable_prefix_cache,
            max_overtakes=max_overtakes,
            tiers=self.tiers,
        )
        self.in_flight: deque[tuple[StepPlan, SimulatedStep]] = deque()
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], TokenDelta] = {}
        self.found: dict[str, CacheReport] = {}
        """By request, with its first delta."""
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

    def step(
        self,
        *,
        max_chunk_tokens: int | None = None,
        max_moved_pages: int | None = None,
        check: bool = True,
    ) -> StepPlan:
        """Plan and launch a step; then, if no more may be in flight or nothing could be planned,
        take in the oldest. Returns the plan."""
        if self._is_full():
            self.land(check=check)
        plan = self.launch(
            max_chunk_tokens=max_chunk_tokens, max_moved_pages=max_moved_pages, check=check
        )
        if self._is_full() or (self.in_flight and plan.is_empty):
            self.land(check=check)
        elif plan.is_empty and self.scheduler.has_work:
            assert self.disk is not None
            self.disk.end_one()
        return plan

    def launch(
        self,
        *,
        max_chunk_tokens: int | None = None,
        max_moved_pages: int | None = None,
        check: bool = True,
    ) -> StepPlan:
        assert not self._is_full(), "wait first"
        is_to_fail = self.pool.fails
        plan = self.scheduler.schedule(
            max_chunk_tokens=max_chunk_tokens, max_moved_pages=max_moved_pages
        )
        may_be_empty = (
            self.in_flight
            or not self.scheduler.has_work
            or self._is_disk_busy()
            or (is_to_fail and not self.pool.fails)
        )
        assert may_be_empty or not plan.is_empty, "nobody gets on"
        self._check(check)
        for row in plan.rows:
            name = str(row.request.request_id)
            if name not in self.admitted:
                self.admitted.append(name)
        if not plan.is_empty:
            try:
                self.in_flight.append((plan, self.runner.launch(plan)))
            except DeviceError as error:
                while self.in_flight:
                    self.land(check=check)
                self.take(self.scheduler.fail(plan, str(error)))
                self._check(check)
        return plan

    def _is_disk_busy(self) -> bool:
        return self.disk is not None and bool(self.disk.under_way)

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
            if delta.cache_report is not None:
                assert delta.cache_report.matched_tokens == delta.num_cached_tokens
                self.found[key[0]] = delta.cache_report
            if delta.finish_reason is not None:
                self.ends[key] = delta

    def run(self, *, max_steps: int = 10_000, check: bool = True) -> None:
        """Step until nothing is left to do."""
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step(check=check)
        raise AssertionError(f"still not done after {max_steps} steps")

    def rest(self) -> None:
        """Let an idle engine do what is left to be done below."""
        assert not self.scheduler.has_work
        for _ in range(1000):
            while self.disk is not None and self.disk.end_one():
                pass
            plan = self.launch()
            if plan.is_empty and not self._is_disk_busy():
                return
            if self.in_flight:
                self.land()
        raise AssertionError("the tiers do not come to rest")

    def assert_no_leaks(self) -> None:
        assert not self.scheduler.has_work
        assert not self.in_flight
        info = self.cache.info()
        assert info.in_use_pages == 0
        if self.tiers is not None:
            self.rest()
            below = self.tiers.info()
            assert below.host_in_use_pages == 0
            assert below.host_free_pages + below.host_cached_pages == below.host_total_pages
        assert info.free_pages + info.cached_pages == info.total_pages
        self.scheduler.check_invariants()


def written(prompts: list[list[int]], page_size: int) -> dict[PageKey, npt.NDArray[np.uint8]]:
    """The files of an engine that has served these prompts before."""
    sim = Simulation(num_pages=200, page_size=page_size, num_slots=200, has_disk=True)
    for prompt in prompts:
        sim.add(str(prompt), prompt)
    sim.run(check=False)
    sim.rest()
    assert sim.disk is not None
    assert len(sim.disk.files) >= len(prompts[0]) // page_size
    return sim.disk.files
