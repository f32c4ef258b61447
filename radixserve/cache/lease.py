"""One running request's hold on the cache: a locked path of the tree, and pages of its own.

    page_table   | shared, from the tree ...... | own ........................ |
    tokens       0                  num_shared_pages * P           num_reserved_tokens
                                          ^ num_committed_tokens: at most P - 1 further on

The path is locked down to ``num_committed_tokens``. If that lies inside a page, the page is the
request's own: a copy of the tree's, planned (``pending_copy``) until a step has performed it. A
request writes into its own pages only.

A lease is data; ``PrefixCache`` alone changes it, and keeps pool and tree in step with it.
"""

from dataclasses import dataclass

import numpy as np

from radixserve.cache.node import Node
from radixserve.ids import Namespace, PageArray, PageId


@dataclass(slots=True)
class Use:
    """How far one request, all of its choices and admissions together, counts as having used what
    is cached. Mutable: the first of its leases to end counts, the others only go further.

    A prompt that a choice, or a request that was preempted, comes back to has not returned: that
    takes another request.
    """

    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PageCopy:
    """Copy the whole page ``source`` to ``target``, before the step writes any page."""

    source: PageId
    target: PageId


class Lease:
    """See the module. Reading costs O(1); ``page_table`` is a view, valid until the next change."""

    __slots__ = (
        "_node",
        "_page_size",
        "_table",
        "namespace",
        "num_cached_tokens",
        "num_pages",
        "num_reserved_tokens",
        "num_shared_pages",
        "pending_copy",
        "use",
    )

    def __init__(
        self,
        node: Node,
        table: PageArray,
        namespace: Namespace,
        *,
        page_size: int,
        num_cached_tokens: int,
        pending_copy: PageCopy | None,
        use: Use,
    ) -> None:
        self._node: Node | None = node
        self._page_size = page_size
        self.namespace = namespace
        """Whose tokens go into the tree, but for the public ones."""
        self._table = table
        self.num_pages = len(table)
        self.num_shared_pages = node.end // page_size
        self.num_reserved_tokens = len(table) * page_size
        """Tokens for which there are pages."""
        self.num_cached_tokens = num_cached_tokens
        """Tokens that were there when the lease was acquired (or forked)."""
        self.pending_copy = pending_copy
        """The border page, still to be copied by the lease's first step."""
        self.use = use
        """Shared with the other leases of the same request."""

    @property
    def node(self) -> Node:
        """The locked node. *Raises* ``RuntimeError`` once the lease has been released."""
        return self.require_alive()

    def require_alive(self) -> Node:
        """As ``node``."""
        if self._node is None:
            raise RuntimeError("this lease has been released; acquire another")
        return self._node

    @property
    def num_committed_tokens(self) -> int:
        """Tokens of the request that are in the tree, and locked there."""
        return self.node.end

    @property
    def page_table(self) -> PageArray:
        """Shared pages, then own ones, int32[num_pages]: a view."""
        return self._table[: self.num_pages]

    @property
    def own_pages(self) -> PageArray:
        """The pages that are not in the tree, int32: a view."""
        return self._table[self.num_shared_pages : self.num_pages]

    def append_pages(self, pages: PageArray) -> None:
        """Lengthen the table by own pages. *Cost*: amortised O(pages given)."""
        end = self.num_pages + len(pages)
        if end > len(self._table):
            grown = np.empty(max(end, 2 * self.num_pages), dtype=np.int32)
            grown[: self.num_pages] = self.page_table
            self._table = grown
        self._table[self.num_pages : end] = pages
        self.num_pages = end
        self.num_reserved_tokens = end * self._page_size

    def move_down(self, node: Node, pages: PageArray) -> None:
        """The lock is at ``node`` now; ``pages`` of the tree follow the shared ones so far."""
        end = self.num_shared_pages + len(pages)
        self._table[self.num_shared_pages : end] = pages
        self.num_shared_pages = end
        self._node = node

    def close(self) -> None:
        """The lease holds nothing any more."""
        self._node = None
        self.pending_copy = None
        self.num_pages = self.num_shared_pages = self.num_reserved_tokens = 0

    def __repr__(self) -> str:
        if self._node is None:
            return "Lease(released)"
        return (
            f"Lease({self._node.end} tokens committed, {self.num_shared_pages} pages shared, "
            f"{self.num_pages - self.num_shared_pages} own, {self.pending_copy})"
        )
