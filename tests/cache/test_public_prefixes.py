"""The public root: what all namespaces share, and that nothing else of them is."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.cache import pruning
from radixserve.cache.explain import Finding
from radixserve.cache.lookup import page_table
from radixserve.cache.node import Node
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.public_prefixes import PublicPrefixes
from radixserve.cache.retention import Keep
from radixserve.cache.return_time import ReturnTime
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from tests.cache.letters import compute, run, sketch, start, tokens_of

A, B = Namespace("A"), Namespace("B")


@dataclass
class Clock:
    """Seconds, told by the test."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def match(cache: PrefixCache, namespace: Namespace, text: str) -> int:
    return cache.match(namespace, tokens_of(text))


def make_cache(*public: str, num_pages: int = 32) -> PrefixCache:
    cache = PrefixCache(num_pages, 4, clock=Clock())
    cache.set_public([tokens_of(text) for text in public])
    return cache


# -- what is public of some tokens ----------------------------------------------------------------

RUNS = st.lists(st.integers(0, 2), max_size=8)


@given(named=st.lists(RUNS, max_size=6), asked=st.lists(RUNS, min_size=1, max_size=4))
def test_public_is_the_longest_agreement_with_any_prefix(
    named: list[list[int]], asked: list[list[int]]
) -> None:
    public = PublicPrefixes()
    public.replace([np.array(one, dtype=np.int32) for one in named])
    for tokens in (*asked, *named):
        expected = max(
            (
                end
                for one in named
                for end in range(len(one) + 1)
                if one[:end] == tokens[:end] and end <= len(tokens)
            ),
            default=0,
        )
        array = np.array(tokens, dtype=np.int32)
        assert public.length(array) == expected
        assert public.covers(array) == (0 < len(tokens) == expected)


def test_large_token_ids_sort_like_numbers() -> None:
    public = PublicPrefixes()
    runs = [np.array([7, 1 << shift, 5], dtype=np.int32) for shift in range(0, 31, 3)]
    public.replace(runs)
    for run_ in runs:
        assert public.length(np.append(run_, 9).astype(np.int32)) == 3
    assert public.length(np.array([7, 3], dtype=np.int32)) == 1
    assert public.length(np.array([8, 1], dtype=np.int32)) == 0


def test_naming_the_same_again_is_no_change() -> None:
    public = PublicPrefixes()
    assert public.replace([tokens_of("abc"), tokens_of("ab"), tokens_of("")])
    assert not public.replace([tokens_of("abc")])
    assert not public.replace([tokens_of("a"), tokens_of("abc")])
    assert public.replace([tokens_of("ab")])
    assert public.replace([])
    assert not public.replace([])


# -- who shares what ------------------------------------------------------------------------------


def test_a_tenant_finds_the_public_tokens_of_another_and_no_more() -> None:
    cache = make_cache("abcdef")
    assert run(cache, "abcdefghij", A) == 0
    for text in ("abcdefghij", "abcdefgh", "abcdefg"):
        assert match(cache, A, text) == len(text)
        assert match(cache, B, text) == 6
    assert match(cache, B, "abcdXY") == 4
    lease = cache.acquire(B, tokens_of("abcdefghij"))
    assert lease.num_cached_tokens == 6
    assert lease.pending_copy is not None, "the border page is copied"
    assert sketch(cache) == ["abcdef 0 1*", "  A:ghij 1 2"]
    cache.finish_copy(lease)
    compute(cache, lease, "abcdefghij")
    assert sketch(cache) == ["abcdef 0 1*", "  A:ghij 1 2", "  B:gh 3*"]
    assert lease.page_table.tolist() == [0, 3, 4]
    cache.release(lease, tokens_of("abcdefghij"))
    cache.check_invariants()


def test_without_public_prefixes_nothing_is_shared() -> None:
    cache = make_cache()
    assert run(cache, "abcdefghij", A) == 0
    assert run(cache, "abcdefghij", B) == 0
    assert sorted(name for name in cache.tree.roots if name is not None) == [A, B]
    assert cache.cached_pages == 6


def test_tokens_that_share_nothing_public_are_where_they_were() -> None:
    cache = make_cache("abcdef")
    run(cache, "xyz", A)
    assert list(cache.tree.roots) == [A]
    assert match(cache, B, "xyz") == 0


def test_the_default_namespace_is_a_tenant_like_others() -> None:
    cache = make_cache("abcdef")
    run(cache, "abcdefgh", DEFAULT_NAMESPACE)
    assert match(cache, A, "abcdefgh") == 6
    run(cache, "abcdefgh", A)
    assert match(cache, DEFAULT_NAMESPACE, "abcdefgh") == 8
    assert cache.tree.namespaces == {DEFAULT_NAMESPACE, A}


def test_a_tenant_that_diverges_inside_a_public_edge_has_its_edge_there() -> None:
    cache = make_cache("abcdefgh", "abXY")
    run(cache, "abcdefghi", A)
    assert run(cache, "abcQ", B) == 3
    assert sketch(cache) == ["abc 0", "  B:Q 3", "  defgh 0 1", "    A:i 2"]
    assert match(cache, A, "abcQ") == 3
    assert run(cache, "abXYZ", A) == 2
    assert match(cache, B, "abXYZ") == 4
    cache.check_invariants()


def test_answers_that_follow_a_public_prefix_by_themselves_are_public() -> None:
    """A prompt may end within one; what is generated then is judged by what it is."""
    cache = make_cache("abcdefgh")
    lease = start(cache, "abc", A)
    compute(cache, lease, "abcdefZ")
    cache.release(lease, tokens_of("abcdefZ"))
    assert match(cache, B, "abcdefZ") == 6
    assert match(cache, A, "abcdefZ") == 7


def test_a_prompt_of_one_token_moves_to_the_root_of_its_answer() -> None:
    """Before its first step nothing is known to be cached, nor of which root."""
    cache = make_cache("abcdef")
    lease = start(cache, "", A)
    assert list(cache.tree.roots) == [A]
    compute(cache, lease, "abcdef")
    assert list(cache.tree.roots) == [None]
    cache.check_invariants([lease])
    cache.release(lease, tokens_of("abcdef"))
    assert match(cache, B, "abcdef") == 6
    cache.clear()
    assert not cache.tree.roots


def test_the_trees_public_page_wins_over_one_computed_meanwhile() -> None:
    cache = make_cache("abcdef")
    first, second = start(cache, "abcdefgh", A), start(cache, "abcdefgh", B)
    compute(cache, first, "abcdefgh")
    compute(cache, second, "abcdefgh")
    table = page_table(second.node, 4).tolist()
    assert second.page_table.tolist() == table
    assert table[0] == first.page_table[0]
    assert table[1] != first.page_table[1]
    cache.check_invariants([first, second])


def test_a_request_that_needs_the_whole_pool_gets_it() -> None:
    """A public border page that no lease reads can be had, as any superseded page."""
    cache = make_cache("abcdef", num_pages=4)
    run(cache, "abcdefgh", A)
    lease = cache.acquire(B, tokens_of("abcdefgh"), whole_pages_only=True)
    compute(cache, lease, "abcdefgh")
    cache.reserve(lease, 16)
    assert cache.in_use_pages == 4
    assert sorted(lease.page_table.tolist()) == [0, 1, 2, 3]
    cache.check_invariants([lease])


# -- evicting and forgetting ----------------------------------------------------------------------


def test_eviction_takes_tenants_leaves_and_then_the_public_node() -> None:
    cache = make_cache("abcdef")
    run(cache, "abcdefghij", A)
    assert sketch(cache) == ["abcdef 0 1", "  A:ghij 1 2"], "edges of two owners stay two"
    assert cache.evict(1) == 1
    assert sketch(cache) == ["abcdef 0 1", "  A:gh 1"]
    assert cache.evict(2) == 2
    assert sketch(cache) == []
    assert cache.free_pages == 32
    assert not cache.tree.roots
    assert not cache.tree.namespaces
    cache.check_invariants()


def test_the_public_node_outlives_its_tenants_and_merges_with_what_is_public() -> None:
    cache = make_cache("abcdefgh")
    run(cache, "abcdX", A)
    run(cache, "abcdefgh", B)
    assert sketch(cache) == ["abcd 0", "  A:X 1", "  efgh 2"]
    assert cache.forget(A) == 1
    assert sketch(cache) == ["abcdefgh 0 2"]
    assert cache.forget(B) == 0, "it has nothing of its own"
    cache.check_invariants()
    assert cache.clear(B) == 0
    assert cache.clear() == 2


def test_forgetting_a_tenant_leaves_the_others_and_what_is_locked() -> None:
    cache = make_cache("abcdef")
    run(cache, "abcdefgh", A)
    run(cache, "xyz", A)
    run(cache, "abcdefgh", B)
    lease = start(cache, "abcdefghij", A)
    run(cache, "abcdefQ", A)
    assert cache.tree.namespaces == {A, B}
    cache.forget(A)
    assert sketch(cache) == ["abcdef 0 1*", "  A:gh 1*", "  B:gh 3"]
    cache.release(lease, tokens_of("abcdefgh"))
    cache.forget(A)
    assert cache.tree.namespaces == {B}
    assert (match(cache, A, "abcdefgh"), match(cache, B, "abcdefgh")) == (6, 8)
    cache.check_invariants()


def test_other_prefixes_drop_what_nobody_would_find() -> None:
    cache = make_cache("abcdef")
    run(cache, "abcdefgh", A)
    run(cache, "xyz", B)
    run(cache, "pqr", B)
    lease = start(cache, "abcdefgh", A)
    cache.set_public([tokens_of("ab"), tokens_of("xy")])
    assert match(cache, A, "abcdefgh") == 2
    assert match(cache, B, "abcdefgh") == 2
    assert match(cache, B, "xyz") == 0, "what was B's is not made public"
    assert match(cache, B, "pqr") == 3
    cache.check_invariants([lease])
    compute(cache, lease, "abcdefghijkl")
    cache.release(lease, tokens_of("abcdefghijkl"))
    assert match(cache, A, "abcdefghijkl") == 2
    assert run(cache, "abcdefgh", A) == 2
    assert match(cache, A, "abcdefgh") == 8
    assert match(cache, B, "abcdefgh") == 2
    cache.set_public([])
    assert match(cache, A, "ab") == 0
    assert match(cache, B, "pqr") == 3
    cache.check_invariants()


@pytest.mark.parametrize("is_tenant_running", [False, True])
def test_evicting_one_of_many_tenants_looks_at_few_of_the_others(
    monkeypatch: pytest.MonkeyPatch, is_tenant_running: bool
) -> None:
    """Though the public node is locked and ends inside a page, which each has a copy of."""
    num_tenants, num_seen = 100, 0

    def lock_count(node: Node) -> int:
        nonlocal num_seen
        num_seen += 1
        return node.lock_count

    monkeypatch.setattr(pruning, "_lock_count", lock_count)
    cache = make_cache("abcdef", num_pages=400)
    tenants = [Namespace(f"tenant {number}") for number in range(num_tenants)]
    for tenant in tenants:
        run(cache, "abcdefgh", tenant)
    lease = start(cache, "abcdefgh" if is_tenant_running else "abcdef", tenants[50])
    assert cache.evict(num_tenants) >= num_tenants - 2
    cache.check_invariants([lease])
    assert 0 < num_seen <= 2 * num_tenants


# -- what is told ---------------------------------------------------------------------------------


def ask(cache: PrefixCache, namespace: Namespace, text: str) -> Finding:
    return cache.explain(namespace, tokens_of(text))


def test_a_miss_tells_nothing_of_other_tenants() -> None:
    cache = make_cache("abcdef")
    run(cache, "abcdefghij", A)
    assert ask(cache, B, "abcdefghij") == Finding(6, "never_seen")
    assert ask(cache, A, "abcdefQ") == Finding(6, "diverged")
    run(cache, "abcdefQ", B)
    assert ask(cache, B, "abcdefghij") == Finding(6, "diverged")
    assert ask(cache, B, "abcX") == Finding(3, "diverged"), "there the public text goes on"


def test_public_tokens_that_follow_have_diverged_for_all() -> None:
    cache = make_cache("abcdefgh", "abcdXY")
    run(cache, "abcdX", A)
    assert ask(cache, B, "abcdQ") == Finding(4, "diverged")
    # The split leaves the public node a child of A's, and none that B may see.
    assert ask(cache, B, "abcdef") == Finding(4, "diverged")
    cache = make_cache("abcd")
    run(cache, "abcdX", A)
    assert ask(cache, B, "abcdX") == Finding(4, "never_seen")


def test_what_was_evicted_is_told_to_whose_it_was() -> None:
    cache = make_cache("abcdef")
    run(cache, "abcdefghijkl", A)
    cache.evict(1)
    assert match(cache, A, "abcdefghijkl") == 8
    assert ask(cache, A, "abcdefghijkl") == Finding(8, "evicted", 0.0)
    assert ask(cache, B, "abcdefghijkl") == Finding(6, "never_seen")
    cache.evict(2)
    assert match(cache, A, "abcdefghijkl") == 0
    # The public part was everybody's; behind it B still learns nothing.
    assert ask(cache, B, "abcdefghijkl") == Finding(0, "evicted", 0.0)
    run(cache, "abcdef", B)
    assert ask(cache, A, "abcdefghijkl") == Finding(6, "evicted", 0.0)
    assert ask(cache, B, "abcdefghijkl") == Finding(6, "never_seen")
    cache.clear(A)
    assert ask(cache, A, "abcdefghijkl") == Finding(6, "never_seen")


def test_the_operator_is_told_who_holds_more() -> None:
    cache = make_cache("abcdef")
    tokens = tokens_of("abcdefghij")
    run(cache, "abcdefgh", A)
    assert not cache.is_held_elsewhere(A, tokens, 8)
    assert cache.is_held_elsewhere(B, tokens, 6)
    assert cache.is_held_elsewhere(B, tokens, 7)
    assert not cache.is_held_elsewhere(B, tokens, 8)
    assert not cache.is_held_elsewhere(B, tokens_of("abcdef"), 6)
    assert not cache.is_held_elsewhere(B, tokens_of("abcdX"), 4)


def test_marks_on_public_tokens_are_each_tenants_own() -> None:
    cache = make_cache("abcdefgh")
    run(cache, "abcdefgh", A, Keep(8, 10.0))
    run(cache, "abcdefgh", B, Keep(8, 100.0))
    retention = cache.retention
    assert (retention.num_marks(A), retention.num_marks(B)) == (1, 1)
    run(cache, "abcdefgh", A, Keep(8, 20.0))
    assert (retention.num_marks(A), retention.num_marks(B)) == (1, 1)
    assert retention.weight_pages == 4


@pytest.mark.parametrize("page_size", [2, 4, 16])
def test_returns_of_one_tenant_are_not_counted_for_another(page_size: int) -> None:
    clock = Clock()
    policy = ReturnTime(clock, 64, page_size)
    cache = PrefixCache(64, page_size, policy, clock=clock)
    cache.set_public([tokens_of("abcdef")])
    text = "abcdef" + "".join(chr(200 + at) for at in range(58))
    for namespace in (A, B):
        run(cache, text, namespace)
    mine, theirs = (
        node.record.hashes
        for node in cache.tree.nodes()
        if node.namespace is not None and node.parent is not None
    )
    assert len(mine) == len(theirs) > 0
    assert not {*mine} & {*theirs}


def test_an_index_that_is_wrong_and_an_owner_that_is_are_found() -> None:
    cache = make_cache("abcdef")
    run(cache, "abcdefgh", A)
    (node,) = cache.tree.roots[None].children.values()
    cache.tree.tenant_edges.remove(node, A, ord("g"))
    with pytest.raises(AssertionError, match="the index of tenants' edges says"):
        cache.check_invariants()
    cache.tree.tenant_edges.add(node, A, ord("g"))
    cache.check_invariants()
    node.children[A, ord("g")].namespace = B
    with pytest.raises(AssertionError, match="begins with 103, filed as"):
        cache.check_invariants()
