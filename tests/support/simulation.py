"""A scheduler on a simulated device (``simulated_runner.py``), and the answers that it owes."""

from collections import deque

import numpy as np
import numpy.typing as npt

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cascade import CascadeCosts
from radixserve.ids import Namespace, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.plan import StepPlan
from radixserve.scheduler.scheduler import Scheduler
from radixserve.tiers.costs import Costs
from radixserve.tiers.page_names import PageKey, PageNamer
from radixserve.tiers.tiers import Tiers
from radixserve.types import CacheReport, EngineRequest, TokenDelta
from tests.cache.failing_pool import FailingPool
from tests.support.simulated_runner import (
    DeviceError,
    Fault,
    Pace,
    SimulatedRunner,
    SimulatedStep,
    extend_hash,
    next_token,
    oracle,
    prefix_hash,
)
from tests.support.slow_disk import SlowDisk

__all__ = [
    "DeviceError",
    "Fault",
    "Pace",
    "SimulatedRunner",
    "SimulatedStep",
    "Simulation",
    "extend_hash",
    "next_token",
    "oracle",
    "prefix_hash",
    "written",
]


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
        cascade_costs: CascadeCosts | None = None,
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
            cascade_costs=cascade_costs,
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
