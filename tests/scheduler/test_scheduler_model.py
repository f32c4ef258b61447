"""Random lives of random requests on tiny pools: every answer right, nothing lost or leaked."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cascade import CascadeCosts
from radixserve.ids import RequestId
from tests.support.simulation import Pace, Simulation, oracle, written


@settings(max_examples=60)
@given(
    pace=st.sampled_from(Pace),
    seed=st.integers(0, 2**32),
    page_size=st.sampled_from([1, 2, 4, 16]),
    spare_pages=st.integers(0, 12),
    max_running=st.integers(1, 6),
    extra_tokens=st.integers(0, 20),
    enable_prefix_cache=st.booleans(),
    num_slots=st.sampled_from([0, 3, 5, 8, 40]),
    has_disk=st.sampled_from([True, True, False]),
)
def test_random_lives(
    *,
    depth: int,
    pace: Pace,
    seed: int,
    page_size: int,
    spare_pages: int,
    max_running: int,
    extra_tokens: int,
    enable_prefix_cache: bool,
    num_slots: int,
    has_disk: bool,
) -> None:
    live(
        depth=depth,
        pace=pace,
        seed=seed,
        page_size=page_size,
        spare_pages=spare_pages,
        max_running=max_running,
        extra_tokens=extra_tokens,
        enable_prefix_cache=enable_prefix_cache,
        num_slots=num_slots,
        has_disk=has_disk,
    )


def test_much_is_loaded_and_shared_in_such_lives(depth: int) -> None:
    """Else the test above says nothing of the tiers, and nothing of cascades."""
    num_host_pages = num_disk_pages = num_levels = 0
    for seed in range(30):
        sim = live(
            depth=depth,
            pace=Pace.AT_WAIT,
            seed=seed,
            page_size=2,
            spare_pages=seed % 12,
            max_running=1 + seed % 6,
            extra_tokens=12,
            enable_prefix_cache=True,
            num_slots=(5, 8, 40)[seed % 3],
            has_disk=seed % 2 == 0,
        )
        assert sim.tiers is not None
        below = sim.tiers.info()
        num_host_pages += below.host_loaded_pages
        num_disk_pages += below.disk_loaded_pages
        num_levels += sim.runner.num_levels
    assert num_host_pages > 50, num_host_pages
    assert num_disk_pages > 100, num_disk_pages
    assert num_levels > 200, num_levels


def live(
    *,
    depth: int,
    pace: Pace,
    seed: int,
    page_size: int,
    spare_pages: int,
    max_running: int,
    extra_tokens: int,
    enable_prefix_cache: bool,
    num_slots: int,
    has_disk: bool,
) -> Simulation:
    num_slots *= enable_prefix_cache
    rng = random.Random(seed)
    longest = 40
    stems = [[rng.randrange(1, 4) for _ in range(28)] for _ in range(2)]
    files = written(stems, page_size) if num_slots and has_disk and rng.random() < 0.5 else {}
    sim = Simulation(
        max_in_flight=depth,
        pace=pace,
        num_pages=-(-longest // page_size) + spare_pages,
        page_size=page_size,
        max_running=max_running,
        max_batch_tokens=max_running + extra_tokens,
        enable_prefix_cache=enable_prefix_cache,
        max_overtakes=rng.randrange(4),
        num_slots=num_slots,
        has_disk=has_disk and num_slots > 0,
        files=files,
        cascade_costs=(CascadeCosts(0, 0), CascadeCosts(4, 1), None)[seed % 3],
    )
    wanted: dict[str, tuple[list[int], int, int, str, frozenset[int]]] = {}
    aborted: set[str] = set()
    for index in range(rng.randrange(1, 14)):
        for _ in range(rng.randrange(4)):
            chunk = rng.choice([None, 1, 3])
            if sim.scheduler.has_work:
                sim.step(max_chunk_tokens=chunk, max_moved_pages=rng.choice([1, 3]))
            if sim.disk is not None and rng.random() < 0.5:
                sim.disk.num_failures += rng.random() < 0.1
                sim.disk.end_one(rng.randrange(8))
        stem = rng.choice(stems)
        prompt = stem[: rng.randrange(1, 28)] + [rng.randrange(1, 4)] * rng.randrange(1, 3)
        count = rng.randrange(1, longest - len(prompt) + 1)
        name = f"r{index}"
        namespace = rng.choice(["", "", "other"])
        stop = frozenset({0} | ({rng.randrange(1, 50)} if rng.random() < 0.3 else set()))
        n = rng.choice([1, 1, 2, 3])
        wanted[name] = (prompt, count, n, namespace, stop)
        sim.add(
            name,
            prompt,
            count,
            n=n,
            namespace=namespace,
            stop_token_ids=tuple(stop - {0}),
        )
        if rng.random() < 0.25:
            victim = rng.choice(list(wanted))
            before = set(sim.ends)
            sim.take(sim.scheduler.abort(RequestId(victim)))
            if set(sim.ends) != before:
                aborted.add(victim)
    sim.run(max_steps=5000)
    sim.assert_no_leaks()
    for name, (prompt, count, n, namespace, stop) in wanted.items():
        own_namespace = namespace if enable_prefix_cache else f"private:{name}"
        for choice in range(n):
            expected = oracle(prompt, count, namespace=own_namespace, seed=choice, stop=stop)
            got = sim.answers.get((name, choice), [])
            if name in aborted:
                assert got == expected[: len(got)]
            else:
                assert got == expected
                assert sim.ends[name, choice].finish_reason in ("stop", "length")
    return sim
