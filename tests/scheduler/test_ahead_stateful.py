"""Planning ahead, driven by hypothesis: launches, results, ends and failures in every order.

The rules are what an engine's host can do at any moment. After each of them the scheduler's numbers
agree with the steps in flight, the cache's with the leases, and the tiers' with their slots; in the
end every answer is the oracle's, or the beginning of it where the request was aborted or its step
failed. The disk below ends its jobs in any order, if at all, and some of them fail.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from radixserve.cascade import CascadeCosts
from radixserve.ids import RequestId
from radixserve.tiers.page_names import PageKey
from tests.support.simulation import Fault, Pace, Simulation, oracle, written

LONGEST = 24
STEMS = [[1, 2, 3, 1, 2, 1, 3, 3, 2, 1, 2, 2], [1, 2, 3, 1, 1, 1, 2, 3, 1, 3, 2, 1]]


@cache
def _files(page_size: int) -> dict[PageKey, npt.NDArray[np.uint8]]:
    return written(STEMS, page_size)


class Ahead(RuleBasedStateMachine):
    @initialize(
        depth=st.sampled_from([2, 2, 3]),
        pace=st.sampled_from(Pace),
        page_size=st.sampled_from([1, 2, 4, 8]),
        spare_pages=st.integers(0, 8),
        max_running=st.integers(1, 5),
        extra_tokens=st.sampled_from([0, 3, 12]),
        enable_prefix_cache=st.sampled_from([True, True, True, False]),
        num_slots=st.sampled_from([0, 1, 4, 6, 30]),
        has_disk=st.sampled_from([True, True, False]),
        has_files=st.booleans(),
        cascade_costs=st.sampled_from([CascadeCosts(0, 0), CascadeCosts(0, 0.5), None]),
    )
    def begin(
        self,
        *,
        depth: int,
        pace: Pace,
        page_size: int,
        spare_pages: int,
        max_running: int,
        extra_tokens: int,
        enable_prefix_cache: bool,
        num_slots: int,
        has_disk: bool,
        has_files: bool,
        cascade_costs: CascadeCosts | None,
    ) -> None:
        num_slots *= enable_prefix_cache
        self.sim = Simulation(
            max_in_flight=depth,
            pace=pace,
            num_pages=-(-LONGEST // page_size) + spare_pages,
            page_size=page_size,
            max_running=max_running,
            max_batch_tokens=max_running + extra_tokens,
            enable_prefix_cache=enable_prefix_cache,
            max_overtakes=1,
            num_slots=num_slots,
            has_disk=has_disk and num_slots > 0,
            files=dict(_files(page_size)) if has_files else None,
            cascade_costs=cascade_costs,
        )
        self.enable_prefix_cache = enable_prefix_cache
        self.wanted: dict[str, tuple[list[int], int, int, frozenset[int]]] = {}

    @rule(
        stem=st.sampled_from(STEMS),
        length=st.integers(1, 12),
        own=st.sampled_from([[], [], [4], [4, 4]]),
        max_tokens=st.integers(1, LONGEST - 14),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        stop_at=st.sampled_from([None, None, 0, 1, 3]),
    )
    def add(
        self,
        *,
        stem: list[int],
        length: int,
        own: list[int],
        max_tokens: int,
        n: int,
        stop_at: int | None,
    ) -> None:
        name = f"r{len(self.wanted)}"
        prompt = stem[:length] + own
        stop = frozenset({0})
        if stop_at is not None:
            whole = oracle(prompt, stop_at + 1, namespace=self._namespace(name), stop=stop)
            stop |= {whole[-1]}
        self.wanted[name] = (prompt, max_tokens, n, stop)
        self.sim.add(name, prompt, max_tokens, n=n, stop_token_ids=tuple(stop - {0}))

    @precondition(lambda self: self.wanted)
    @rule(back=st.integers(0, 4), index=st.sampled_from([None, None, 0, 1]))
    def abort(self, *, back: int, index: int | None) -> None:
        """One of the newest: the others have mostly ended."""
        self.sim.abort(f"r{max(0, len(self.wanted) - 1 - back)}", index, check=False)

    @precondition(lambda self: len(self.sim.in_flight) < self.sim.runner.max_in_flight)
    @rule(
        max_chunk_tokens=st.sampled_from([None, None, 1, 4]),
        max_moved_pages=st.sampled_from([None, 1, 2]),
        fault=st.sampled_from([Fault.NONE] * 12 + [Fault.LAUNCH, Fault.WAIT, Fault.LOGITS]),
        is_refused=st.sampled_from([False] * 7 + [True]),
    )
    def launch(
        self,
        *,
        max_chunk_tokens: int | None,
        max_moved_pages: int | None,
        fault: Fault,
        is_refused: bool,
    ) -> None:
        """``is_refused``: the next allocation of pages fails."""
        self.sim.runner.next_fault = fault
        self.sim.pool.fails = is_refused
        self.sim.launch(
            max_chunk_tokens=max_chunk_tokens, max_moved_pages=max_moved_pages, check=False
        )
        self.sim.runner.next_fault = Fault.NONE
        self.sim.pool.fails = False

    @precondition(lambda self: self.sim.in_flight)
    @rule()
    def land(self) -> None:
        self.sim.land(check=False)

    @rule(num_steps=st.integers(1, 5))
    def steps(self, *, num_steps: int) -> None:
        """As the engine does it: launch, and wait for the oldest once there is no room for more."""
        for _ in range(num_steps):
            if len(self.sim.in_flight) == self.sim.runner.max_in_flight:
                self.sim.land(check=False)
            self.sim.step(check=False)

    @precondition(lambda self: self.sim.disk is not None and self.sim.disk.under_way)
    @rule(which=st.integers(0, 5), fails=st.sampled_from([False, False, False, True]))
    def end_one(self, *, which: int, fails: bool) -> None:
        """The disk has done something, or failed to."""
        assert self.sim.disk is not None
        self.sim.disk.num_failures = int(fails)
        self.sim.disk.end_one(which)

    @rule(num_pages=st.integers(1, 6))
    def evict(self, *, num_pages: int) -> None:
        """Somebody else needs room."""
        self.sim.cache.evict(num_pages)

    @rule(is_below_too=st.booleans())
    def clear(self, *, is_below_too: bool) -> None:
        self.sim.cache.clear()
        if is_below_too and self.sim.tiers is not None:
            self.sim.tiers.clear()

    @invariant()
    def everything_agrees(self) -> None:
        if hasattr(self, "sim"):
            self.sim.scheduler.check_invariants()

    def teardown(self) -> None:
        if not hasattr(self, "sim"):
            return
        if len(self.sim.in_flight) == self.sim.runner.max_in_flight:
            self.sim.land()
        self.sim.run(max_steps=2000, check=False)
        self.sim.assert_no_leaks()
        for name, (prompt, max_tokens, n, stop) in self.wanted.items():
            for index in range(n):
                expected = oracle(
                    prompt, max_tokens, namespace=self._namespace(name), seed=index, stop=stop
                )
                got = self.sim.answers[name, index]
                end = self.sim.ends[name, index]
                assert got == expected[: len(got)]
                if end.finish_reason in ("stop", "length"):
                    assert got == expected
                    assert (end.finish_reason == "stop") == (expected[-1] in stop)
        assert self.sim.scheduler.abort(RequestId("r0")) == []

    def _namespace(self, name: str) -> str:
        return "" if self.enable_prefix_cache else f"private:{name}"


TestAhead = Ahead.TestCase
TestAhead.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
