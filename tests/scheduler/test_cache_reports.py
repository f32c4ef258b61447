"""What each request is told about its prompt: sources, cause, once, and of its first admission."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cache.prefix_cache import Finding, Lease, PrefixCache, Use
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray
from radixserve.request import Request
from radixserve.scheduler.admission import Admission
from radixserve.types import CacheReport, TokenDelta
from tests.cache.test_cache_explain import held_prefixes
from tests.support import simulation
from tests.support.simulation import Simulation

PROMPT = list(range(1, 11))


class Reporting(Simulation):
    """Keeps the reports by request, and sees that each comes once, first, with choice 0."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.reports: dict[str, CacheReport] = {}

    def take(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            if delta.cache_report is not None:
                name = str(delta.request_id)
                assert name not in self.reports, "told twice"
                assert (name, 0) not in self.answers, "told too late"
                assert delta.index == 0
                self.reports[name] = delta.cache_report
        super().take(deltas)


def report(device: int, in_flight: int, computed: int, cause: Any) -> CacheReport:
    return CacheReport(
        device_tokens=device, in_flight_tokens=in_flight, computed_tokens=computed, cause=cause
    )


def test_the_first_and_the_second_of_the_same(depth: int) -> None:
    sim = Reporting(max_in_flight=depth)
    for name in "ab":
        sim.add(name, PROMPT)
        sim.run()
    assert sim.reports["a"] == report(0, 0, 10, "never_seen")
    assert sim.reports["b"] == report(9, 0, 1, "complete")
    assert sim.reports["b"].matched_tokens == 9
    stats = sim.scheduler.stats()
    assert stats.admissions == {"never_seen": 1, "complete": 1}
    assert (stats.prompt_tokens, stats.cached_tokens, stats.in_flight_tokens) == (20, 9, 0)


def test_who_waits_for_another_is_told_so(depth: int) -> None:
    sim = Reporting(max_in_flight=depth)
    sim.add("before", PROMPT[:4], max_tokens=1)
    sim.run()
    sim.add("producer", PROMPT, max_tokens=20)
    sim.add("waiter", [*PROMPT, 40, 41])
    sim.run()
    assert sim.reports["producer"] == report(4, 0, 6, "never_seen")
    # The producer still runs, and shares full pages; its third one begins otherwise.
    assert sim.reports["waiter"] == report(4, 4, 4, "never_seen")
    assert sim.scheduler.stats().in_flight_tokens == 4


def test_who_waits_for_two_in_turn_counts_from_the_first() -> None:
    sim = Reporting(max_batch_tokens=8)
    sim.add("producer", list(range(1, 30)), max_tokens=20)
    sim.add("longer", [*range(1, 13), *range(30, 45)], max_tokens=20)
    sim.add("waiter", [*range(1, 13), *range(30, 41)])
    sim.run()
    waiter = sim.reports["waiter"]
    # The budget was spent on the first 8 tokens before anybody looked at it.
    assert (waiter.device_tokens, waiter.in_flight_tokens) == (8, 12)


def test_who_waits_for_room_only_found_it_on_the_device() -> None:
    sim = Reporting(max_running=1)
    sim.add("a", PROMPT)
    sim.add("b", [*PROMPT, 40])
    sim.run()
    assert sim.reports["b"].in_flight_tokens == 0
    assert sim.reports["b"].device_tokens >= 10


def test_divergence_is_told_where_it_is() -> None:
    sim = Reporting()
    sim.add("a", PROMPT)
    sim.run()
    sim.add("b", [*PROMPT[:6], 40, 41])
    sim.run()
    assert sim.reports["b"] == report(6, 0, 2, "diverged")


def test_eviction_is_told_with_its_age() -> None:
    sim = Reporting(num_pages=8)
    sim.add("a", PROMPT)
    sim.run()
    sim.add("flood", list(range(11, 39)), max_tokens=4)
    sim.run()
    sim.add("a again", PROMPT)
    sim.run()
    again = sim.reports["a again"]
    assert again.cause == "evicted"
    assert again.evicted_seconds_ago is not None
    assert again.evicted_seconds_ago >= 0
    assert again.computed_tokens == 10


def test_who_needs_the_whole_pool_is_cut_at_a_page_border() -> None:
    sim = Reporting(num_pages=4)
    sim.add("a", PROMPT[:6], max_tokens=1)
    sim.run()
    sim.add("b", PROMPT, max_tokens=6)
    sim.run()
    assert sim.reports["b"] == report(4, 0, 6, "whole_pages")


def test_choices_share_one_report() -> None:
    sim = Reporting(num_pages=6)
    sim.add("a", PROMPT, n=3)
    sim.run()
    assert sim.reports == {"a": report(0, 0, 10, "never_seen")}
    assert sim.scheduler.stats().admissions == {"never_seen": 1}


def test_what_preemption_does_later_is_not_told() -> None:
    sim = Reporting(num_pages=8)
    sim.add("a", PROMPT[:6], max_tokens=22)
    sim.add("b", list(range(11, 17)), max_tokens=22)
    sim.run()
    stats = sim.scheduler.stats()
    assert stats.preemptions > 0
    assert sim.reports["a"] == sim.reports["b"] == report(0, 0, 6, "never_seen")
    assert stats.admissions == {"never_seen": 2}


def test_without_a_cache_the_cause_is_that() -> None:
    sim = Reporting(enable_prefix_cache=False)
    for name in "ab":
        sim.add(name, PROMPT)
        sim.run()
    assert sim.reports["b"] == report(0, 0, 10, "cache_off")
    tokens = np.array(PROMPT, dtype=np.int32)
    explained = sim.scheduler.explain(DEFAULT_NAMESPACE, tokens, looks_elsewhere=True)
    assert explained.cause == "cache_off"


def test_on_a_tenants_behalf_nobody_looks_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes to look must not depend on what others hold."""
    sim = Reporting()
    tokens = np.array(PROMPT, dtype=np.int32)
    found = sim.scheduler.explain(DEFAULT_NAMESPACE, tokens, looks_elsewhere=True)
    assert found.in_other_namespaces is False

    def look(*_: object) -> bool:
        raise AssertionError("it looks elsewhere")

    monkeypatch.setattr(PrefixCache, "is_held_elsewhere", look)
    found = sim.scheduler.explain(DEFAULT_NAMESPACE, tokens, looks_elsewhere=False)
    assert found.in_other_namespaces is None


def test_who_was_never_admitted_is_told_nothing() -> None:
    sim = Reporting(max_running=1)
    sim.add("a", PROMPT, max_tokens=3)
    sim.add("b", PROMPT)
    sim.step()
    sim.abort("b")
    sim.run()
    assert list(sim.reports) == ["a"]
    assert sim.ends["b", 0].cache_report is None


def test_whether_another_salt_holds_the_same_is_never_told() -> None:
    """Cached long ago, in flight just now, or evicted: the other's doings change nothing."""
    told = []
    for others in (False, True):
        sim = Reporting(num_pages=400, max_batch_tokens=400, max_running=20)
        if others:
            sim.add("held", PROMPT, namespace="x")
            sim.add("lost", PROMPT[::-1], namespace="x")
            sim.run()
            sim.cache.evict(2)
            sim.add("in flight", [*PROMPT, *PROMPT], max_tokens=20, namespace="x")
            sim.step()
        for name, prompt in (
            ("first", PROMPT),
            ("longer", [*PROMPT, *PROMPT]),
            ("other", [*PROMPT[:5], 40, 41]),
            ("reversed", PROMPT[::-1]),
        ):
            sim.add(f"told {name}", prompt)
            sim.add(f"told {name} too", prompt)
            sim.step()
        sim.run()
        told.append({name: report for name, report in sim.reports.items() if "told" in name})
    assert len(told[0]) == 8
    assert told[0] == told[1]


# -- against a plain model ------------------------------------------------------------------------


class Watched(PrefixCache):
    """Works out anew, before every acquisition, what it will match."""

    __slots__ = ("expected",)

    def acquire(
        self,
        namespace: Namespace,
        tokens: TokenArray,
        *,
        whole_pages_only: bool = False,
        use: Use | None = None,
    ) -> Lease:
        held = {path for name, path in held_prefixes(self) if name == namespace}
        prompt = tuple(tokens.tolist())
        num_held = max((end for end in range(len(prompt) + 1) if prompt[:end] in held), default=0)
        self.expected = num_held // self.page_size * self.page_size
        if not whole_pages_only:
            self.expected = num_held
        return super().acquire(namespace, tokens, whole_pages_only=whole_pages_only, use=use)


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["", "x"]),
        st.lists(st.integers(1, 2), min_size=1, max_size=13),
        st.integers(1, 6),
        st.integers(1, 2),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=100)
@given(requests=REQUESTS, num_pages=st.integers(10, 30), max_in_flight=st.integers(1, 2))
def test_reports_add_up_and_matches_are_those_of_a_plain_model(
    requests: list[tuple[str, list[int], int, int, int]], num_pages: int, max_in_flight: int
) -> None:
    own = Admission._report

    def checked(self: Admission, request: Request, finding: Finding) -> None:
        assert isinstance(self._cache, Watched)
        assert finding.num_tokens == self._cache.expected
        own(self, request, finding)

    with (
        mock.patch.object(simulation, "PrefixCache", Watched),
        mock.patch.object(Admission, "_report", checked),
    ):
        sim = Reporting(num_pages=num_pages, max_running=3, max_in_flight=max_in_flight)
        for number, (salt, prompt, max_tokens, n, num_steps) in enumerate(requests):
            sim.add(str(number), prompt, max_tokens, n=n, namespace=salt)
            for _ in range(num_steps):
                sim.step()
        sim.run()
    stats = sim.scheduler.stats()
    assert stats.admissions == {
        cause: sum(report.cause == cause for report in sim.reports.values())
        for cause in {report.cause for report in sim.reports.values()}
    }
    for number, (_, prompt, _, _, _) in enumerate(requests):
        told = sim.reports[str(number)]
        sources = (told.device_tokens, told.in_flight_tokens, told.computed_tokens)
        assert min(sources) >= 0
        assert sum(sources) == len(prompt)
        assert told.matched_tokens < len(prompt)
        assert (told.cause == "complete") <= (told.computed_tokens == 1)
        assert (told.cause == "evicted") == (told.evicted_seconds_ago is not None)
    reports = sim.reports.values()
    assert stats.cached_tokens == sum(told.matched_tokens for told in reports)
    assert stats.in_flight_tokens == sum(told.in_flight_tokens for told in reports)
