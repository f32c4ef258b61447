"""Why a match ended: each cause by hand, then all of them against a plain model."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cache.evicted import EvictedPrefixes
from radixserve.cache.eviction import EvictionPolicy
from radixserve.cache.explain import Finding
from radixserve.cache.node import Node
from radixserve.cache.policies import POLICIES, make_policy
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray

OTHER = Namespace("other")


@dataclass
class Clock:
    """Seconds, told by the test."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def tokens_of(text: str) -> TokenArray:
    return np.array([ord(letter) for letter in text], dtype=np.int32)


def hold(cache: PrefixCache, text: str, namespace: Namespace = DEFAULT_NAMESPACE) -> None:
    """A request of these tokens comes, is computed, and ends."""
    tokens = tokens_of(text)
    lease = cache.acquire(namespace, tokens)
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    cache.reserve(lease, len(tokens))
    cache.release(lease, tokens)


def ask(
    cache: PrefixCache,
    text: str,
    namespace: Namespace = DEFAULT_NAMESPACE,
    *,
    whole_pages_only: bool = False,
) -> Finding:
    return cache.explain(namespace, tokens_of(text), whole_pages_only=whole_pages_only)


def make_cache(num_pages: int = 64, clock: Clock | None = None) -> PrefixCache:
    return PrefixCache(num_pages, 4, clock=clock or Clock())


def test_what_was_never_cached_was_never_seen() -> None:
    cache = make_cache()
    assert ask(cache, "abcdef") == Finding(0, "never_seen")
    hold(cache, "xyz")
    assert ask(cache, "abcdef") == Finding(0, "never_seen")


def test_a_conversation_that_goes_on_is_new_where_the_cached_turns_end() -> None:
    cache = make_cache()
    hold(cache, "abcdef")
    assert ask(cache, "abcdefgh") == Finding(6, "never_seen")


def test_all_that_is_asked_for_may_be_there() -> None:
    cache = make_cache()
    hold(cache, "abcdef")
    assert ask(cache, "abcdef") == Finding(6, "complete")
    assert ask(cache, "abcd") == Finding(4, "complete")
    assert ask(cache, "") == Finding(0, "complete")


def test_other_tokens_inside_an_edge_and_behind_a_fork_diverge() -> None:
    cache = make_cache()
    hold(cache, "abcdefgh")
    assert ask(cache, "abcdXY") == Finding(4, "diverged")
    assert ask(cache, "abcdeXY") == Finding(5, "diverged")
    hold(cache, "abcdeXYZ")
    assert ask(cache, "abcdeQ") == Finding(5, "diverged")


def test_what_was_evicted_says_when() -> None:
    clock = Clock()
    cache = make_cache(clock=clock)
    hold(cache, "abcdefghijkl")
    cache.evict(1)
    clock.now_s += 5
    assert ask(cache, "abcdefghijkl") == Finding(8, "evicted", 5.0)
    cache.evict(1)
    clock.now_s += 2
    assert ask(cache, "abcdefghijkl") == Finding(4, "evicted", 2.0)
    assert ask(cache, "abcde") == Finding(4, "evicted", 2.0)
    assert ask(cache, "abcdX") == Finding(4, "never_seen")
    cache.evict(1)
    assert ask(cache, "abcdX") == Finding(0, "evicted", 0.0)
    assert ask(cache, "Xbcd") == Finding(0, "never_seen")


def test_what_came_back_in_part_is_told_by_the_next_page() -> None:
    cache = make_cache()
    hold(cache, "abcdefghijkl")
    cache.evict(3)
    hold(cache, "abcdef")
    assert ask(cache, "abcdefghi") == Finding(6, "evicted", 0.0)
    # Too short to tell: no first token of another page.
    assert ask(cache, "abcdefgh") == Finding(6, "never_seen")
    assert ask(cache, "abcdefXhi") == Finding(6, "never_seen")


def test_an_evicted_branch_is_remembered_where_it_began() -> None:
    clock = Clock()
    cache = make_cache(clock=clock)
    hold(cache, "abcdef")
    hold(cache, "abcdeXYZ")
    hold(cache, "abcdef")
    cache.evict(1)
    clock.now_s += 3
    assert ask(cache, "abcdeXYZ") == Finding(5, "evicted", 3.0)
    assert ask(cache, "abcdeQ") == Finding(5, "diverged")
    assert ask(cache, "abcdef") == Finding(6, "complete")


def test_clearing_forgets_what_was_evicted() -> None:
    cache = make_cache()
    for namespace in (DEFAULT_NAMESPACE, OTHER):
        hold(cache, "abcdefgh", namespace)
    cache.evict(4)
    assert ask(cache, "abcd").cause == ask(cache, "abcd", OTHER).cause == "evicted"
    hold(cache, "abcdefgh", OTHER)
    assert cache.clear(OTHER) == 2
    assert ask(cache, "abcd", OTHER) == Finding(0, "never_seen")
    assert ask(cache, "abcd").cause == "evicted"
    hold(cache, "abcdefgh")
    assert cache.clear() == 2
    assert ask(cache, "abcd") == Finding(0, "never_seen")


def test_a_match_is_cut_at_a_page_border_for_who_needs_whole_pages() -> None:
    cache = make_cache()
    hold(cache, "abcdef")
    assert ask(cache, "abcdef", whole_pages_only=True) == Finding(4, "whole_pages")
    assert ask(cache, "abcdX", whole_pages_only=True) == Finding(4, "diverged")
    assert ask(cache, "abcd", whole_pages_only=True) == Finding(4, "complete")


def test_the_memory_is_bounded_and_keeps_the_newest() -> None:
    clock = Clock()
    evicted = EvictedPrefixes(1, 8, clock)
    cache = make_cache()
    cache = PrefixCache(64, 1, clock=clock)
    cache._evicted = cache.tree.evicted = evicted
    hold(cache, "abcdefgh")
    cache.evict(8)
    # Of one cut, those nearest to the root.
    assert len(evicted) == 4
    assert ask(cache, "abcdefgh").cause == "evicted"
    for letter in "uvwxyz":
        hold(cache, letter)
        cache.evict(1)
        assert len(evicted) <= 8
    assert ask(cache, "abcdefgh").cause == "never_seen"
    for letter in "wxyz":
        assert ask(cache, letter).cause == "evicted"


def test_a_leaf_that_grew_otherwise_after_a_cut_is_hashed_anew() -> None:
    cache = make_cache()
    hold(cache, "abcdefghijklmnopqrst")
    cache.evict(3)
    hold(cache, "abcdefghIJKLMNOPQRST")
    cache.evict(5)
    # On a new node, which knows none of the old one's hashes.
    hold(cache, "abcdefghIJKLMNOP")
    assert ask(cache, "abcdefghIJKLMNOPQRST") == Finding(16, "evicted", 0.0)


def test_the_newest_eviction_of_the_same_counts() -> None:
    clock = Clock()
    cache = PrefixCache(64, 1, clock=clock)
    cache._evicted = cache.tree.evicted = EvictedPrefixes(1, 4, clock)
    for text in ("a", "x", "y", "a"):
        clock.now_s += 1
        hold(cache, text)
        cache.evict(len(text))
    clock.now_s += 5
    assert ask(cache, "a") == Finding(0, "evicted", 5.0)


def test_a_clock_that_goes_backwards_tells_no_negative_age() -> None:
    clock = Clock()
    cache = make_cache(clock=clock)
    hold(cache, "abcd")
    cache.evict(1)
    clock.now_s -= 50
    assert ask(cache, "abcd") == Finding(0, "evicted", 0.0)


def test_what_others_hold_is_told_to_the_operator_alone() -> None:
    cache = make_cache()
    hold(cache, "abcdef", OTHER)
    tokens = tokens_of("abcdefgh")
    assert cache.explain(DEFAULT_NAMESPACE, tokens) == Finding(0, "never_seen")
    assert cache.is_held_elsewhere(DEFAULT_NAMESPACE, tokens, 0)
    assert cache.is_held_elsewhere(DEFAULT_NAMESPACE, tokens, 5)
    assert not cache.is_held_elsewhere(DEFAULT_NAMESPACE, tokens, 6)
    assert not cache.is_held_elsewhere(OTHER, tokens, 0)
    assert not cache.is_held_elsewhere(DEFAULT_NAMESPACE, tokens_of("xyz"), 0)


# -- against a plain model ------------------------------------------------------------------------

Prefix = tuple[str | None, tuple[int, ...]]
"""Whose it is (None: everybody's), and its tokens."""

TEXTS = st.lists(st.sampled_from("ab"), min_size=1, max_size=14).map("".join)
NAMESPACES = st.sampled_from([DEFAULT_NAMESPACE, OTHER])
CALLS = st.lists(
    st.tuples(st.just("hold"), TEXTS, NAMESPACES)
    | st.tuples(st.just("evict"), st.integers(1, 4), NAMESPACES)
    | st.tuples(st.just("clear"), st.booleans(), NAMESPACES),
    max_size=16,
)


def held_prefixes(cache: PrefixCache) -> set[Prefix]:
    """Every prefix that the tree holds, found by walking it."""
    found: set[Prefix] = set()
    stack: list[tuple[Node, tuple[int, ...]]] = [(root, ()) for root in cache.tree.roots.values()]
    while stack:
        node, above = stack.pop()
        path = (*above, *node.tokens.tolist())
        found |= {(node.namespace, path[:end]) for end in range(node.start + 1, len(path) + 1)}
        stack.extend((child, path) for child in node.children.values())
    return found


class Model:
    """A cache, and in plain sets what it held and lost and when."""

    def __init__(
        self, page_size: int, policy: EvictionPolicy, clock: Clock, public: list[str]
    ) -> None:
        self.clock = clock
        self.public = [tuple(tokens_of(text).tolist()) for text in public]
        self.page_size = page_size
        self.cache = PrefixCache(40, page_size, policy, clock=clock)
        self.cache.set_public([tokens_of(text) for text in public])
        self.lost: dict[Prefix, float] = {}

    def call(self, verb: str, what: str | int | bool, namespace: Namespace) -> None:
        self.clock.now_s += 1
        before = held_prefixes(self.cache)
        if isinstance(what, str):
            hold(self.cache, what, namespace)
        elif verb == "evict":
            self.cache.evict(what)
        else:
            self.cache.clear(namespace if what else None)
        gone = before - held_prefixes(self.cache)
        if verb == "clear":
            kept = {} if not what else {k: v for k, v in self.lost.items() if k[0] != namespace}
            self.lost = kept
        else:
            self.lost.update(dict.fromkeys(gone, self.clock.now_s))

    def owned(self, namespace: Namespace, prefix: tuple[int, ...]) -> Prefix:
        is_public = any(one[: len(prefix)] == prefix for one in self.public)
        return (None if is_public else namespace, prefix)

    def check(self, text: str, namespace: Namespace) -> None:
        tokens = tuple(tokens_of(text).tolist())
        held = {path for name, path in held_prefixes(self.cache) if name in (namespace, None)}
        depth = max((end for end in range(len(tokens) + 1) if tokens[:end] in held), default=0)
        finding = self.cache.explain(namespace, tokens_of(text))
        assert finding.num_tokens == depth
        assert finding == self.cache.explain(namespace, tokens_of(text)), "asking has changed it"
        goes_on = depth > 0 and any(
            len(path) > depth and path[:depth] == tokens[:depth] for path in held
        )
        age = {
            end: self.clock.now_s - self.lost[owned]
            for end in range(depth + 1, len(tokens) + 1)
            if (owned := self.owned(namespace, tokens[:end])) in self.lost
        }
        border = -(-depth // self.page_size) * self.page_size
        if finding.cause == "evicted":
            # Never without reason, and with the age of something that follows.
            assert depth + 1 in age
            assert finding.evicted_s_ago in age.values()
        elif depth == len(tokens):
            assert finding.cause == "complete"
        else:
            # At a border the next token decides, inside a page the next page's first one.
            assert border + 1 not in age
            assert finding.cause == ("diverged" if goes_on else "never_seen")
        if border == depth and depth + 1 in age:
            assert finding.evicted_s_ago == age[depth + 1]


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=120)
@given(
    page_size=st.sampled_from([1, 2, 4]),
    public=st.lists(TEXTS, max_size=2),
    calls=CALLS,
    texts=st.lists(TEXTS, max_size=4),
)
def test_causes_and_matches_are_those_of_a_plain_model(
    policy: str,
    page_size: int,
    public: list[str],
    calls: list[tuple[str, str | int | bool, Namespace]],
    texts: list[str],
) -> None:
    clock = Clock()
    model = Model(page_size, make_policy(policy, clock, 40, page_size), clock, public)
    held = [what for verb, what, _ in calls if isinstance(what, str)]
    for verb, what, namespace in calls:
        model.call(verb, what, namespace)
        for text in (*texts, *held):
            model.check(text, namespace)
    model.cache.check_invariants()


@settings(max_examples=60)
@given(calls=CALLS, texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_reports_are_the_same_whatever_another_namespace_holds(
    calls: list[tuple[str, str | int | bool, Namespace]], texts: list[str]
) -> None:
    """The pool is ample, so that the other namespace can do nothing but hold, or lose, the same."""
    alone, beside = (PrefixCache(400, 4, clock=Clock()) for _ in range(2))
    for text in texts:
        hold(beside, text + "aaaa", OTHER)
    beside.evict(3)
    for _, what, _ in calls:
        if isinstance(what, str):
            hold(alone, what)
            hold(beside, what)
    for text in texts:
        assert ask(alone, text) == ask(beside, text)


@settings(max_examples=60)
@given(public=TEXTS, calls=CALLS, texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_reports_are_the_same_whatever_another_namespace_holds_behind_what_is_public(
    public: str, calls: list[tuple[str, str | int | bool, Namespace]], texts: list[str]
) -> None:
    """In one cache a third namespace has used as much of the public prefix, in the other the same
    requests go on behind it; and those tokens, but not the public ones, are lost."""
    alone, beside = (PrefixCache(400, 4, clock=Clock()) for _ in range(2))
    for cache in (alone, beside):
        cache.set_public([tokens_of(public)])
    for text in texts:
        num_public = alone.public_prefixes.length(tokens_of(text))
        if num_public:
            hold(alone, text[:num_public], OTHER)
            hold(beside, text[:num_public], OTHER)
        hold(beside, text, OTHER)
        hold(beside, text + "aaaa" if num_public < len(text) else text, OTHER)
    for position, (_, what, _) in enumerate(calls):
        if position == len(calls) // 2:
            beside.forget(OTHER)
        if isinstance(what, str):
            hold(alone, what)
            hold(beside, what)
    for text in texts:
        assert ask(alone, text) == ask(beside, text)
