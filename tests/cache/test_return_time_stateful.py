"""The cache's stateful test, run with eviction by return time in LRU's place.

The machine itself lies in ``test_prefix_cache_stateful.py``; here it is given another cache.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from radixserve.cache import return_time
from radixserve.cache.page_pool import PagePool
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.return_time import ReturnTime

MACHINE = Path(__file__).with_name("test_prefix_cache_stateful.py")


@pytest.fixture(scope="module")
def machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cache_machine", MACHINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ticks() -> Iterator[float]:
    """A clock that leaps, so that tokens of all ages meet."""
    now_s = 0.0
    while True:
        for pause_s in (0.0, 0.3, 1.0, 7.0, 100.0):
            now_s += pause_s
            yield now_s


@pytest.mark.parametrize("lru_rules", [False, True])
def test_the_cache_is_sound_under_it(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, lru_rules: bool
) -> None:
    made: list[ReturnTime] = []

    def cache_of(num_pages: int, page_size: int, *, pool: PagePool) -> PrefixCache:
        clock = ticks()
        policy = ReturnTime(lambda: next(clock), num_pages, page_size)
        policy._duel.follows_lru = lru_rules
        policy._duel._judged_at = 10**9
        made.append(policy)
        return PrefixCache(num_pages, page_size, policy, pool=pool)

    monkeypatch.setattr(machine, "PrefixCache", cache_of)
    monkeypatch.setattr(return_time, "_REFRESH_REQUESTS", 3)
    monkeypatch.setattr(return_time, "_REFRESH_PAGES", 1)
    run_state_machine_as_test(
        machine.CacheMachine,
        settings=settings(max_examples=40, stateful_step_count=50, deadline=None),
    )
    assert len(made) >= 40
    for policy in made:
        log = policy._log
        assert (log.weights >= 0).all()
        recent = np.arange(log.recent, log.head) % log.size
        assert log.weights[recent].sum() == log._recent_tokens <= log.capacity_tokens
    assert any(policy._statistics.returned.sum() > 0 for policy in made)
