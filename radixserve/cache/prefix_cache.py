"""The cache as the scheduler sees it: leases on cached prefixes, pages to write, pages to copy.

    lease = cache.acquire(ns, prompt[:-1])    what the tree holds is locked, not computed
    cache.reserve(lease, n)                   pages for tokens up to n
      ... a step runs; plan.copies had lease.pending_copy in it ...
    cache.finish_copy(lease)                  the border page is the request's own now
    cache.commit(lease, computed)             full pages enter the tree: others may share them
    cache.release(lease, computed)            the rest enters too, locks and own pages go

It plans copies and never performs one; it knows page ids and token ids, no tensors, no requests.

Invariants, after every call: ``free + cached + in_use == total``; every cached page can be had by
evicting; a page is written only by the one lease that owns it, and never while the tree lists it
(someone may still have to copy from it what was in it: copies run before writes). A call that
raises ``OutOfPagesError`` has changed no lease and dropped no page.

Costs: a decode step inside its last page costs O(1) in ``reserve`` and in ``commit``; otherwise
each call costs what it moves (tokens compared or inserted, pages), plus O(1) per node on the path.

The law of order. The cache changes hands at once, while steps that were planned before may still
be in flight. That is safe because of two things that whoever runs the steps owes: steps, each with
its copies before its writes, run one after another in the order in which they were launched; and a
step's page tables are copied when it is launched. So what a step in flight reads and writes was
settled at its launch, by leases that held those pages then, and whoever is given one of them
afterwards touches it in a later step, which runs later. Of a lease that steps in flight use:

- ``release`` is safe. Own pages become free though a step will still read or write them: their next
  owner writes them after it. A partial page goes into the tree though a step may still write into
  it: behind the tokens that the tree claims, for a row starts where the known computed tokens end.
  Those slots stay junk, for nobody ever writes into a page of the tree: whoever goes on from its
  tokens copies the page, in a later step, and overwrites the junk in the copy; a leaf that "grows
  in place" lists that copy from then on.
- ``commit`` is safe. A page that it gives back for the tree's may be read once more by a step in
  flight, whose table still lists it. It is not written: a row in flight starts behind the tokens
  committed, hence behind every full page of them.
- Dropping a pending copy that is in flight (``release``) is safe: source and target change hands
  after it has run. While the lease lives its source stays held until ``finish_copy``, so that no
  eviction gets it meanwhile; that is more than order asks for.
- ``evict``, ``forget`` and ``clear`` are safe: a living lease's pages are locked or its own.

Forbidden: giving ``commit``, ``fork`` or ``release`` a token that is not known to be computed,
launched or not: a step in flight may fail, and then the tree would claim what is not there.
``fork`` of a lease with a row in flight: where the choices part is not known yet. A pending copy in
a second plan: it would undo what the first step wrote behind it. Changing a lease's table and
launching a plan made before: ``commit`` swaps pages. ``finish_copy`` before the step has run.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from radixserve.cache import explain
from radixserve.cache.allocator import Allocator
from radixserve.cache.events import EventLog
from radixserve.cache.evicted import Clock, EvictedPrefixes
from radixserve.cache.eviction import LRU, EvictionPolicy
from radixserve.cache.explain import Finding
from radixserve.cache.lease import Lease, PageCopy, Use
from radixserve.cache.lease_check import check_leases
from radixserve.cache.lookup import page_table
from radixserve.cache.page_pool import PagePool
from radixserve.cache.public_prefixes import PublicPrefixes
from radixserve.cache.radix_tree import RadixTree
from radixserve.cache.retention import Keep, Retention
from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, PageId, TokenArray
from radixserve.types import CacheEvent, CacheInfo

__all__ = ["Finding", "Lease", "PageCopy", "PrefixCache", "Use"]

_MIN_REMEMBERED: Final = 4096
_MAX_REMEMBERED: Final = 2**18


class PrefixCache:
    """Pool, tree and policy under one roof. ``pool`` may be injected (tests let it fail).

    Without a ``policy`` it evicts by LRU, as suits tests. The engine gives one, by default that of
    ``policies.DEFAULT_POLICY``.

    ``clock`` dates evictions. What was evicted is remembered by hash, four times as many pages as
    there are, within bounds (``evicted.py``).
    """

    __slots__ = ("_allocator", "_evicted", "page_size", "policy", "pool", "retention", "tree")

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        policy: EvictionPolicy | None = None,
        *,
        pool: PagePool | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.page_size = page_size
        self.pool = PagePool(num_pages) if pool is None else pool
        self.policy: EvictionPolicy = LRU() if policy is None else policy
        self.retention = Retention(self.policy, clock, num_pages, page_size)
        self.tree = RadixTree(page_size, self.pool, self.retention)
        num_remembered = min(max(_MIN_REMEMBERED, 4 * num_pages), _MAX_REMEMBERED)
        self._evicted = EvictedPrefixes(page_size, num_remembered, clock)
        self.tree.evicted = self._evicted
        self._allocator = Allocator(self.pool, self.tree)

    # A request's life

    def match(self, namespace: Namespace, tokens: TokenArray) -> int:
        """How many leading tokens of ``tokens`` (int32[n]) are cached. Read-only, not capped.

        *Cost*: O(matched tokens + the rest of the last edge), vectorised, plus about 2 µs a node.
        """
        return self.tree.match(namespace, tokens).num_tokens

    @property
    def public_prefixes(self) -> PublicPrefixes:
        """What every namespace shares; changed through ``set_public`` alone."""
        return self.tree.public

    def explain(
        self, namespace: Namespace, tokens: TokenArray, *, whole_pages_only: bool = False
    ) -> Finding:
        """What ``acquire`` would find just now, and why no more. Changes nothing that shows.

        *Cost*: ``match`` + ``EvictedPrefixes.seconds_since``.
        """
        match = self.tree.match(namespace, tokens)
        finding = explain.explain(match, tokens, self._evicted, self.tree.tenant_edges)
        return finding.whole_pages(self.page_size) if whole_pages_only else finding

    def is_held_elsewhere(self, namespace: Namespace, tokens: TokenArray, num_tokens: int) -> bool:
        """See ``explain.is_held_elsewhere``: not to be told to whoever sent the tokens."""
        match = self.tree.match(namespace, tokens)
        return explain.is_held_elsewhere(self.tree.roots, match, tokens, num_tokens)

    def acquire(
        self,
        namespace: Namespace,
        tokens: TokenArray,
        *,
        whole_pages_only: bool = False,
        use: Use | None = None,
    ) -> Lease:
        """Lock the longest cached prefix of ``tokens`` (int32[n]: the prompt but its last token).

        If it ends inside a page, that page is to be copied: ``lease.pending_copy`` says from where
        to where. With ``whole_pages_only`` the match is cut at the last page border instead. A
        request that had a lease before gives its ``use``, lest it count as another.

        *Mutates* locks; evicts to get the one page. *Raises* ``OutOfPagesError`` with every page
        and lease as it was (a locked edge may stay split). *Cost*: ``match`` + ``RadixTree.lock``
        + O(pages matched).
        """
        match = self.tree.match(namespace, tokens)
        num_tokens = match.num_tokens
        if whole_pages_only:
            num_tokens -= num_tokens % self.page_size
        node = self.tree.lock(match, num_tokens)
        table = page_table(node, self.page_size)
        copy = None
        if num_tokens % self.page_size:
            try:
                copy = self._allocator.plan_copy(PageId(int(table[-1])))
            except OutOfPagesError:
                self.tree.unlock_unused(node)
                raise
            table[-1] = copy.target
        return Lease(
            node,
            table,
            namespace,
            page_size=self.page_size,
            num_cached_tokens=num_tokens,
            pending_copy=copy,
            use=Use() if use is None else use,
        )

    def reserve(self, lease: Lease, num_tokens: int) -> None:
        """See to it that the lease has pages for its tokens ``[0, num_tokens)``.

        *Mutates* the lease; evicts as needed. *Raises* ``OutOfPagesError`` with everything as it
        was. *Cost*: O(1) if they are there already, else O(new pages) and the eviction.
        """
        if num_tokens <= lease.num_reserved_tokens:
            return
        # A released lease has no pages, so it comes this far and is found out here.
        lease.require_alive()
        num_missing = -(-num_tokens // self.page_size) - lease.num_pages
        lease.append_pages(self._allocator.allocate(num_missing, lease.page_table))

    def commit(self, lease: Lease, tokens: TokenArray) -> None:
        """Let the full pages of ``tokens`` (int32[n]: all that the request has computed) be shared.

        Where the tree already held the same tokens its pages replace the lease's in the table, and
        the lease's become free at once: a step in flight may still read them (the law of order).
        *Mutates* lease and tree. *Raises* ``ValueError`` for more tokens than were reserved.
        *Cost*: O(1) without a new full page, else O(new tokens).
        """
        num_full = len(tokens) // self.page_size
        if num_full <= lease.num_shared_pages:
            return
        self._check_computed(lease, tokens)
        first = lease.num_shared_pages
        pages = lease.page_table[first:num_full]
        computed = tokens[: num_full * self.page_size]
        node = self.tree.insert(lease.node, computed, pages, lease.namespace)
        self.pool.unuse(pages)
        lease.move_down(node, page_table(node, self.page_size, first))

    def fork(self, lease: Lease, tokens: TokenArray) -> Lease:
        """Another lease on the same computed tokens (int32[n]), sharing every full page: another
        choice of the same request.

        Commits first. A partial last page is to be copied from ``lease``, which goes on writing
        into it: behind the tokens that the copy is for, and after the copy if in the same step.

        *Mutates* the tree; evicts to get the one page. *Raises* ``OutOfPagesError`` with no fork
        made (and the commit done). *Cost*: ``commit`` + O(pages + nodes on the path).
        """
        if len(tokens) < lease.num_committed_tokens:
            raise ValueError(
                f"forking at {len(tokens)} tokens, of which {lease.num_committed_tokens} are "
                "committed; give all computed tokens"
            )
        if len(tokens) > lease.num_committed_tokens:
            self._check_computed(lease, tokens)
        self.commit(lease, tokens)
        num_shared = lease.num_shared_pages
        table = lease.page_table[: -(-len(tokens) // self.page_size)].copy()
        copy = None
        if len(tokens) % self.page_size:
            # A copy never waits for another: before ``lease``'s own has run, both have one source.
            pending = lease.pending_copy
            source = PageId(int(table[-1])) if pending is None else pending.source
            copy = self._allocator.plan_copy(source)
            table[num_shared] = copy.target
        self.tree.lock_again(lease.node)
        return Lease(
            lease.node,
            table,
            lease.namespace,
            page_size=self.page_size,
            num_cached_tokens=len(tokens),
            pending_copy=copy,
            use=lease.use,
        )

    def finish_copy(self, lease: Lease) -> None:
        """The step that had ``lease.pending_copy`` in its plan has run. *Cost*: O(1)."""
        copy = lease.pending_copy
        if copy is None:
            raise RuntimeError(f"{lease} has no copy pending")
        self.pool.unuse(np.array([copy.source], dtype=np.int32))
        lease.pending_copy = None

    def release(self, lease: Lease, tokens: TokenArray, keeps: Sequence[Keep] = ()) -> None:
        """End the lease; ``tokens`` (int32[n]: all computed ones) stay, the partial page included.

        ``keeps`` ask to evict others first, for a while (``retention.py`` bounds what they can do).
        If the pending copy never ran, nothing was computed and nothing is inserted. *Mutates* lease
        and tree. *Raises* ``RuntimeError`` if it has been released before, ``ValueError`` for more
        tokens than were reserved. *Cost*: O(new tokens + own pages + nodes on the path) + merges.
        """
        node = lease.node
        if lease.pending_copy is not None:
            self.finish_copy(lease)
        elif len(tokens) > node.end:
            self._check_computed(lease, tokens)
            num_pages = -(-len(tokens) // self.page_size)
            pages = lease.page_table[lease.num_shared_pages : num_pages]
            node = self.tree.insert(node, tokens, pages, lease.namespace)
        self.pool.unuse(lease.own_pages)
        for keep in keeps:
            self.retention.mark(node, keep, lease.namespace)
        use = lease.use
        self.tree.unlock(node, use.num_tokens)
        use.num_tokens = max(use.num_tokens, node.end)
        lease.close()

    def give_back(self, lease: Lease) -> None:
        """End a lease that no step has run on, as if it had never been acquired: what it had locked
        counts as no more used than before.

        *Mutates* lease and tree. *Cost*: O(own pages + nodes on the path) + merges.
        """
        node = lease.node
        if lease.pending_copy is not None:
            self.finish_copy(lease)
        self.pool.unuse(lease.own_pages)
        self.tree.unlock_unused(node)
        lease.close()

    def _check_computed(self, lease: Lease, tokens: TokenArray) -> None:
        lease.require_alive()
        if len(tokens) > lease.num_reserved_tokens:
            raise ValueError(
                f"{len(tokens)} computed tokens in pages for {lease.num_reserved_tokens}; reserve "
                "before running"
            )
        assert lease.pending_copy is None or len(tokens) <= lease.num_cached_tokens, (
            f"{lease} has computed tokens behind a pending copy"
        )

    def set_public(self, prefixes: Sequence[TokenArray]) -> None:
        """Let every namespace share these prefixes (int32[n] each), and no others from now on.

        What is then public of a request's tokens is computed once for all namespaces, and who
        computes it shows to the others in how fast it is; nothing else of it does
        (``public_prefixes.py``). Meant to be called at start: later it drops what is cached and
        not in use of tokens that change sides, and what is in use of them is not found again.

        *Mutates* the tree. *Cost*: ``RadixTree.set_public``.
        """
        self.tree.set_public(prefixes)

    # Making room

    def evict(self, num_pages: int) -> int:
        """Make ``num_pages`` more pages free, or as many as are cached; returns how many."""
        return self._allocator.evict(num_pages)

    @property
    def evicted_pages(self) -> int:
        """Pages that eviction made free since the start."""
        return self._allocator.evicted_pages

    def forget(self, namespace: Namespace) -> int:
        """Drop what is cached under ``namespace`` and not in use; returns the pages made free."""
        return self.tree.forget(namespace)

    def clear(self, namespace: Namespace | None = None) -> int:
        """Drop everything, of all namespaces or one, that is not in use, and forget what was
        evicted; returns the pages made free. What is public is no namespace's."""
        if namespace is not None:
            self._evicted.forget(namespace)
            return self.forget(namespace)
        self._evicted.clear()
        num_freed = self.tree.forget_all()
        if self.tree.events is not None:
            self.tree.events.cleared()
        return num_freed

    # Watching

    def watch(self) -> list[CacheEvent]:
        """Begin to note which full pages come and go; returns a snapshot of what is stored.

        Called again it returns another snapshot, and forgets the events not taken, which are part
        of it. *Cost*: O(all tokens) the first time, then O(nodes + pages).
        """
        if self.tree.events is None:
            self.tree.events = EventLog(self.tree)
        return self.tree.events.snapshot()

    def unwatch(self) -> None:
        """Note nothing any more, at no cost."""
        self.tree.events = None

    def take_events(self) -> list[CacheEvent]:
        """What came and went since the last call, or since the snapshot; to be called regularly."""
        return [] if self.tree.events is None else self.tree.events.take()

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return self.pool.free_pages

    @property
    def cached_pages(self) -> int:
        """Pages that only unlocked nodes hold: all of them can be had by evicting."""
        return self.pool.cached_pages

    @property
    def in_use_pages(self) -> int:
        """Pages that a lease, a pending copy or a locked node holds."""
        return self.pool.in_use_pages

    @property
    def total_pages(self) -> int:
        """The size of the pool."""
        return self.pool.num_pages

    def info(self) -> CacheInfo:
        """Where the pages are. *Cost*: O(1)."""
        return CacheInfo(
            free_pages=self.free_pages,
            cached_pages=self.cached_pages,
            in_use_pages=self.in_use_pages,
            total_pages=self.total_pages,
            page_size=self.page_size,
        )

    def check_invariants(self, leases: Iterable[Lease] = ()) -> None:
        """Check pool and tree, and that ``leases`` (all living ones) explain every use and lock.

        *Raises* ``AssertionError`` that says what is broken and shows the tree. *Cost*: O(all).
        """
        check_leases(self.tree, leases)
