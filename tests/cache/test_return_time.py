"""Eviction by return time: what it keeps, what it learns, and that its histories stay sound."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cache import return_time
from radixserve.cache.events import chain_hashes, root_hash
from radixserve.cache.eviction import LRU
from radixserve.cache.policies import DEFAULT_POLICY, POLICIES, make_policy
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.return_time import ReturnTime
from radixserve.errors import ConfigError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def learns_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(return_time, "_REFRESH_REQUESTS", 4)
    monkeypatch.setattr(return_time, "_REFRESH_PAGES", 1)


def cache_of(num_pages: int, page_size: int = 4) -> tuple[PrefixCache, ReturnTime, Clock]:
    clock = Clock()
    policy = ReturnTime(clock, num_pages, page_size)
    return PrefixCache(num_pages, page_size, policy), policy, clock


def text(name: int, num_tokens: int) -> TokenArray:
    return (np.arange(num_tokens) + 1000 * name).astype(np.int32)


def ask(cache: PrefixCache, tokens: TokenArray, namespace: Namespace = DEFAULT_NAMESPACE) -> int:
    """One request from beginning to end; returns how many tokens it found."""
    lease = cache.acquire(namespace, tokens)
    cache.reserve(lease, len(tokens))
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    cache.commit(lease, tokens)
    cached = lease.num_cached_tokens
    cache.release(lease, tokens)
    return cached


def play(cache: PrefixCache, clock: Clock, *, rounds: int) -> tuple[int, int]:
    """Four prompts that come back every eight seconds, and a long scan every second.

    Returns how many tokens of the prompts were found, and asked for, in the second half.
    """
    found = asked = 0
    for turn in range(rounds):
        clock.now_s += 1.0
        ask(cache, text(100 + turn, 256))
        if turn % 2 == 0:
            tokens = text(turn // 2 % 4, 64)
            cached = ask(cache, tokens)
            if turn >= rounds // 2:
                found, asked = found + cached, asked + len(tokens)
    return found, asked


def test_what_returns_outlives_scans_that_do_not() -> None:
    cache, policy, clock = cache_of(140)
    found, asked = play(cache, clock, rounds=200)
    assert found == asked
    assert not policy.follows_lru
    by_lru = PrefixCache(140, 4, LRU())
    assert play(by_lru, Clock(), rounds=200)[0] == 0


def test_returns_are_learnt_from_what_was_evicted_too() -> None:
    cache, policy, clock = cache_of(80)
    # LRU has lost each of them when it comes back, and at first so has this cache.
    play(cache, clock, rounds=20)
    policy._statistics.count(clock.now_s)
    assert policy._statistics.returned.sum() > 0
    assert len(policy._ghosts) > 0


@pytest.mark.parametrize("page_size", [1, 4, 16, 24, 64])
def test_ghosts_have_the_same_reach_whatever_the_page_size(page_size: int) -> None:
    num_pages = 1536 // page_size
    cache, policy, clock = cache_of(num_pages, page_size)
    first = text(1, 1152)
    ask(cache, first)
    clock.now_s += 8.0
    ask(cache, text(2, 1152))
    policy._statistics.count(clock.now_s)
    assert policy._statistics.returned.sum() == 0
    clock.now_s += 8.0
    num_kept = ask(cache, first)
    assert 0 < num_kept < 1152
    policy._statistics.count(clock.now_s)
    returned = policy._statistics.returned.sum()
    # All of it came back after 16 s; what was evicted is known to the stride.
    stride = policy._stride
    assert 1152 - 2 * stride <= returned <= 1152
    age = int(np.flatnonzero(policy._statistics.returned.sum(0))[0])
    assert age == 9, "16 s is 2 ** (8 / 2)"


def test_a_return_in_another_namespace_is_none() -> None:
    cache, policy, clock = cache_of(64)
    ask(cache, text(1, 200), Namespace("one"))
    ask(cache, text(2, 200), Namespace("one"))
    clock.now_s += 2.0
    ask(cache, text(1, 200), Namespace("two"))
    policy._statistics.count(clock.now_s)
    assert policy._statistics.returned.sum() == 0


def test_a_clock_that_goes_back_is_held() -> None:
    cache, policy, clock = cache_of(32)
    for step, now_s in enumerate((50.0, 20.0, 51.0, 3.0)):
        clock.now_s = now_s
        ask(cache, text(step % 2, 100))
    cache.check_invariants()
    policy._statistics.count(51.0)
    assert policy._log.times_s[: policy._log.head].tolist() == sorted(
        policy._log.times_s[: policy._log.head].tolist()
    )


def test_leaves_are_trimmed_from_the_end_run_by_run() -> None:
    cache, _, clock = cache_of(16)
    stem = text(1, 32)
    for _ in range(3):
        ask(cache, stem)
        clock.now_s += 1.0
    # One node holds the stem, seen thrice, and what is new behind it.
    ask(cache, np.concatenate([stem, text(2, 32)]))
    clock.now_s += 1.0
    ask(cache, text(3, 32))
    assert cache.match(DEFAULT_NAMESPACE, stem) == 32


def test_what_is_forgotten_by_order_leaves_no_trace() -> None:
    cache, policy, _ = cache_of(64)
    ask(cache, text(1, 100))
    ask(cache, np.concatenate([text(1, 50), text(2, 50)]))
    cache.clear()
    assert policy._log.weights.sum() == 0
    assert len(policy) == 0
    assert cache.free_pages == 64


def test_memory_is_bounded() -> None:
    cache, policy, clock = cache_of(8, 64)
    for turn in range(6000):
        clock.now_s += 1.0
        ask(cache, text(turn, 128))
    assert len(policy._ghosts) <= 24 * 8
    assert policy._log.head > policy._log.size == 4096
    assert len(policy._order._due) < 200
    assert len(policy._order) == len(policy._lru) <= 4


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 40), st.integers(0, 5), st.floats(0, 5), st.booleans()
        ),
        max_size=40,
    ),
    st.sampled_from([1, 4, 16, 64]),
)
def test_every_token_has_one_history(
    calls: list[tuple[int, int, int, float, bool]], page_size: int
) -> None:
    """Runs cover their nodes; log entries weigh what lies in them; the hash is the path's."""
    cache, policy, clock = cache_of(256 // page_size, page_size)
    for stem, cut, branch, pause_s, whole in calls:
        clock.now_s += pause_s
        tokens = np.concatenate([text(stem, 2 * cut + 1), text(10 + branch, 3 * cut)])
        if whole and len(tokens) <= 128:
            ask(cache, tokens)
        else:
            cache.evict(cut % 3)
        check_histories(cache, policy)


def check_histories(cache: PrefixCache, policy: ReturnTime) -> None:
    cache.check_invariants()
    weights = np.zeros(policy._log.size, dtype=np.int64)
    for node in cache.tree.nodes():
        if node.parent is None:
            continue
        start = node.start
        for run in node.record.runs:
            assert start < run.end
            weights[run.position] += run.end - start
            start = run.end
        assert start == node.end
        path: list[TokenArray] = []
        above = node
        while above.parent is not None:
            path.insert(0, above.tokens)
            above = above.parent
        stride = policy._stride
        hashes = chain_hashes(root_hash(DEFAULT_NAMESPACE), np.concatenate(path), stride)
        assert node.record.hashes == hashes[node.start // stride :]
    # Entries weigh at least what is cached of them; the rest was evicted and may come back.
    assert (weights <= policy._log.weights).all()


def test_policies_go_by_name() -> None:
    for name, expected in (("lru", LRU), ("return-time", ReturnTime)):
        assert type(make_policy(name, Clock(), 8, 16)) is expected
    assert DEFAULT_POLICY in POLICIES
    with pytest.raises(ConfigError, match=r"'fifo'; choose return-time or lru"):
        make_policy("fifo", Clock(), 8, 16)


@pytest.mark.parametrize("make", [LRU, lambda: ReturnTime(Clock(), 8, 4)])
def test_a_lease_without_tokens_is_let_go_of(make: Callable[[], LRU | ReturnTime]) -> None:
    cache = PrefixCache(8, 4, make())
    assert ask(cache, text(1, 0)) == 0
    assert not cache.tree.roots
