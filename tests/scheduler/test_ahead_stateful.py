"""Planning ahead, driven by hypothesis: launches, results, ends and failures in every order.

The rules are what an engine's host can do at any moment. After each of them the scheduler's numbers
agree with the steps in flight and the cache's with the leases; in the end every answer is the
oracle's, or the beginning of it where the request was aborted or its step failed.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from radixserve.ids import RequestId
from tests.support.simulation import Fault, Pace, Simulation, oracle

LONGEST = 24
STEMS = [[1, 2, 3, 1, 2, 1, 3, 3, 2, 1, 2, 2], [1, 2, 3, 1, 1, 1, 2, 3, 1, 3, 2, 1]]


class Ahead(RuleBasedStateMachine):
    @initialize(
        depth=st.sampled_from([2, 2, 3]),
        pace=st.sampled_from(Pace),
        page_size=st.sampled_from([1, 2, 4, 8]),
        spare_pages=st.integers(0, 8),
        max_running=st.integers(1, 5),
        extra_tokens=st.sampled_from([0, 3, 12]),
        enable_prefix_cache=st.sampled_from([True, True, False]),
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
    ) -> None:
        self.sim = Simulation(
            max_in_flight=depth,
            pace=pace,
            num_pages=-(-LONGEST // page_size) + spare_pages,
            page_size=page_size,
            max_running=max_running,
            max_batch_tokens=max_running + extra_tokens,
            enable_prefix_cache=enable_prefix_cache,
            max_overtakes=1,
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
        fault=st.sampled_from([Fault.NONE] * 12 + [Fault.LAUNCH, Fault.WAIT, Fault.LOGITS]),
    )
    def launch(self, *, max_chunk_tokens: int | None, fault: Fault) -> None:
        self.sim.runner.next_fault = fault
        self.sim.launch(max_chunk_tokens=max_chunk_tokens, check=False)
        self.sim.runner.next_fault = Fault.NONE

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

    @rule()
    def clear(self) -> None:
        self.sim.cache.clear()

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
TestAhead.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
