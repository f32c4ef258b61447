"""A runner without a model: it keeps, in every slot of every page, a hash of the whole prefix.

Before it "computes" a row it reads the row's context back through the page table and fails if any
slot holds anything but exactly this request's own prefix. So a page shared wrongly, copied too
late or twice, written while somebody else holds it, or freed too early is caught at once, and the
next token, a function of the prefix, tells whether the whole history was right.

It is a device, too: it runs steps in the order in which they were launched, from what was staged at
their launch, and takes tokens that the host does not know yet from the samples of the steps before.
How far it lags behind the host is its ``Pace``. Samples are revealed by ``wait`` alone.

What a plan says its rows share (``StepPlan.cascade``) is checked where it is launched: the pages
are the same ones in all of the rows, none is written in this step, and the levels nest as
``radixserve/cascade.py`` promises. That their keys were computed before is seen as for any context.

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

from radixserve.cache.prefix_cache import PageCopy
from radixserve.ids import PageArray
from radixserve.request import Request
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.tiers.moves import Moves
from radixserve.types import SampledToken

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
        self.num_levels = 0
        """Of all cascades launched."""
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
        self._check_cascade(plan, rows)
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

    def _check_cascade(self, plan: StepPlan, rows: list[_Row]) -> None:
        size = self.content.shape[1]
        written = {page for row in rows for page in row.table[row.start // size :].tolist()}
        written |= {load.page for load in plan.moves.loads} | {copy.target for copy in plan.copies}
        # Where the levels seen so far end, by row: in pages, and in rows.
        ends = [0] * len(rows)
        around = [len(rows)] * len(rows)
        for level in plan.cascade.levels:
            assert 0 <= level.first_row < level.end_row - 1 < len(rows), level
            assert level.first_page < level.end_page, level
            inside = range(level.first_row, level.end_row)
            assert {ends[row] for row in inside} == {level.first_page}, "levels that do not adjoin"
            assert {around[row] >= level.end_row for row in inside} == {True}, "levels that cross"
            pages = rows[level.first_row].table[level.first_page : level.end_page].tolist()
            assert len(pages) == level.end_page - level.first_page, "a level beyond the tables"
            assert not written.intersection(pages), "a level of pages that the step writes"
            for row in inside:
                own = rows[row].table[level.first_page : level.end_page].tolist()
                assert own == pages, f"{level} has other pages in row {row}"
                assert level.end_page * size <= rows[row].start, "a level with tokens of the step"
                ends[row], around[row] = level.end_page, level.end_row
        self.num_levels += len(plan.cascade.levels)

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
