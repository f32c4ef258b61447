"""The cache against a simulated KV memory: whatever is shared must hold exactly the right prefix.

Every slot of the memory holds the whole prefix (namespace and tokens) whose last token's keys and
values a real runner would have put there. So reading a page table back shows at once whether two
contexts were ever mixed, a page was written that someone shared, or a copy was forgotten. Free
pages are wiped after every rule: nobody can live on what they used to hold. And whatever a
namespace reads it has computed itself, or it is public.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from radixserve.cache.prefix_cache import Lease, PrefixCache, Use
from radixserve.cache.retention import Keep
from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, PageId, TokenArray
from tests.cache.failing_pool import FailingPool
from tests.cache.public_model import Path, PublicModel, Tokens, common_prefix
from tests.cache.retention_check import check_retention
from tests.cache.tree_paths import all_paths, longest_paths

NAMESPACES = [Namespace("a"), Namespace("b")]

KEEPS = st.none() | st.builds(
    Keep, st.sampled_from([0, 1, 7, 16, 1000]), st.sampled_from([0.0, 0.5, 8.0, 500.0])
)
"""Marks of all lengths, which end at once, soon or never."""

PREFIXES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=20).map(tuple), max_size=3)
"""Public ones."""


@dataclass
class Running:
    """A request as the scheduler would keep it."""

    namespace: Namespace
    tokens: list[int]
    num_computed: int
    lease: Lease = field(repr=False)
    epoch: int
    """Which public prefixes it began under."""


def as_array(tokens: Tokens | list[int]) -> TokenArray:
    return np.array(tokens, dtype=np.int32)


class CacheMachine(RuleBasedStateMachine):
    """Requests come, run in batches, fork, commit, end; pages are evicted and run out."""

    @initialize(
        page_size=st.sampled_from([1, 2, 4, 16]),
        pool=st.sampled_from(["tiny", "small", "ample"]),
        public=st.just([]) | PREFIXES,
    )
    def start(self, page_size: int, pool: str, public: list[Tokens]) -> None:
        num_pages = {"tiny": 3, "small": 10, "ample": 400}[pool]
        if page_size == 16:
            num_pages = max(2, num_pages // 2)
        self.page_size = page_size
        self.pool = FailingPool(num_pages)
        self.cache = PrefixCache(num_pages, page_size, pool=self.pool)
        self.now_s = 0.0
        self.cache.retention._clock = lambda: self.now_s
        self.memory = np.full((num_pages, page_size), None, dtype=object)
        self.running: list[Running] = []
        self.inserted: dict[str, set[Tokens]] = {name: set() for name in NAMESPACES}
        self.known: list[Tokens] = [()]
        self.public = PublicModel()
        self.name_public(public)
        self.lossless = True

    def name_public(self, prefixes: list[Tokens]) -> bool:
        self.cache.set_public([as_array(prefix) for prefix in prefixes])
        self.known += prefixes
        return self.public.name(prefixes)

    def paths(self) -> list[Path]:
        return all_paths(self.cache.tree)

    def contents(self) -> list[Path]:
        return longest_paths(self.cache.tree)

    def longest_inserted(self, namespace: str, tokens: Tokens) -> int:
        """How much of ``tokens`` has ever been put where the namespace may see it."""
        num_public = self.public.length(tokens)
        return max(
            min(common_prefix(tokens, held), len(tokens) if name == namespace else num_public)
            for name, inserted in self.inserted.items()
            for held in (*inserted, ())
        )

    def attempt(self, call: Callable[[], Any]) -> Any:
        """The call's result, or None if pages ran out; then nothing may have changed."""
        injected = self.pool.fails
        leases = [copy.copy(request.lease.page_table) for request in self.running]
        contents = self.contents()
        counts = (self.pool.free_pages, self.pool.cached_pages)
        num_superseded = self.cache.tree.num_superseded_pages()
        evicted = self.cache.evicted_pages
        try:
            return call()
        except OutOfPagesError:
            num_gained = self.pool.free_pages + self.pool.cached_pages - sum(counts)
            # Evicting, before the injected failure, may have found superseded pages.
            assert 0 <= num_gained <= (num_superseded if injected else 0)
            for request, table in zip(self.running, leases, strict=True):
                assert np.array_equal(request.lease.page_table, table)
            if not injected:
                assert counts == (self.pool.free_pages, self.pool.cached_pages)
                assert self.contents() == contents
            return None
        finally:
            self.pool.fails = False
            self.lossless &= self.cache.evicted_pages == evicted

    # Rules

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        pick=st.integers(0, 1000),
        cut=st.integers(0, 80),
        suffix=st.lists(st.integers(0, 1), max_size=20),
        whole_pages_only=st.booleans(),
    )
    def acquire(
        self,
        namespace: Namespace,
        pick: int,
        cut: int,
        suffix: list[int],
        whole_pages_only: bool,
    ) -> None:
        base = self.known[pick % len(self.known)]
        self.admit(namespace, (*base[: max(0, len(base) - cut % 24)], *suffix), whole_pages_only)

    def admit(
        self, namespace: Namespace, prompt: Tokens, whole_pages_only: bool, use: Use | None = None
    ) -> None:
        expected = self.public.longest_match(namespace, prompt, self.paths())
        assert expected <= self.longest_inserted(namespace, prompt)
        if self.lossless:
            assert expected == self.longest_inserted(namespace, prompt)
        before = self.cache.tree.format()
        assert self.cache.match(namespace, as_array(prompt)) == expected
        assert self.cache.tree.format() == before, "match changed the tree"
        lease = self.attempt(
            lambda: self.cache.acquire(
                namespace, as_array(prompt), whole_pages_only=whole_pages_only, use=use
            )
        )
        if lease is None:
            assert expected % self.page_size
            assert not whole_pages_only
            return
        if whole_pages_only:
            expected -= expected % self.page_size
        assert lease.num_cached_tokens == lease.num_committed_tokens == expected
        assert use is None or lease.use is use
        assert (lease.pending_copy is not None) == (expected % self.page_size > 0)
        epoch = self.public.epoch
        self.running.append(Running(namespace, list(prompt), expected, lease, epoch))
        num_public = self.public.length(prompt)
        for owner in self.owners(self.running[-1])[num_public:]:
            assert owner == namespace, "matched another's tokens, which are not public now"

    @precondition(lambda self: self.running)
    @rule(
        picks=st.sets(st.integers(0, 5), min_size=1),
        num_tokens=st.integers(1, 40),
        new=st.lists(st.integers(0, 1), min_size=8, max_size=8),
    )
    def step(self, picks: set[int], num_tokens: int, new: list[int]) -> None:
        batch: list[tuple[Running, int]] = []
        for index in sorted({pick % len(self.running) for pick in picks}):
            request = self.running[index]
            if request.num_computed == len(request.tokens):
                request.tokens.extend(new[: 1 + index % len(new)])
            end = min(len(request.tokens), request.num_computed + num_tokens)
            self.attempt(partial(self.cache.reserve, request.lease, end))
            if request.lease.num_reserved_tokens >= end:
                batch.append((request, end))
        copies = [r.lease.pending_copy for r, _ in batch if r.lease.pending_copy is not None]
        assert not {c.source for c in copies} & {c.target for c in copies}
        for planned in copies:
            self.memory[planned.target] = self.memory[planned.source]
        sources = [
            r.lease.pending_copy.source for r in self.running if r.lease.pending_copy is not None
        ]
        for request, end in batch:
            for position in range(request.num_computed, end):
                page = PageId(int(request.lease.page_table[position // self.page_size]))
                holders = self.pool.ref_count(page) - sources.count(page)
                assert holders == 1, f"writing into page {page}, which {holders} hold"
                self.memory[page, position % self.page_size] = (
                    request.namespace,
                    tuple(request.tokens[: position + 1]),
                )
            request.num_computed = end
        for request, _ in batch:
            if request.lease.pending_copy is not None:
                self.cache.finish_copy(request.lease)

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 5))
    def commit(self, pick: int) -> None:
        request = self.running[pick % len(self.running)]
        computed = tuple(request.tokens[: request.num_computed])
        self.cache.commit(request.lease, as_array(computed))
        full = len(computed) - len(computed) % self.page_size
        assert request.lease.num_committed_tokens >= full
        assert request.lease.num_shared_pages == full // self.page_size
        if request.epoch == self.public.epoch:
            assert self.cache.match(request.namespace, as_array(computed)) >= full
        self.inserted[request.namespace].add(computed[:full])

    @precondition(lambda self: 0 < len(self.running) < 6)
    @rule(pick=st.integers(0, 5))
    def fork(self, pick: int) -> None:
        request = self.running[pick % len(self.running)]
        self.commit(pick)
        parent_table = request.lease.page_table.copy()
        computed = request.tokens[: request.num_computed]
        lease = self.attempt(lambda: self.cache.fork(request.lease, as_array(computed)))
        assert np.array_equal(request.lease.page_table, parent_table), "the fork changed its parent"
        if lease is not None:
            assert lease.num_cached_tokens == request.num_computed
            assert lease.use is request.lease.use
            num_computed, epoch = request.num_computed, request.epoch
            self.running.append(Running(request.namespace, computed, num_computed, lease, epoch))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 5), keep=KEEPS)
    def release(self, pick: int, keep: Keep | None = None) -> None:
        request = self.running.pop(pick % len(self.running))
        computed = tuple(request.tokens[: request.num_computed])
        ran = request.lease.pending_copy is None
        keeps = () if keep is None else (keep,)
        self.cache.release(request.lease, as_array(computed), keeps)
        if ran:
            self.inserted[request.namespace].add(computed)
            if request.epoch == self.public.epoch:
                assert self.cache.match(request.namespace, as_array(computed)) == len(computed)
        self.known.append(computed)
        assert request.lease.use.num_tokens >= (len(computed) if ran else 0)
        with pytest.raises(RuntimeError, match="released"):
            self.cache.release(request.lease, as_array(computed))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 5), num_evicted=st.sampled_from([0, 1, 1000]))
    def preempt(self, pick: int, num_evicted: int) -> None:
        """A request ends its lease and is admitted again, when what it had may be gone."""
        request = self.running[pick % len(self.running)]
        self.release(pick)
        self.make_room(num_evicted, None)
        tokens = tuple(request.tokens)
        self.admit(request.namespace, tokens, whole_pages_only=False, use=request.lease.use)

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        pick=st.integers(0, 1000),
        cut=st.integers(0, 80),
        suffix=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        keep=KEEPS,
    )
    def whole_request(
        self, namespace: Namespace, pick: int, cut: int, suffix: list[int], keep: Keep | None
    ) -> None:
        """One request from beginning to end, so that the tree fills up."""
        num_running = len(self.running)
        self.acquire(namespace, pick, cut, suffix, whole_pages_only=False)
        if len(self.running) > num_running:
            self.step({num_running}, 1000, [0] * 8)
            self.release(num_running, keep)

    @rule(
        num_pages=st.sampled_from([0, 1, 1, 2, 3, 5, 1000]),
        namespace=st.sampled_from([None, None, *NAMESPACES]),
    )
    def make_room(self, num_pages: int, namespace: Namespace | None) -> None:
        if namespace is not None:
            self.forget(namespace)
            return
        free = self.cache.free_pages
        evictable = self.cache.cached_pages + self.cache.tree.num_superseded_pages()
        num_freed = self.cache.evict(num_pages)
        assert min(num_pages, evictable) <= num_freed <= min(num_pages + 1, evictable)
        assert self.cache.free_pages == free + num_freed
        self.lossless &= num_pages == 0

    def forget(self, namespace: Namespace) -> None:
        free = self.cache.free_pages
        other = [path for path in self.contents() if path.owner != namespace]
        assert self.cache.forget(namespace) == self.cache.free_pages - free
        assert [path for path in self.contents() if path.owner != namespace] == other
        own = [node for node in self.cache.tree.nodes() if node.namespace == namespace]
        assert all(node.lock_count for node in own)
        assert bool(own) == (namespace in self.cache.tree.namespaces)
        self.lossless = False

    @rule(prefixes=PREFIXES, really=st.integers(0, 3))
    def set_public(self, prefixes: list[Tokens], really: int) -> None:
        if really == 0 and self.name_public(prefixes):
            self.lossless = False
            for path in self.paths():
                is_found = path.num_public == self.public.length(path.tokens)
                assert is_found or path.is_locked, f"{path} lies where nobody finds it"

    @rule(seconds=st.sampled_from([-100.0, 0.2, 5.0, 5.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def fail_next_allocation(self) -> None:
        self.pool.fails = True

    # What must hold after every rule

    @invariant()
    def counts_add_up(self) -> None:
        self.cache.check_invariants([request.lease for request in self.running])
        info = self.cache.info()
        assert info.free_pages + info.cached_pages + info.in_use_pages == info.total_pages

    @invariant()
    def marks_are_sound(self) -> None:
        check_retention(self.cache)

    @invariant()
    def memory_holds_what_it_should(self) -> None:
        for page in range(self.pool.num_pages):
            if self.pool.ref_count(page) == 0:
                self.memory[page] = None
        for path in self.paths():
            self.check_slots(path.owner, path.tokens, path.table)
        for request in self.running:
            self.owners(request)

    def owners(self, request: Running) -> list[str]:
        """Who has computed what a request has behind it, by position; checked."""
        table = request.lease.page_table.tolist()
        pending = request.lease.pending_copy
        if pending is not None:
            table[request.num_computed // self.page_size] = int(pending.source)
        computed = tuple(request.tokens[: request.num_computed])
        return self.check_slots(request.namespace, computed, table)

    def check_slots(self, owner: str, tokens: Tokens, table: list[int]) -> list[str]:
        owners = []
        for position in range(len(tokens)):
            page, offset = table[position // self.page_size], position % self.page_size
            computed_by, prefix = self.memory[page, offset]
            assert prefix == tokens[: position + 1]
            assert computed_by == owner or prefix in self.public.ever
            owners.append(computed_by)
        return owners

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.pool.fails = False
        while self.running:
            self.release(0)
        self.cache.check_invariants()
        assert self.cache.in_use_pages == 0
        self.cache.evict(self.cache.total_pages)
        assert self.cache.free_pages == self.cache.total_pages
        assert not self.cache.tree.roots


CacheMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
)
TestCache = CacheMachine.TestCase
