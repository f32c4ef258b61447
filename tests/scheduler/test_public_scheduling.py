"""Requests of several namespaces under public prompts: computed once, and everybody served."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cache.public_prefixes import PublicPrefixes
from radixserve.cascade import CascadeCosts
from radixserve.scheduler.producers import Producers, Production
from tests.scheduler.requests import make_request
from tests.scheduler.test_cache_reports import Reporting, report
from tests.support import simulated_runner
from tests.support.simulation import Pace, Simulation, oracle

PROMPT = list(range(1, 11))
"""Ten tokens in pages of four."""


@pytest.fixture(autouse=True)
def one_model_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a real model computes depends on tokens alone, so that namespaces may share it. Who may
    share what is the cache's stateful test's business."""
    of_namespace = simulated_runner.prefix_hash

    def of_tokens(namespace: str, tokens: list[int]) -> int:
        return of_namespace("", tokens)

    monkeypatch.setattr(simulated_runner, "prefix_hash", of_tokens)


def simulate(public: list[int], **settings: Any) -> Reporting:
    sim = Reporting(**settings)
    sim.scheduler.set_public([np.array(public, dtype=np.int32)])
    return sim


def test_two_tenants_at_once_compute_a_public_prompt_once(depth: int) -> None:
    sim = simulate(PROMPT[:9], max_in_flight=depth)
    sim.add("a", [*PROMPT, 20, 21, 22], namespace="A", max_tokens=20)
    sim.add("b", [*PROMPT, 20, 21, 22], namespace="B")
    sim.run()
    assert sim.reports["a"] == report(0, 0, 13, "never_seen")
    # All of it, to the token, and nothing of what A says behind it.
    assert sim.reports["b"] == report(0, 9, 4, "never_seen")
    sim.assert_no_leaks()


def test_behind_what_is_public_nobody_waits_for_another_tenant(depth: int) -> None:
    sim = simulate(PROMPT[:6], max_in_flight=depth)
    for name in "AB":
        sim.add(name, PROMPT[:7], namespace=name, max_tokens=1)
        sim.run()
    sim.add("a", [*PROMPT, *range(20, 30)], namespace="A", max_tokens=20)
    sim.add("b", [*PROMPT, *range(20, 30)], namespace="B")
    sim.add("again", [*PROMPT, *range(20, 30)], namespace="A")
    sim.run()
    assert sim.reports["b"] == report(7, 0, 13, "never_seen")
    assert sim.reports["again"].in_flight_tokens > 0


def test_without_a_cache_nothing_is_public() -> None:
    sim = simulate(PROMPT, enable_prefix_cache=False)
    for name in "ab":
        sim.add(name, [*PROMPT, 20])
        sim.run()
    assert sim.reports["b"].computed_tokens == 11
    sim.assert_no_leaks()


def test_a_page_that_is_public_for_the_producer_alone_is_not_waited_for() -> None:
    public = PublicPrefixes()
    producers = Producers(4, public)
    producers.announce(make_request(1, PROMPT, namespace="A"), 0)
    other = make_request(2, PROMPT, namespace="B")
    assert producers.find(other, 0) is None
    public.replace([np.array(PROMPT[:5], dtype=np.int32)])
    assert producers.find(other, 0) is None, "announced when it was not public"
    producer = make_request(3, PROMPT, namespace="A")
    producers.announce(producer, 0)
    assert producers.find(other, 0) == Production(producer, 4)
    public.replace([np.array(PROMPT[:3], dtype=np.int32)])
    assert producers.find(other, 0) is None


@settings(max_examples=40)
@given(
    pace=st.sampled_from(Pace),
    seed=st.integers(0, 2**32),
    page_size=st.sampled_from([1, 2, 4, 16]),
    spare_pages=st.integers(0, 12),
    max_running=st.integers(1, 6),
)
def test_random_lives_under_public_prompts(
    *, depth: int, pace: Pace, seed: int, page_size: int, spare_pages: int, max_running: int
) -> None:
    rng = random.Random(seed)
    longest = 40
    sim = Simulation(
        max_in_flight=depth,
        pace=pace,
        num_pages=-(-longest // page_size) + spare_pages,
        page_size=page_size,
        max_running=max_running,
        max_batch_tokens=max_running + rng.randrange(20),
        max_overtakes=rng.randrange(4),
        cascade_costs=CascadeCosts(0, 0),
    )
    stems = [[rng.randrange(1, 4) for _ in range(28)] for _ in range(2)]

    def name_public() -> None:
        named = [rng.choice(stems)[: rng.randrange(1, 28)] for _ in range(rng.randrange(3))]
        sim.scheduler.set_public([np.array(one, dtype=np.int32) for one in named])

    name_public()
    wanted: dict[str, tuple[list[int], int, int]] = {}
    for index in range(rng.randrange(1, 14)):
        for _ in range(rng.randrange(4)):
            if sim.scheduler.has_work:
                sim.step()
        if rng.random() < 0.1:
            name_public()
        prompt = [*rng.choice(stems)[: rng.randrange(1, 28)], rng.randrange(1, 4)]
        count, n = rng.randrange(1, longest - len(prompt) + 1), rng.choice([1, 1, 2])
        wanted[f"r{index}"] = (prompt, count, n)
        sim.add(f"r{index}", prompt, count, n=n, namespace=rng.choice("ABC"))
    sim.run(max_steps=5000)
    sim.assert_no_leaks()
    for name, (prompt, count, n) in wanted.items():
        for choice in range(n):
            expected = oracle(prompt, count, seed=choice, stop=frozenset({0}))
            assert sim.answers[name, choice] == expected
