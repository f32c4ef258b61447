"""Eviction by return time: what it keeps, what it learns, and that its histories stay sound."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cache import return_time
from radixserve.cache.events import chain_hashes, root_hash
from radixserve.cache.eviction import LRU
from radixserve.cache.node import Node
from radixserve.cache.policies import DEFAULT_POLICY, POLICIES, make_policy
from radixserve.cache.prefix_cache import Lease, PrefixCache, Use
from radixserve.cache.return_class import size_bucket, size_of
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


def returned(policy: ReturnTime, clock: Clock) -> float:
    policy._statistics.count(clock.now_s)
    return float(policy._statistics.returned.sum())


def hits_of(cache: PrefixCache) -> list[list[tuple[int, int]]]:
    """Of each node its runs: where they end, and their hits."""
    return [
        [(run.end, run.hits) for run in node.record.runs]
        for node in cache.tree.nodes()
        if node.parent is not None
    ]


@pytest.mark.parametrize("parent_ends", [0, 2, 3])
def test_the_choices_of_one_request_are_one_use(parent_ends: int) -> None:
    cache, policy, clock = cache_of(64)
    prompt = text(1, 38)
    lease = cache.acquire(DEFAULT_NAMESPACE, prompt)
    cache.reserve(lease, len(prompt))
    leases = [cache.fork(lease, prompt) for _ in range(3)]
    leases.insert(parent_ends, lease)
    for number, choice in enumerate(leases):
        clock.now_s += 3.0
        answer = np.concatenate([prompt, text(10 + number, 9)])
        if choice.pending_copy is not None:
            cache.finish_copy(choice)
        cache.reserve(choice, len(answer))
        cache.release(choice, answer)
        check_histories(cache, policy, leases[number + 1 :])
    assert returned(policy, clock) == 0
    assert {hits for runs in hits_of(cache) for _, hits in runs} == {0}
    # Used by then, not since the first of them ended.
    assert {run.touched_s for run in cache_root(cache).record.runs} == {clock.now_s}
    clock.now_s += 3.0
    ask(cache, prompt)
    assert returned(policy, clock) == 38
    assert cache_root(cache).record.runs[-1].hits == 1


def cache_root(cache: PrefixCache) -> Node:
    """The only node at depth 0 of the only namespace."""
    (root,) = cache.tree.roots.values()
    (node,) = root.children.values()
    return node


@pytest.mark.parametrize("evicted", [0, 3, 100])
def test_a_request_that_was_preempted_does_not_return(evicted: int) -> None:
    cache, policy, clock = cache_of(64)
    prompt, answer = text(1, 150), text(1, 190)
    use = Use()
    lease = cache.acquire(DEFAULT_NAMESPACE, prompt, use=use)
    cache.reserve(lease, 150)
    cache.release(lease, prompt)
    clock.now_s += 5.0
    cache.evict(evicted)
    lease = cache.acquire(DEFAULT_NAMESPACE, prompt, use=use)
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    cache.reserve(lease, 190)
    cache.release(lease, answer)
    check_histories(cache, policy)
    assert returned(policy, clock) == 0
    assert {hits for runs in hits_of(cache) for _, hits in runs} == {0}
    # Nothing has two histories, but for what was evicted behind the last whole stride.
    assert policy._log.weights.sum() < 190 + policy._stride
    # What it brought is all of it, not what was left to bring the second time.
    assert size_of(cache_root(cache).record.runs[0].class_) == size_bucket(150)
    # The next turn has used it once more, and so has the same request again, if it is another.
    clock.now_s += 5.0
    ask(cache, answer)
    assert returned(policy, clock) == 190


def test_a_prompt_that_a_request_came_back_to_twice_is_lru_s_too() -> None:
    cache, policy, _ = cache_of(64)
    use = Use()
    for end in (100, 140, 200):
        lease = cache.acquire(DEFAULT_NAMESPACE, text(1, end), use=use)
        if lease.pending_copy is not None:
            cache.finish_copy(lease)
        cache.reserve(lease, end)
        cache.release(lease, text(1, end))
    # Nothing was asked for and found: neither by the index nor by LRU.
    assert policy._duel._lead_tokens == 0
    assert policy._num_touches == 1
    assert policy._log.weights.sum() == 200


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


def check_histories(cache: PrefixCache, policy: ReturnTime, leases: Sequence[Lease] = ()) -> None:
    cache.check_invariants(leases)
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
