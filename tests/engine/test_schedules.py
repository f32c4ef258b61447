"""Whatever arrives and leaves whenever, the answers are the reference's and every page comes back.

The real core on a real model, driven step by step by hypothesis.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.tiers.costs import Costs
from tests.engine.driving import Driver, make_core, make_request
from tests.engine.reference import SMALLEST_GAP, family_prompts, transformers_greedy

NUM_TOKENS = 16
PROMPTS = family_prompts(seed=3)
LONGEST = max(map(len, PROMPTS)) + NUM_TOKENS
TOKEN_BYTES = 512
"""Of keys and values, in the tiny checkpoint."""


@pytest.fixture(scope="module")
def reference(tiny_dir: Path) -> list[list[int]]:
    run = transformers_greedy(tiny_dir, PROMPTS, NUM_TOKENS)
    assert run.smallest_gap > SMALLEST_GAP
    return run.tokens


@pytest.fixture(scope="module", autouse=True)
def always_worth_loading() -> Iterator[None]:
    """Whether it is depends on times, and the tokens must not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Costs, "is_worth_host", lambda costs: True)
        patch.setattr(Costs, "is_worth_disk", lambda costs: True)
        yield


# What happens between two events: so many steps, and then
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.one_of(
            st.tuples(
                st.just("add"),
                st.integers(0, len(PROMPTS) - 1),
                st.integers(1, NUM_TOKENS),
                st.sampled_from([1, 1, 1, 2, 3]),
                st.sampled_from(["", "", "", "tenant"]),
            ),
            st.tuples(st.just("abort"), st.integers(0, 5), st.sampled_from([None, None, 0, 1])),
        ),
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("max_in_flight", [1, 2])
@settings(max_examples=40, deadline=None)
@given(
    events=EVENTS,
    page_size=st.sampled_from([1, 4, 16, 64]),
    spare_pages=st.sampled_from([0, 1, 5, 300]),
    max_batch_tokens=st.sampled_from([8, 33, 2048]),
    max_running=st.sampled_from([1, 3, 8]),
    max_itl_stretch=st.sampled_from([None, 1.2]),
    enable_prefix_cache=st.sampled_from([True, True, True, False]),
    num_host_pages=st.sampled_from([0, 3, 20, 300]),
    has_cache_dir=st.sampled_from([False, False, True]),
)
def test_any_schedule_gives_the_reference_tokens(
    tiny_dir: Path,
    reference: list[list[int]],
    events: list[tuple[int, tuple[str, int, int, int, str]]],
    page_size: int,
    spare_pages: int,
    max_batch_tokens: int,
    max_running: int,
    max_itl_stretch: float | None,
    enable_prefix_cache: bool,
    num_host_pages: int,
    has_cache_dir: bool,
    max_in_flight: int,
) -> None:
    with tempfile.TemporaryDirectory() as pages_dir:
        below: dict[str, Any] = {}
        if enable_prefix_cache and num_host_pages:
            below["host_cache_gib"] = num_host_pages * page_size * TOKEN_BYTES / 2**30
        if enable_prefix_cache and has_cache_dir:
            below["cache_dir"] = pages_dir
        driver = Driver(
            make_core(
                tiny_dir,
                max_in_flight=max_in_flight,
                page_size=page_size,
                num_pages=max(2, -(-LONGEST // page_size) + spare_pages),
                max_batch_tokens=max_batch_tokens,
                max_running=max_running,
                max_itl_stretch=max_itl_stretch,
                enable_prefix_cache=enable_prefix_cache,
                **below,
            )
        )
        wanted: dict[str, tuple[list[int], int]] = {}
        for num_steps, event in events:
            for _ in range(num_steps):
                driver.step()
            if event[0] == "add":
                _, row, max_tokens, n, namespace = event
                name = f"r{len(wanted)}"
                wanted[name] = (reference[row][:max_tokens], n)
                driver.add(make_request(name, PROMPTS[row], max_tokens, n=n, namespace=namespace))
            else:
                # One of the newest: the others have mostly ended.
                driver.abort(f"r{len(wanted) - 1 - event[1]}", event[2])
        driver.run()
        for name, (tokens, n) in wanted.items():
            indices = {index for other, index in driver.ends if other == name}
            assert indices == set(range(n))
            for index in range(n):
                # Greedy choices of one prompt are all the same.
                got = driver.tokens[name, index]
                if driver.ends[name, index].finish_reason == "abort":
                    assert got == tokens[: len(got)]
                else:
                    assert got == tokens
                    assert driver.ends[name, index].finish_reason == "length"
        driver.assert_nothing_leaked()
        driver.core.close()


@pytest.mark.parametrize(("seed", "max_in_flight"), [(0, 1), (1, 2)])
@pytest.mark.parametrize(
    ("num_pages", "page_size"), [(40, 16), (LONGEST + 2, 1)], ids=["pages_of_16", "pages_of_1"]
)
def test_500_requests_with_random_aborts_leak_nothing(
    tiny_dir: Path,
    reference: list[list[int]],
    num_pages: int,
    page_size: int,
    seed: int,
    max_in_flight: int,
) -> None:
    rng = random.Random(seed)
    driver = Driver(
        make_core(
            tiny_dir,
            max_in_flight=max_in_flight,
            num_pages=num_pages,
            page_size=page_size,
            max_running=16,
            max_batch_tokens=rng.choice([64, 512]),
        )
    )
    wanted: dict[str, list[int]] = {}
    for number in range(500):
        row = rng.randrange(len(PROMPTS))
        name = f"r{number}"
        wanted[name] = reference[row][: rng.randint(1, 8)]
        driver.add(
            make_request(
                name,
                PROMPTS[row],
                len(wanted[name]),
                n=rng.choice([1, 1, 1, 2]),
                namespace=rng.choice(["", "", "salt"]),
            )
        )
        if rng.random() < 0.5:
            driver.step()
        if rng.random() < 0.4:
            recent = f"r{rng.randint(max(0, number - 12), number)}"
            driver.abort(recent, rng.choice([None, None, 0, 1]))
    driver.run()
    reasons = [delta.finish_reason for delta in driver.ends.values()]
    assert reasons.count("abort") > 50
    assert reasons.count("length") > 200
    assert driver.core.stats().evicted_pages > 0
    for (name, index), end in driver.ends.items():
        got = driver.tokens[name, index]
        assert got == wanted[name][: len(got)]
        assert end.finish_reason == "abort" or got == wanted[name]
    driver.assert_nothing_leaked()
