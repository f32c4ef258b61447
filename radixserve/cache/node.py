"""A node of the radix tree: the edge that leads to it, and its place among the others.

    start                 end            tokens [start, end), the depth counted from the root
      |t t t t t t t t t t t|
    |page|page|page|page|page|           pages start // P ... (end - 1) // P

What a request computes of its public tokens is everybody's (``public_prefixes.py``), the rest its
namespace's. On the way down a path the owner changes once at most: below a public node hang public
ones and those of many namespaces, below a namespace's only its own.

Tokens and pages lie in buffers that grow by doubling, so that a leaf which one request extends
page by page copies each token O(1) times. A node knows nothing of the pool: counts are the tree's
business, and its alone to keep in step with the pages that nodes list.
"""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from radixserve.cache.page_hashes import PageHashes
from radixserve.ids import Namespace, PageArray, TokenArray

if TYPE_CHECKING:
    from radixserve.cache.retention import Mark

ChildKey: TypeAlias = int | tuple[Namespace, int]
"""What a parent files a child under: its first token; where a namespace's part begins below a
public node, the namespace too."""

_NO_CHILDREN: Final[Mapping[ChildKey, "Node"]] = MappingProxyType({})
_NO_ENTRIES: Final = np.empty(0, dtype=np.int32)
_serials: Final = itertools.count(1)


def _append(buffer: TokenArray, length: int, entries: TokenArray) -> TokenArray:
    """``entries`` behind the first ``length`` of ``buffer``; grown, by doubling, if need be."""
    end = length + len(entries)
    if end > len(buffer):
        grown = np.empty(max(end, 2 * length), dtype=np.int32)
        grown[:length] = buffer[:length]
        buffer = grown
    buffer[length:end] = entries
    return buffer


class Node:
    """An edge and its lower end. Mutable, and mutated only by ``RadixTree``.

    ``tokens`` int32[end - start] and ``pages`` int32[num_pages] are copied on construction: an
    edge never keeps a longer array alive.
    """

    __slots__ = (
        "_page_buffer",
        "_token_buffer",
        "children",
        "end",
        "idle_since_s",
        "last_access",
        "lock_count",
        "marks",
        "namespace",
        "num_pages",
        "page_hashes",
        "page_names",
        "parent",
        "record",
        "serial",
        "start",
    )

    def __init__(
        self,
        parent: "Node | None",
        start: int,
        tokens: TokenArray,
        pages: PageArray,
        namespace: Namespace | None,
    ) -> None:
        self.parent = parent
        """None for a root."""
        self.namespace = namespace
        """Whose the tokens are; None: everybody's."""
        self.start = start
        self.end = start + len(tokens)
        self.num_pages = len(pages)
        self._token_buffer: TokenArray = tokens.copy()
        self._page_buffer: PageArray = pages.copy()
        self.children: Mapping[ChildKey, Node] = _NO_CHILDREN
        """By ``key``. Changed through ``add_child`` and ``remove_child``."""
        self.lock_count = 0
        """Leases that hold this node or one below it."""
        self.last_access = 0
        """When a lease last let go of it, by the eviction policy's logical clock."""
        self.serial = next(_serials)
        """No other node has it, and none made later has a smaller one; 0: a root."""
        self.idle_since_s = 0.0
        """When the last lock was taken off, by the tree's ``now_s``."""
        self.page_hashes: PageHashes | None = None
        """What has been hashed of the way here, for ``EvictedPrefixes`` alone."""
        self.page_names: Any = None
        """What the demoter has named of the way here; nobody else looks."""
        self.record: Any = None
        """What the eviction policy remembers of it; nobody else looks."""
        self.marks: list[Mark] | None = None
        """What somebody asked to keep of it, for ``Retention`` alone; None if nothing."""

    @property
    def key(self) -> ChildKey:
        """What its parent files the node under."""
        token = int(self._token_buffer[0])
        namespace = self.namespace
        assert self.parent is not None
        if namespace is None or namespace == self.parent.namespace:
            return token
        return namespace, token

    @property
    def tokens(self) -> TokenArray:
        """The edge's tokens, int32[end - start]: a view."""
        return self._token_buffer[: self.end - self.start]

    @property
    def pages(self) -> PageArray:
        """The pages that cover the edge, int32[num_pages]: a view."""
        return self._page_buffer[: self.num_pages]

    @property
    def last_page(self) -> PageArray:
        """The page that covers the edge's last token, int32[1]: a view."""
        return self._page_buffer[self.num_pages - 1 : self.num_pages]

    def add_child(self, child: "Node") -> None:
        """Hang ``child``, whose parent this is, in the place of whatever is filed under its key."""
        key = child.key
        if isinstance(self.children, dict):
            self.children[key] = child
        else:
            # Most nodes are leaves: they share one empty mapping.
            self.children = {key: child}

    def remove_child(self, key: ChildKey) -> None:
        """Take the child that is filed under ``key`` away."""
        assert isinstance(self.children, dict)
        del self.children[key]
        if not self.children:
            self.children = _NO_CHILDREN

    def extend(self, tokens: TokenArray, pages: PageArray, *, num_kept_pages: int) -> None:
        """Lengthen the edge by ``tokens``; ``pages`` follow its first ``num_kept_pages`` pages.

        *Cost*: amortised O(tokens given).
        """
        self._token_buffer = _append(self._token_buffer, self.end - self.start, tokens)
        self._page_buffer = _append(self._page_buffer, num_kept_pages, pages)
        self.end += len(tokens)
        self.num_pages = num_kept_pages + len(pages)

    def set_edge(self, start: int, tokens: TokenArray, pages: PageArray) -> None:
        """Replace the whole edge; the arrays are copied. *Cost*: O(tokens given)."""
        self.start = start
        self.end = start + len(tokens)
        self.num_pages = len(pages)
        self._token_buffer = tokens.copy()
        self._page_buffer = pages.copy()

    def truncate(self, end: int, num_pages: int) -> None:
        """Keep the tokens below depth ``end`` and the first ``num_pages`` pages.

        Gives memory back once three quarters of a buffer lie idle. *Cost*: amortised O(cut).
        """
        self.end = end
        self.num_pages = num_pages
        if 4 * (end - self.start) < len(self._token_buffer):
            self._token_buffer = self.tokens.copy()
            self._page_buffer = self.pages.copy()

    def __repr__(self) -> str:
        return f"Node([{self.start}, {self.end}), {self.lock_count} locks)"


class Root(Node):
    """The node at depth 0 of one namespace, or the public one: no tokens, no pages, never evicted,
    never merged."""

    __slots__ = ()

    def __init__(self, namespace: Namespace | None) -> None:
        super().__init__(None, 0, _NO_ENTRIES, _NO_ENTRIES, namespace)
        self.serial = 0
