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

Public tokens (``public_prefixes.py``) hang below a root of their own, whoever computes them, and a
namespace's part hangs where they end: filed under the namespace too, so that nobody else's walk
finds it. Its first page begins with public tokens, as any edge's that starts inside a page. In
everything else it is one tree: locks, splits, eviction from the leaves up. Only, edges of two
owners never merge, so eviction may turn a public node into a leaf.

    a b c d e f                [0, 6), public        below the public root
     ├─ g h                    [6, 8), public        more of a prefix that is named
     ├─ (A) x y z              [6, 9), A's           A's walk: public tokens, and then A's
     └─ (B) x y                [6, 8), B's

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

from collections.abc import Iterator, Mapping, Sequence

from radixserve.cache import pruning
from radixserve.cache.demotion import Demoter
from radixserve.cache.edge import merge_chain, merges_with_child, split
from radixserve.cache.events import EventLog
from radixserve.cache.evicted import EvictedPrefixes
from radixserve.cache.eviction import EvictionPolicy
from radixserve.cache.lookup import Match, common_prefix, longest_match, longest_tenant_match
from radixserve.cache.node import ChildKey, Node, Root
from radixserve.cache.page_pool import PagePool
from radixserve.cache.partial_page import replace_partial_page, superseded
from radixserve.cache.public_prefixes import PublicPrefixes
from radixserve.cache.tenant_edges import TenantEdges
from radixserve.cache.tree_check import UseCounts, check_tree, format_tree
from radixserve.cache.tree_log import TreeLog
from radixserve.errors import ConfigError
from radixserve.ids import Namespace, PageArray, TokenArray


class RadixTree:
    """Prefixes and their pages. Mutates ``pool`` and ``policy``, which it must not share."""

    __slots__ = (
        "_roots",
        "demoter",
        "events",
        "evicted",
        "log",
        "now_s",
        "page_size",
        "policy",
        "pool",
        "public",
        "tenant_edges",
    )

    def __init__(self, page_size: int, pool: PagePool, policy: EvictionPolicy) -> None:
        if page_size < 1:
            raise ConfigError(f"page_size is {page_size}; a page holds at least one token")
        self.page_size = page_size
        self.pool = pool
        self.policy = policy
        self.events: EventLog | None = None
        """Told of full pages that come and go, while somebody watches."""
        self.log: TreeLog | None = None
        """Told of nodes that come, change and go, likewise."""
        self.now_s = 0.0
        """When the step in progress began, for ``idle_since_s`` alone. Set by whoever steps."""
        self.evicted: EvictedPrefixes | None = None
        self.demoter: Demoter | None = None
        """Both told of what eviction cuts, if anybody cares; the second keeps it elsewhere."""
        self.public = PublicPrefixes()
        """What is public just now. Replaced through ``set_public``."""
        self.tenant_edges = TenantEdges()
        """Where below public nodes namespaces go on."""
        self._roots: dict[Namespace | None, Root] = {}

    @property
    def roots(self) -> Mapping[Namespace | None, Root]:
        """The roots that have something below or are locked; the public one is None's. Not to be
        changed."""
        return self._roots

    @property
    def namespaces(self) -> set[Namespace]:
        """The namespaces that hold something or are locked at their root. *Cost*: O(them)."""
        return {name for name in (*self._roots, *self.tenant_edges) if name is not None}

    def nodes(self) -> Iterator[Node]:
        """Every node, roots included, parents before children. *Cost*: O(nodes)."""
        stack: list[Node] = list(self._roots.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    # Reading

    def match(self, namespace: Namespace, tokens: TokenArray) -> Match:
        """Find the longest prefix of ``tokens`` (int32[n]) that everybody may see, as far as it is
        public, and behind that ``namespace``. Read-only.

        *Cost*: as ``lookup.longest_match`` and ``PublicPrefixes.length``.
        """
        num_public = self.public.length(tokens)
        root = self._roots.get(None if num_public else namespace)
        if root is None:
            return Match(namespace, 0, None, num_public)
        if not num_public:
            node, num_tokens = longest_match(root, tokens)
            return Match(namespace, num_tokens, node)
        node, num_tokens = longest_match(root, tokens[:num_public])
        if num_tokens == num_public:
            node, num_tokens = longest_tenant_match(node, num_tokens, namespace, tokens)
        return Match(namespace, num_tokens, node, num_public)

    # Locking

    def lock(self, match: Match, num_tokens: int) -> Node:
        """Lock the first ``num_tokens <= match.num_tokens`` tokens of a fresh match.

        Splits where they end and returns the node that ends there; creates the root if there is
        none. *Mutates* topology, lock counts, pool. *Cost*: O(nodes on the path + pages
        of those not locked before + the edge split).
        """
        assert num_tokens <= match.num_tokens, f"locking {num_tokens} tokens of {match}"
        node = match.node
        if node is None:
            node = self._root(match.root_namespace)
        while node.parent is not None and node.start >= num_tokens:
            node = node.parent
        if num_tokens < node.end:
            node = split(self, node, num_tokens)
        self.lock_again(node)
        return node

    def _root(self, namespace: Namespace | None) -> Root:
        """The root, created if there is none."""
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = Root(namespace)
        return root

    def lock_again(self, node: Node) -> None:
        """Add one lock to ``node`` and all above it. *Cost*: as ``lock``, without the split."""
        above: Node | None = node
        while above is not None:
            self._lock_one(above)
            above = above.parent
        if self.log is not None:
            self.log.used(node)

    def unlock(self, node: Node, num_counted_tokens: int = 0) -> None:
        """Take one lock off ``node`` and all above it, which were used; merge what became a chain.

        The same request has been counted as a user of the first ``num_counted_tokens`` before.
        *Mutates* topology, lock counts, pool, policy. *Cost*: O(nodes on the path + pages of those
        no longer locked + edges merged).
        """
        self.policy.touch(node, num_counted_tokens)
        self.unlock_unused(node)

    def unlock_unused(self, node: Node) -> None:
        """As ``unlock``, where nobody has used what was locked: to the policy nothing happened."""
        released: list[Node] = []
        above: Node | None = node
        while above is not None:
            assert above.lock_count > 0, f"unlocking {above}, which is not locked"
            above.lock_count -= 1
            if above.lock_count == 0:
                above.idle_since_s = self.now_s
                released.append(above)
            above = above.parent
        if self.log is not None:
            self.log.used(node)
        for idle in released:
            if isinstance(idle, Root):
                self.tidy(idle)
                continue
            self.pool.unuse(idle.pages)
            if not idle.children:
                self.policy.add(idle)
            elif merges_with_child(idle) and not merges_with_child(idle.parent):
                merge_chain(self, idle)

    def _lock_one(self, node: Node) -> None:
        if node.lock_count == 0 and node.parent is not None:
            self.pool.use(node.pages)
            if not node.children:
                self.policy.remove(node)
        node.lock_count += 1

    # Inserting

    def insert(
        self, node: Node, tokens: TokenArray, pages: PageArray, namespace: Namespace
    ) -> Node:
        """Insert a lease's tokens below the node that it has locked, and move its lock down.

        ``tokens`` int32[n] are all tokens from the root on; those above ``node.end`` are not looked
        at again, but to see how many of them all are public. ``pages`` int32 cover indices
        ``node.end // P .. (n - 1) // P``; each is held by the caller as a user and goes on being
        so: what of them the tree did not take, because it held those tokens already, only the
        caller holds. What is not public goes to ``namespace``. Returns the node that ends at n,
        locked.

        *Mutates* topology, lock counts, pool. *Cost*: O(tokens inserted + pages + nodes walked +
        the edge split); ``PublicPrefixes.length`` once, unless the node is the namespace's.
        """
        first = node.end // self.page_size
        if node.namespace is None or node.parent is None:
            num_public = self.public.length(tokens)
            if node.parent is None:
                node = self._move_to_root(node, None if num_public else namespace)
            node = self._insert_below(node, tokens[:num_public], pages, first, None)
        return self._insert_below(node, tokens, pages, first, namespace)

    def _move_to_root(self, root: Node, namespace: Namespace | None) -> Node:
        """Move the one lock of a lease that has nothing yet to the root its tokens hang below."""
        if root.namespace == namespace:
            return root
        other = self._root(namespace)
        self._lock_one(other)
        root.lock_count -= 1
        self.tidy(root)
        return other

    def _insert_below(
        self,
        node: Node,
        tokens: TokenArray,
        pages: PageArray,
        first: int,
        namespace: Namespace | None,
    ) -> Node:
        """The same for tokens that, behind ``node.end``, have one owner. ``first`` is the page
        index at which ``pages`` begin."""
        while node.end < len(tokens):
            depth = node.end
            token = int(tokens[depth])
            child = node.children.get(
                token if namespace == node.namespace or namespace is None else (namespace, token)
            )
            if child is None:
                last = -(-len(tokens) // self.page_size) - first
                run = pages[depth // self.page_size - first : last]
                return self._append(node, tokens[depth:], run, namespace)
            common = common_prefix(child.tokens, tokens[depth:])
            node = split(self, child, depth + common) if depth + common < child.end else child
            self._lock_one(node)
            if self.log is not None:
                self.log.changed(node)
        return node

    def _append(
        self, node: Node, tokens: TokenArray, pages: PageArray, namespace: Namespace | None
    ) -> Node:
        """Hang ``tokens`` below ``node``, to which no child offers a way, and lock them."""
        self.pool.attach(pages)
        self.pool.use(pages)
        if self.events is not None:
            self.events.stored(node, tokens, pages, namespace)
        num_partial = node.end % self.page_size
        is_own = namespace == node.namespace and node.parent is not None
        if is_own and node.lock_count == 1 and not node.children:
            depth = node.end
            if num_partial:
                replaced = node.last_page.copy()
                node.extend(tokens, pages, num_kept_pages=node.num_pages - 1)
                self.pool.unuse(replaced)
                self.pool.detach(replaced)
                # The edge may have begun inside that page, of which its parent then lists a copy.
                if node.start > depth - num_partial:
                    assert node.parent is not None
                    replace_partial_page(node.parent, pages[:1], self.page_size, self.pool)
            else:
                node.extend(tokens, pages, num_kept_pages=node.num_pages)
            if self.log is not None:
                self.log.changed(node)
            return node
        child = Node(node, node.end, tokens, pages, namespace)
        child.lock_count = 1
        node.add_child(child)
        if namespace is not None and node.namespace is None:
            self.tenant_edges.add(node, namespace, int(tokens[0]))
        if num_partial:
            replace_partial_page(node, pages[:1], self.page_size, self.pool)
        if self.log is not None:
            self.log.added(child)
        return child

    # Evicting

    def evict(self, num_pages: int) -> int:
        """Trim the policy's victims until ``num_pages`` pages became free, or no victim is left.

        Returns how many became free: one more than asked for where the last leaf's end lets two
        nodes merge and so makes a partial page needless. *Mutates* topology, pool, policy.
        *Cost*: O(pages dropped) + O(log n) a leaf.
        """
        return pruning.evict(self, num_pages)

    def num_superseded_pages(self) -> int:
        """How many locked pages no lease reads: evicting can make them free too.

        *Cost*: O(locked nodes + their children).
        """
        return sum(1 for _ in superseded(self._roots.values(), self.page_size, self.pool))

    def forget(self, namespace: Namespace) -> int:
        """Drop every unlocked node of a namespace; returns how many pages became free. A page that
        begins with public tokens may stay, for their sake.

        *Mutates* topology, pool, policy. *Cost*: O(nodes and pages of the namespace).
        """
        return pruning.forget(self, namespace)

    def forget_all(self) -> int:
        """Drop every unlocked node; returns how many pages became free. *Cost*: O(all)."""
        return pruning.forget_all(self)

    def set_public(self, prefixes: Sequence[TokenArray]) -> None:
        """Let these prefixes (int32[n] each) be public, and no others. Unlocked nodes are dropped
        that lie where nobody would look any more; locked ones stay there until they are evicted.

        *Mutates* topology, pool, policy.
        *Cost*: O(public nodes and their tokens + all edges that begin at them or at a root).
        """
        if self.public.replace(prefixes):
            pruning.drop_misplaced(self)

    # What dropping nodes takes (``pruning.py``)

    def remove_child(self, node: Node, key: ChildKey) -> None:
        """Take a child off, from the index too. Who does that calls ``tidy`` in the end."""
        node.remove_child(key)
        if isinstance(key, tuple):
            self.tenant_edges.remove(node, *key)

    def tidy(self, node: Node) -> None:
        """A node has lost children, or a root its lock: it may be idle, a leaf, or a chain now."""
        if node.lock_count:
            return
        if isinstance(node, Root):
            if not node.children:
                del self._roots[node.namespace]
        elif not node.children:
            # Among children of one owner an unlocked node had two at least, and merges instead.
            self.policy.add(node)
        elif merges_with_child(node):
            merge_chain(self, node)

    # Watching

    def format(self) -> str:
        """The tree as text, one line a node. *Cost*: O(nodes)."""
        return format_tree(self)

    def check_invariants(self) -> UseCounts:
        """Check the whole structure; returns each page's number of locked nodes, int32[num_pages].

        *Raises* ``AssertionError`` that says what is broken and shows the tree. *Cost*: O(all).
        """
        return check_tree(self)
