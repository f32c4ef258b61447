"""What rows share, against their page tables; and that nothing is looked at twice."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from radixserve.cache.prefix_cache import Lease, PrefixCache
from radixserve.cascade import NO_CASCADE, Cascade, CascadeCosts, Level
from radixserve.ids import Namespace
from radixserve.scheduler.cascade_planner import ArrangedRows, CascadePlanner
from radixserve.scheduler.plan import PlannedRow
from tests.scheduler.requests import make_request
from tests.support.simulation import Simulation, oracle

FREE = CascadeCosts(0, 0)
"""Everything that is shared is a level."""
P = 4
A = [1] * 8
B = [2] * 8


def start(
    cache: PrefixCache, tokens: list[int], *, num_new: int = 1, namespace: str = ""
) -> PlannedRow:
    """A request that has computed and committed all its tokens but the last ``num_new``."""
    request = make_request(0, tokens, namespace=namespace)
    computed = request.token_ids[: len(tokens) - num_new]
    lease = request.lease = cache.acquire(Namespace(namespace), computed)
    cache.reserve(lease, len(tokens))
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    cache.commit(lease, computed)
    return PlannedRow(request, len(computed), num_new, num_samples=1)


def lease_of(row: PlannedRow) -> Lease:
    assert row.request.lease is not None
    return row.request.lease


def release(cache: PrefixCache, row: PlannedRow) -> None:
    cache.release(lease_of(row), row.request.token_ids[: row.start])
    row.request.lease = None


def check(arranged: ArrangedRows, rows: list[PlannedRow], *, is_new: bool) -> None:
    """What ``radixserve/cascade.py`` promises; and, with levels for free, that none is missed."""
    assert sorted(map(id, arranged.rows)) == sorted(map(id, rows))
    tables = [lease_of(row).page_table for row in arranged.rows]
    inner: list[list[Level]] = [[] for _ in rows]
    for level in arranged.cascade.levels:
        inside = range(level.first_row, level.end_row)
        assert len(inside) >= 2
        assert level.first_page < level.end_page
        for row in inside:
            outer = inner[row][-1] if inner[row] else Level(0, len(rows), 0, 0)
            assert outer.first_row <= level.first_row < level.end_row <= outer.end_row
            assert level.first_page == outer.end_page
            pages = tables[row][level.first_page : level.end_page]
            assert (
                pages.tolist()
                == tables[level.first_row][level.first_page : level.end_page].tolist()
            )
            assert level.end_page <= lease_of(arranged.rows[row]).num_shared_pages
            assert level.end_page * P <= arranged.rows[row].start
            inner[row].append(level)
    if is_new:
        for one in range(len(rows)):
            for other in range(one):
                both = set(inner[one]) & set(inner[other])
                shorter = min(map(len, (tables[one], tables[other])))
                differs = np.flatnonzero(tables[one][:shorter] != tables[other][:shorter])
                common = int(differs[0]) if len(differs) else shorter
                assert max((level.end_page for level in both), default=0) == common


class Rows(RuleBasedStateMachine):
    """Requests that come, go on, fork and leave, in a cache that somebody else needs too."""

    @initialize(has_public=st.booleans())
    def begin(self, *, has_public: bool) -> None:
        self.cache = PrefixCache(60, P)
        if has_public:
            self.cache.set_public([np.array([1] * 10, dtype=np.int32)])
        self.planner = CascadePlanner(FREE, P)
        self.rows: list[PlannedRow] = []

    @precondition(lambda self: len(self.rows) < 7 and self.cache.in_use_pages < 30)
    @rule(
        stem=st.sampled_from([[], [1], [1, 1], [1, 2], [2]]),
        length=st.integers(1, 24),
        own=st.lists(st.integers(1, 2), max_size=2),
        num_new=st.sampled_from([1, 1, 3]),
        namespace=st.sampled_from(["", "", "other"]),
    )
    def add(
        self, *, stem: list[int], length: int, own: list[int], num_new: int, namespace: str
    ) -> None:
        tokens = (stem * 24)[: length if stem else 0] + own + [3] * num_new
        self.rows.append(start(self.cache, tokens, num_new=num_new, namespace=namespace))

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 6), count=st.integers(1, 9), token=st.integers(1, 2))
    def go_on(self, *, which: int, count: int, token: int) -> None:
        """Its new tokens have run, and then some more."""
        row = self.rows[which % len(self.rows)]
        for _ in range(count):
            row.request.append(token)
        end = row.request.num_tokens
        self.cache.reserve(lease_of(row), end)
        self.cache.commit(lease_of(row), row.request.token_ids[: end - 1])
        self._replace(row, PlannedRow(row.request, end - 1, 1, num_samples=1))

    @precondition(lambda self: self.rows and len(self.rows) < 7 and self.cache.in_use_pages < 40)
    @rule(which=st.integers(0, 6))
    def fork(self, *, which: int) -> None:
        row = self.rows[which % len(self.rows)]
        request = make_request(0, row.request.token_ids.tolist(), namespace=row.request.namespace)
        request.lease = self.cache.fork(lease_of(row), request.token_ids[: row.start])
        self.cache.reserve(request.lease, request.num_tokens)
        if request.lease.pending_copy is not None:
            self.cache.finish_copy(request.lease)
        self.rows.append(PlannedRow(request, row.start, row.num_scheduled_tokens, num_samples=1))

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 6), comes_back=st.booleans(), num_evicted=st.integers(0, 30))
    def leave(self, *, which: int, comes_back: bool, num_evicted: int) -> None:
        """It ends, or is preempted and comes back in its old place."""
        row = self.rows[which % len(self.rows)]
        release(self.cache, row)
        self.cache.evict(num_evicted)
        if comes_back:
            tokens = row.request.token_ids.tolist()
            namespace = row.request.namespace
            self._replace(row, start(self.cache, tokens, namespace=namespace))
        else:
            self.rows.remove(row)

    @rule(namespace=st.sampled_from([None, ""]))
    def clear(self, *, namespace: str | None) -> None:
        self.cache.clear(None if namespace is None else Namespace(namespace))

    def _replace(self, old: PlannedRow, new: PlannedRow) -> None:
        self.rows[self.rows.index(old)] = new

    @invariant()
    def is_right(self) -> None:
        if hasattr(self, "rows"):
            arranged = self.planner.arrange(self.rows)
            check(arranged, self.rows, is_new=False)
            check(CascadePlanner(FREE, P).arrange(self.rows), self.rows, is_new=True)
            self.cache.check_invariants([lease_of(row) for row in self.rows])

    def teardown(self) -> None:
        for row in getattr(self, "rows", []):
            release(self.cache, row)


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


def test_levels_nest_as_the_tree_does() -> None:
    cache = PrefixCache(64, P)
    rows = [
        start(cache, [*A, *B, 10, 9]),
        start(cache, [*A, 11, 9]),
        start(cache, [*A, *B, 12, 9]),
        start(cache, [12, 9]),
        start(cache, [*A, *B, 13, 8, 8, 8, 8], num_new=4),
    ]
    arranged = CascadePlanner(FREE, P).arrange(rows)
    assert arranged.rows == tuple(rows[index] for index in (3, 1, 0, 2, 4))
    assert arranged.cascade == Cascade((Level(1, 5, 0, 2), Level(2, 5, 2, 4)))


def test_groups_keep_their_order_inside_another() -> None:
    cache = PrefixCache(64, P)
    rows = [start(cache, [*A, *[10 + number % 3] * 4, number, 9]) for number in range(6)]
    arranged = CascadePlanner(FREE, P).arrange(rows)
    assert arranged.rows == tuple(rows[index] for index in (0, 3, 1, 4, 2, 5))
    assert arranged.cascade == Cascade(
        (Level(0, 6, 0, 2), Level(0, 2, 2, 3), Level(2, 4, 2, 3), Level(4, 6, 2, 3))
    )


def test_whole_pages_only() -> None:
    cache = PrefixCache(64, P)
    # They part inside the second page, which one copies from the other.
    rows = [start(cache, [*A[:6], own, 9, 9]) for own in (2, 3)]
    assert CascadePlanner(FREE, P).arrange(rows).cascade == Cascade((Level(0, 2, 0, 1),))
    # And these inside the first.
    rows = [start(cache, [5, 5, own, 9, 9]) for own in (2, 3)]
    assert CascadePlanner(FREE, P).arrange(rows).cascade is NO_CASCADE


def test_what_is_public_is_shared_by_namespaces_and_nothing_else_is() -> None:
    cache = PrefixCache(64, P)
    cache.set_public([np.array(A, dtype=np.int32)])
    rows = [start(cache, [*A, *B, 9], namespace=name) for name in ("one", "other")]
    assert CascadePlanner(FREE, P).arrange(rows).cascade == Cascade((Level(0, 2, 0, 2),))


def test_rows_that_share_nothing_worth_it_keep_their_order() -> None:
    cache = PrefixCache(64, P)
    rows = [start(cache, [*(A, B)[number % 2], number, 9]) for number in range(6)]
    # Three rows each behind eight keys: sixteen reads to be spared.
    for costs in (CascadeCosts(16, 0), CascadeCosts(1, 5)):
        arranged = CascadePlanner(costs, P).arrange(rows)
        assert arranged.rows == tuple(rows)
        assert arranged.cascade is NO_CASCADE
    arranged = CascadePlanner(CascadeCosts(0.5, 5), P).arrange(rows)
    assert arranged.rows == tuple(rows[index] for index in (0, 2, 4, 1, 3, 5))
    assert arranged.cascade == Cascade((Level(0, 3, 0, 2), Level(3, 6, 0, 2)))


def test_nothing_is_planned_again_while_the_same_rows_run() -> None:
    cache = PrefixCache(64, P)
    rows = [start(cache, [*A, own, 9]) for own in range(3)]
    planner = CascadePlanner(FREE, P)
    first = planner.arrange(rows)
    assert planner.arrange(rows).cascade is first.cascade
    # Every second step without one of them, as when its next token is awaited.
    second = planner.arrange(rows[:2])
    assert second.cascade == Cascade((Level(0, 2, 0, 2),))
    assert planner.arrange(rows).cascade is first.cascade
    assert planner.arrange(rows[:2]).cascade is second.cascade
    # A step further on: other rows of the same requests.
    later = [PlannedRow(row.request, row.start + 1, 1, num_samples=1) for row in rows]
    arranged = planner.arrange(later)
    assert arranged.cascade is first.cascade
    assert arranged.rows == tuple(later)


def test_a_chunk_where_there_was_a_token_is_looked_at_again() -> None:
    cache = PrefixCache(64, P)
    rows = [start(cache, [*A, own, 9]) for own in range(3)]
    # Sixteen reads to be spared, and three partial results to be merged.
    planner = CascadePlanner(CascadeCosts(0, 4), P)
    level = Cascade((Level(0, 3, 0, 2),))
    assert planner.arrange(rows).cascade == level
    chunk = PlannedRow(rows[0].request, rows[0].start, 2, num_samples=1)
    assert planner.arrange([chunk, *rows[1:]]).cascade is NO_CASCADE
    assert planner.arrange(rows).cascade == level


def test_a_chunk_does_not_keep_others_from_what_they_share() -> None:
    cache = PrefixCache(64, P)
    rows = [start(cache, [*A, *B, own, 9]) for own in range(5)]
    chunk = start(cache, [*A, *B, 5, *[9] * 40], num_new=40)
    # 64 reads of five rows to be spared, and 16 of the chunk, which has 40 partial results.
    arranged = CascadePlanner(CascadeCosts(10, 2), P).arrange([*rows[:2], chunk, *rows[2:]])
    assert arranged.rows == (chunk, *rows)
    assert arranged.cascade == Cascade((Level(1, 6, 0, 4),))
    # Where tokens cost next to nothing it reads along.
    arranged = CascadePlanner(CascadeCosts(10, 0.25), P).arrange([chunk, *rows])
    assert arranged.cascade == Cascade((Level(0, 6, 0, 4),))


def test_nodes_that_were_cut_meanwhile_are_not_taken_for_what_they_were() -> None:
    cache = PrefixCache(64, P)
    planner = CascadePlanner(FREE, P)
    rows = [start(cache, [*A, *B, own, 9]) for own in (10, 11)]
    assert planner.arrange(rows).cascade == Cascade((Level(0, 2, 0, 4),))
    node = lease_of(rows[0]).node
    for row in rows:
        release(cache, row)
    cache.evict(cache.cached_pages - 2)
    # Others in the same places, on a node that was four pages long.
    rows = [start(cache, [*A, own, 9]) for own in (10, 11)]
    assert {lease_of(row).node for row in rows} == {node}
    assert planner.arrange(rows).cascade == Cascade((Level(0, 2, 0, 2),))


def test_what_has_ended_is_forgotten_when_nobody_runs() -> None:
    cache = PrefixCache(64, P)
    planner = CascadePlanner(FREE, P)
    rows = [start(cache, [*A, own, 9]) for own in range(2)]
    assert planner.arrange(rows).cascade.levels
    assert planner.arrange(rows[:1]) == (tuple(rows[:1]), NO_CASCADE)
    assert not planner._remembered


@settings(max_examples=20)
@given(seeds=st.lists(st.integers(0, 3), min_size=3, max_size=6), n=st.integers(1, 3))
def test_plans_of_a_scheduler_are_in_tree_order(seeds: list[int], n: int) -> None:
    sim = Simulation(page_size=P, max_running=16, cascade_costs=FREE)
    stem = [1, 2, 3, 4] * 4
    for index, seed in enumerate(seeds):
        sim.add(f"r{index}", [*stem[: 8 + 4 * (seed % 3)], 5 + seed], max_tokens=9, n=n)
    sim.run()
    for index, seed in enumerate(seeds):
        prompt = [*stem[: 8 + 4 * (seed % 3)], 5 + seed]
        for choice in range(n):
            expected = oracle(prompt, 9, seed=choice, stop=frozenset({0}))
            assert sim.answers[f"r{index}", choice] == expected
    assert sim.runner.num_levels > 0
    # While the same requests decode it is the same cascade.
    cascades = [plan.cascade for plan in sim.runner.plans if plan.cascade.levels]
    assert len({id(cascade) for cascade in cascades}) < len(cascades)
    sim.assert_no_leaks()


def test_without_costs_nothing_is_looked_for() -> None:
    sim = Simulation(page_size=P)
    for index in range(3):
        sim.add(f"r{index}", [*A, index])
    sim.run()
    assert {plan.cascade for plan in sim.runner.plans} == {NO_CASCADE}
