"""Whatever is broken in a tree is found, named, and shown."""

from collections.abc import Callable

import numpy as np
import pytest

from radixserve.cache.node import Node, Root
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray


def numbers(start: int, end: int) -> TokenArray:
    return np.arange(start, end, dtype=np.int32)


def sound() -> tuple[PrefixCache, Node, Node]:
    """A cache with one node above two leaves: ``([0, 6), its child [6, 12))``; P = 4."""
    cache = PrefixCache(16, 4)
    for tokens in (numbers(0, 12), np.append(numbers(0, 6), numbers(100, 106)).astype(np.int32)):
        lease = cache.acquire(DEFAULT_NAMESPACE, tokens)
        cache.reserve(lease, 12)
        if lease.pending_copy is not None:
            cache.finish_copy(lease)
        cache.release(lease, tokens)
    cache.check_invariants()
    (above,) = cache.tree.roots[DEFAULT_NAMESPACE].children.values()
    return cache, above, above.children[6]


def move_root(cache: PrefixCache, above: Node, leaf: Node) -> None:
    cache.tree.roots[DEFAULT_NAMESPACE].namespace = Namespace("x")


def keep_empty_root(cache: PrefixCache, above: Node, leaf: Node) -> None:
    cache.tree._roots[Namespace("x")] = Root(Namespace("x"))


def give_root_a_parent(cache: PrefixCache, above: Node, leaf: Node) -> None:
    cache.tree.roots[DEFAULT_NAMESPACE].parent = leaf


def give_root_depth(cache: PrefixCache, above: Node, leaf: Node) -> None:
    cache.tree.roots[DEFAULT_NAMESPACE].end = 1


def empty_an_edge(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.end = leaf.start


def lose_tokens(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf._token_buffer = leaf.tokens[:3].copy()


def lose_a_page(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.num_pages -= 1


def list_a_page_twice(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.pages[1] = leaf.pages[0]


def leave_a_chain(cache: PrefixCache, above: Node, leaf: Node) -> None:
    above.remove_child(100)


def share_what_does_not_touch(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.pages[1] = above.pages[0]


def forget_the_parent(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.parent = cache.tree.roots[DEFAULT_NAMESPACE]


def shift_an_edge(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.start, leaf.end = 7, 13


def file_under_another_token(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.tokens[0] = 99


def lock_below_only(cache: PrefixCache, above: Node, leaf: Node) -> None:
    leaf.lock_count = 1
    cache.tree.policy.remove(leaf)


def hide_from_the_policy(cache: PrefixCache, above: Node, leaf: Node) -> None:
    cache.tree.policy.remove(leaf)


def burden_the_policy(cache: PrefixCache, above: Node, leaf: Node) -> None:
    cache.tree.policy.add(Root(Namespace("x")))


def miscount(cache: PrefixCache, above: Node, leaf: Node) -> None:
    cache.pool.attach(leaf.last_page)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (move_root, "is filed under another name"),
        (keep_empty_root, "'x' holds nothing and is kept"),
        (give_root_a_parent, "has a parent"),
        (give_root_depth, "is not empty"),
        (empty_an_edge, "has no tokens"),
        (lose_tokens, "has 3 tokens"),
        (lose_a_page, "needs 2 pages and has 1"),
        (list_a_page_twice, "lists a page twice"),
        (leave_a_chain, "has one child, and was not merged"),
        (share_what_does_not_touch, "which do not touch"),
        (forget_the_parent, "has parent Node"),
        (shift_an_edge, "which ends elsewhere"),
        (file_under_another_token, "begins with 99, filed as 6"),
        (lock_below_only, "is locked less often than its children"),
        (hide_from_the_policy, "is evictable, the policy believes otherwise"),
        (burden_the_policy, "the policy holds 3 nodes, 2 of the tree are evictable"),
        (miscount, "lies in 1 nodes, the pool says 2"),
    ],
)
def test_harm_is_named_and_the_tree_shown(
    harm: Callable[[PrefixCache, Node, Node], None], message: str
) -> None:
    cache, above, leaf = sound()
    harm(cache, above, leaf)
    with pytest.raises(AssertionError, match=message) as caught:
        cache.tree.check_invariants()
    assert "\nnamespace " in str(caught.value)


def test_format_shows_intervals_counts_and_locks() -> None:
    cache, _, _ = sound()
    assert cache.tree.format().splitlines() == [
        "namespace '': locks 0, last access 5",
        "  [0, 6) tokens 0 1 2 3 4 5 | 2 pages 0(nodes 1, uses 0) 1(nodes 2, uses 0) | "
        "locks 0, last access 4",
        "    [6, 12) tokens 6 7 8 9 10 11 | 2 pages 1(nodes 2, uses 0) 2(nodes 1, uses 0) | "
        "locks 0, last access 1",
        "    [6, 12) tokens 100 101 102 103 104 105 | 2 pages 3(nodes 1, uses 0) "
        "4(nodes 1, uses 0) | locks 0, last access 3",
    ]


def test_format_abbreviates_and_an_empty_tree_has_a_name() -> None:
    cache = PrefixCache(16, 4)
    assert cache.tree.format() == "(empty tree)"
    lease = cache.acquire(DEFAULT_NAMESPACE, numbers(0, 20))
    cache.reserve(lease, 20)
    cache.release(lease, numbers(0, 20))
    assert "tokens 0 1 2 3 4 5 6 7 … (20) | 5 pages" in cache.tree.format()


def test_locking_and_unlocking_out_of_turn_is_caught() -> None:
    cache, above, _ = sound()
    match = cache.tree.match(DEFAULT_NAMESPACE, numbers(0, 6))
    with pytest.raises(AssertionError, match="locking 7 tokens"):
        cache.tree.lock(match, 7)
    with pytest.raises(AssertionError, match="which is not locked"):
        cache.tree.unlock(above)
