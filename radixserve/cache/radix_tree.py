"""The radix tree: which pages hold the keys and values of which tokens.

Each namespace has a root. An edge holds a run of tokens ``[start, end)`` and the pages that cover
it, indices ``start // P .. (end - 1) // P``. Below, P = 4 and every letter is a token:

    a b c d e f | g h          one edge, [0, 8), pages 7 8

A *split* inside a page copies nothing: both halves list the page, whose node count becomes 2. The
lower half keeps its identity, both carry the lock count:

    a b c d e f                [0, 6), pages 7 8
     └─ g h                    [6, 8), page  8

A new child whose edge starts inside a page brings a page of its own, which begins with its
ancestors' tokens. So along any path **the deepest edge that covers a page index supplies it**, and
if nothing else holds the page that the child's covers anew, the child's replaces it:

    a b c d e f                [0, 6), pages 7 8  ->  pages 7 9 (8 is free again, unless
     └─ x y z                  [6, 9), pages 9 3                 g h hangs there too)

Inserting ``tokens`` below a locked node is a walk of four cases:

    1. no child begins with the next token   a leaf that only this lease holds grows in place,
                                             else a new child is hung below
    2. a child's edge matches to its end     descend; the tree's pages win
    3. a child's edge goes on after ours     split there, descend into the upper half: done
    4. a child's edge turns away             split there, descend into the upper half: then case 1

An unlocked node with one child merges with it (roots never do).

The tree knows tokens and page ids; no requests, no tensors. It owns the topology and the lock
counts, and it keeps the pool's counts in step with them: every node holds each of its pages once
as a node, and every locked node once more as a user. Tokens are compared, never hashed.

Invariants (``tree_check.py`` states and checks all of them): lock counts never grow on the way
down, so below an unlocked node nothing is locked; the unlocked leaves are exactly what the policy
may evict; an unlocked root without children does not exist.

Costs: ``match`` compares the matched tokens, vectorised, plus O(1) a node; a split or a merge
copies the edges concerned; nothing depends on the size of the tree but the policy's O(log n).
Nothing recurses.
"""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from radixserve.cache.events import EventLog
from radixserve.cache.evicted import EvictedPrefixes
from radixserve.cache.eviction import EvictionPolicy
from radixserve.cache.lookup import Match, common_prefix, longest_match
from radixserve.cache.node import Node, Root
from radixserve.cache.page_pool import PagePool
from radixserve.cache.tree_check import UseCounts, check_tree, format_tree
from radixserve.errors import ConfigError
from radixserve.ids import Namespace, PageArray, TokenArray


def _lock_count(node: Node) -> int:
    return node.lock_count


def _key(node: Node) -> int:
    return int(node.tokens[0])


class RadixTree:
    """Prefixes and their pages. Mutates ``pool`` and ``policy``, which it must not share."""

    __slots__ = ("_roots", "events", "evicted", "page_size", "policy", "pool")

    def __init__(self, page_size: int, pool: PagePool, policy: EvictionPolicy) -> None:
        if page_size < 1:
            raise ConfigError(f"page_size is {page_size}; a page holds at least one token")
        self.page_size = page_size
        self.pool = pool
        self.policy = policy
        self.events: EventLog | None = None
        """Told of full pages that come and go, while somebody watches."""
        self.evicted: EvictedPrefixes | None = None
        """Told of what eviction cuts, if anybody wants to know."""
        self._roots: dict[Namespace, Root] = {}

    @property
    def roots(self) -> Mapping[Namespace, Root]:
        """The namespaces that hold something or are locked. Not to be changed."""
        return self._roots

    def nodes(self) -> Iterator[Node]:
        """Every node, roots included, parents before children. *Cost*: O(nodes)."""
        stack: list[Node] = list(self._roots.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    # Reading

    def match(self, namespace: Namespace, tokens: TokenArray) -> Match:
        """Find the longest prefix of ``tokens`` (int32[n]) held under ``namespace``. Read-only.

        *Cost*: as ``lookup.longest_match``.
        """
        root = self._roots.get(namespace)
        if root is None:
            return Match(namespace, 0, None)
        node, num_tokens = longest_match(root, tokens)
        return Match(namespace, num_tokens, node)

    # Locking

    def lock(self, match: Match, num_tokens: int) -> Node:
        """Lock the first ``num_tokens <= match.num_tokens`` tokens of a fresh match.

        Splits where they end and returns the node that ends there; creates the namespace's root if
        there is none. *Mutates* topology, lock counts, pool. *Cost*: O(nodes on the path + pages
        of those not locked before + the edge split).
        """
        assert num_tokens <= match.num_tokens, f"locking {num_tokens} tokens of {match}"
        node = match.node
        if node is None:
            node = self._roots[match.namespace] = Root(match.namespace)
        while node.parent is not None and node.start >= num_tokens:
            node = node.parent
        if num_tokens < node.end:
            node = self._split(node, num_tokens)
        self.lock_again(node)
        return node

    def lock_again(self, node: Node) -> None:
        """Add one lock to ``node`` and all above it. *Cost*: as ``lock``, without the split."""
        above: Node | None = node
        while above is not None:
            self._lock_one(above)
            above = above.parent

    def unlock(self, node: Node) -> None:
        """Take one lock off ``node`` and all above it, which were used; merge what became a chain.

        *Mutates* topology, lock counts, pool, policy. *Cost*: O(nodes on the path + pages of those
        no longer locked + edges merged).
        """
        self.policy.touch(node)
        self.unlock_unused(node)

    def unlock_unused(self, node: Node) -> None:
        """As ``unlock``, where nobody has used what was locked: to the policy nothing happened."""
        released: list[Node] = []
        above: Node | None = node
        while above is not None:
            assert above.lock_count > 0, f"unlocking {above}, which is not locked"
            above.lock_count -= 1
            if above.lock_count == 0:
                released.append(above)
            above = above.parent
        for idle in released:
            if isinstance(idle, Root):
                self._drop_root_if_idle(idle)
                continue
            self.pool.unuse(idle.pages)
            if not idle.children:
                self.policy.add(idle)
            elif self._merges_with_child(idle) and not self._merges_with_child(idle.parent):
                self._merge_chain(idle)

    def _lock_one(self, node: Node) -> None:
        if node.lock_count == 0 and node.parent is not None:
            self.pool.use(node.pages)
            if not node.children:
                self.policy.remove(node)
        node.lock_count += 1

    # Inserting

    def insert(self, node: Node, tokens: TokenArray, pages: PageArray) -> Node:
        """Insert a lease's tokens below the node that it has locked, and move its lock down.

        ``tokens`` int32[n] are all tokens from the root on; those above ``node.end`` are not looked
        at again. ``pages`` int32 cover indices ``node.end // P .. (n - 1) // P``; each is held by
        the caller as a user and goes on being so: what of them the tree did not take, because it
        held those tokens already, only the caller holds. Returns the node that ends at n, locked.

        *Mutates* topology, lock counts, pool. *Cost*: O(tokens inserted + pages + nodes walked +
        the edge split).
        """
        first = node.end // self.page_size
        while node.end < len(tokens):
            depth = node.end
            child = node.children.get(int(tokens[depth]))
            if child is None:
                return self._append(node, tokens[depth:], pages[depth // self.page_size - first :])
            common = common_prefix(child.tokens, tokens[depth:])
            if depth + common < child.end:
                child = self._split(child, depth + common)
            self._lock_one(child)
            node = child
        return node

    def _append(self, node: Node, tokens: TokenArray, pages: PageArray) -> Node:
        """Hang ``tokens`` below ``node``, to which no child offers a way, and lock them."""
        self.pool.attach(pages)
        self.pool.use(pages)
        if self.events is not None:
            self.events.stored(node, tokens, pages)
        num_partial = node.end % self.page_size
        if node.lock_count == 1 and not node.children and node.parent is not None:
            depth = node.end
            if num_partial:
                replaced = node.last_page.copy()
                node.extend(tokens, pages, num_kept_pages=node.num_pages - 1)
                self.pool.unuse(replaced)
                self.pool.detach(replaced)
                # The edge may have begun inside that page, of which its parent then lists a copy.
                if node.start > depth - num_partial:
                    self._replace_partial_page(node.parent, pages[:1])
            else:
                node.extend(tokens, pages, num_kept_pages=node.num_pages)
            return node
        child = Node(node, node.end, tokens, pages)
        child.lock_count = 1
        node.add_child(_key(child), child)
        if num_partial:
            self._replace_partial_page(node, pages[:1])
        return child

    def _replace_partial_page(self, node: Node, page: PageArray) -> None:
        """Let ``page`` take the place of ``node``'s partial last page, if only this path holds it.

        After splits inside the page several nodes in a row list it; all of them are locked (as
        ``node`` is), so each accounts for one node and one use. Any further holder (a sibling
        edge, a pending copy) keeps it.
        """
        old = node.last_page.copy()
        holders = self._holders_of_last_page(node)
        old_page = int(old[0])
        if not self.pool.node_count(old_page) == self.pool.use_count(old_page) == len(holders):
            return
        for holder in holders:
            self.pool.attach(page)
            self.pool.use(page)
            holder.last_page[:] = page
            self.pool.unuse(old)
            self.pool.detach(old)

    def _holders_of_last_page(self, node: Node) -> list[Node]:
        """``node`` and those right above it that list its last page too, after splits inside it."""
        page_start = (node.end - 1) // self.page_size * self.page_size
        holders = [node]
        while holders[-1].start > page_start:
            above = holders[-1].parent
            assert above is not None
            if above.last_page[0] != node.last_page[0]:
                break
            holders.append(above)
        return holders

    # Splitting and merging

    def _split(self, node: Node, depth: int) -> Node:
        """Cut an edge at ``depth``, strictly inside it; returns the upper half.

        *Cost*: O(the edge's length); both halves get arrays of their own.
        """
        parent = node.parent
        assert parent is not None
        tokens, pages = node.tokens, node.pages
        num_upper = depth - node.start
        first = node.start // self.page_size
        below = depth // self.page_size - first
        num_shared = 1 if depth % self.page_size else 0
        upper = Node(parent, node.start, tokens[:num_upper], pages[: below + num_shared])
        upper.lock_count = node.lock_count
        if num_shared:
            self.pool.attach(upper.last_page)
            if upper.lock_count:
                self.pool.use(upper.last_page)
        parent.add_child(_key(upper), upper)
        node.set_edge(depth, tokens[num_upper:], pages[below:])
        node.parent = upper
        upper.add_child(_key(node), node)
        self.policy.split(upper, node)
        return upper

    @staticmethod
    def _merges_with_child(node: Node | None) -> bool:
        return (
            node is not None
            and node.parent is not None
            and node.lock_count == 0
            and len(node.children) == 1
        )

    def _merge_chain(self, top: Node) -> None:
        """Make one node of ``top`` and the single children below it, all unlocked.

        Above a leaf ``top`` stays and grows, so that a chat turn appended to a long history costs
        only itself; above a fork the bottom stays, so that no child has to learn a new parent.

        *Cost*: O(tokens below ``top``) in the first case, O(all tokens merged) in the second.
        """
        chain = [top]
        while len(chain[-1].children) == 1:
            chain.extend(chain[-1].children.values())
        bottom = chain[-1]
        for upper in chain[:-1]:
            # The lower edge supplies the page that both cover.
            if upper.end % self.page_size:
                self.pool.detach(upper.last_page)
        if not bottom.children:
            self.policy.remove(bottom)
            self.policy.merge(chain, top)
            top.children = bottom.children
            for lower in chain[1:]:
                kept = lower.start // self.page_size - top.start // self.page_size
                top.extend(lower.tokens, lower.pages, num_kept_pages=kept)
            self.policy.add(top)
            return
        self.policy.merge(chain, bottom)
        parent = top.parent
        assert parent is not None
        pages = [
            upper.pages[: lower.start // self.page_size - upper.start // self.page_size]
            for upper, lower in itertools.pairwise(chain)
        ]
        bottom.set_edge(
            top.start,
            np.concatenate([node.tokens for node in chain]),
            np.concatenate([*pages, bottom.pages]),
        )
        bottom.parent = parent
        parent.add_child(_key(bottom), bottom)

    # Evicting

    def evict(self, num_pages: int) -> int:
        """Trim the policy's victims until ``num_pages`` pages became free, or no victim is left.

        Returns how many became free: one more than asked for where the last leaf's end lets two
        nodes merge and so makes a partial page needless. *Mutates* topology, pool, policy.
        *Cost*: O(pages dropped) + O(log n) a leaf.
        """
        before = self.pool.free_pages
        wanted = before + num_pages
        if num_pages > self.pool.cached_pages:
            for node, heir in list(self._superseded()):
                if self.pool.free_pages < wanted:
                    self._replace_partial_page(node, heir.pages[:1])
        while self.pool.free_pages < wanted and (leaf := self.policy.victim()) is not None:
            self._trim(leaf, wanted)
        return self.pool.free_pages - before

    def _trim(self, leaf: Node, wanted: int) -> None:
        """Drop pages from the end of an edge until ``wanted`` are free, or its floor is reached."""
        num_kept = leaf.num_pages
        first = leaf.start // self.page_size
        depth = self.policy.floor(leaf)
        floor = 0
        if depth > leaf.start:
            # A page that begins above the floor stays, unless it is the last one.
            floor = min(-(-depth // self.page_size) - first, num_kept - 1)
        while num_kept > floor and (missing := wanted - self.pool.free_pages) > 0:
            # Not every page becomes free (the parent may list it, a copy may wait for it), but
            # never more than are missing.
            end, num_kept = num_kept, max(floor, num_kept - missing)
            self.pool.detach(leaf.pages[num_kept:end])
        if num_kept:
            end_depth = (first + num_kept) * self.page_size
            if self.events is not None:
                self.events.removed(leaf, end_depth)
            if self.evicted is not None:
                self.evicted.bury(leaf, end_depth)
            self.policy.trim(leaf, end_depth)
            leaf.truncate(end_depth, num_kept)
            return
        if self.events is not None:
            self.events.removed(leaf, leaf.start)
        if self.evicted is not None:
            self.evicted.bury(leaf, leaf.start)
        self.policy.trim(leaf, leaf.start)
        self.policy.remove(leaf)
        parent = leaf.parent
        assert parent is not None
        parent.remove_child(_key(leaf))
        if isinstance(parent, Root):
            self._drop_root_if_idle(parent)
        elif self._merges_with_child(parent):
            # An unlocked parent had two children at least, so it never becomes a leaf by itself.
            self._merge_chain(parent)
        elif parent.lock_count and parent.children and parent.end % self.page_size:
            # The leaf may have been the last to need the parent's partial page beside the parent.
            heir = max(parent.children.values(), key=_lock_count)
            self._replace_partial_page(parent, heir.pages[:1])

    def num_superseded_pages(self) -> int:
        """How many locked pages no lease reads: evicting can make them free too.

        *Cost*: O(locked nodes + their children).
        """
        return sum(1 for _ in self._superseded())

    def _superseded(self) -> Iterator[tuple[Node, Node]]:
        """Locked nodes whose partial last page is of no use to any lease, each with a child that
        can supply another.

        Such a page is kept for the sake of unlocked edges that list it too, or because a copy was
        waiting for it when it could have been replaced.
        """
        stack: list[Node] = [root for root in self._roots.values() if root.lock_count]
        while stack:
            node = stack.pop()
            below = [child for child in node.children.values() if child.lock_count]
            stack.extend(below)
            if below and node.end % self.page_size:
                page = int(node.last_page[0])
                is_read = any(int(child.pages[0]) == page for child in below)
                num_locked = len(self._holders_of_last_page(node))
                if not is_read and self.pool.use_count(page) == num_locked:
                    yield node, below[0]

    def forget(self, namespace: Namespace) -> int:
        """Drop every unlocked node of a namespace; returns how many pages became free.

        *Mutates* topology, pool, policy. *Cost*: O(nodes and pages of the namespace).
        """
        root = self._roots.get(namespace)
        if root is None:
            return 0
        num_freed = 0
        locked: list[Node] = [root]
        while locked:
            node = locked.pop()
            for key, child in list(node.children.items()):
                if child.lock_count:
                    locked.append(child)
                else:
                    node.remove_child(key)
                    num_freed += self._drop_subtree(child)
        self._drop_root_if_idle(root)
        return num_freed

    def _drop_subtree(self, top: Node) -> int:
        num_freed = 0
        stack = [top]
        while stack:
            node = stack.pop()
            if not node.children:
                self.policy.remove(node)
            if self.events is not None:
                self.events.removed(node, node.start)
            self.policy.drop(node)
            num_freed += self.pool.detach(node.pages)
            stack.extend(node.children.values())
        return num_freed

    def _drop_root_if_idle(self, root: Root) -> None:
        if root.lock_count == 0 and not root.children:
            del self._roots[root.namespace]

    # Watching

    def format(self) -> str:
        """The tree as text, one line a node. *Cost*: O(nodes)."""
        return format_tree(self)

    def check_invariants(self) -> UseCounts:
        """Check the whole structure; returns each page's number of locked nodes, int32[num_pages].

        *Raises* ``AssertionError`` that says what is broken and shows the tree. *Cost*: O(all).
        """
        return check_tree(self)
