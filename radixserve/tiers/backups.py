"""What has been computed and is to be kept in files, before anybody evicts it.

A request that ends leaves its tokens here, and nothing of its pages: whoever has time for it looks
them up in the tree again, and finds them or not (what was evicted was demoted). A page that is in
a file counts as used there, or one that nobody ever evicts would be the oldest file; one on its way
into a file is passed over; one in host memory is written from there; any other is stored, into a
slot from which it will be written. At most as many are on their way as are written at a time
(``writes.py``): the rest stays noted.

The queue is bounded by pages; the oldest requests fall out.

Knows tokens and the tree; no requests, no device. Costs: ``note`` O(1), the tokens' array is kept,
not copied. ``plan`` (measured) 2 µs for each page looked at, 64 of them a call at most, 4.5 µs if
it is to be stored, and a match in the tree for each request of which any is.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from radixserve.cache.lookup import page_table
from radixserve.cache.radix_tree import RadixTree
from radixserve.ids import Namespace, PageArray, PageId, TokenArray
from radixserve.tiers.host_slots import HostSlots, rank
from radixserve.tiers.page_names import PageChain, PageKey
from radixserve.tiers.reads import Reads
from radixserve.tiers.stores import Stores
from radixserve.tiers.writes import Writes

MAX_NOTED_PAGES: Final = 2**16
MAX_LOOK_UPS: Final = 64
"""Noted pages that one ``plan`` looks at."""
_NO_PAGES: Final = np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class _Noted:
    """One request's tokens."""

    namespace: Namespace
    tokens: TokenArray
    num_pages: int
    page: int = 0
    """The page index to be looked at next."""
    chain: PageChain | None = None
    """Made when its turn has come."""
    use: int = 0
    in_files: list[PageKey] = field(default_factory=list)
    """Of the pages looked at those that have been written before."""


class Backups:
    """See the module. Mutable."""

    __slots__ = (
        "_chain",
        "_page_size",
        "_queue",
        "_reads",
        "_slots",
        "_stores",
        "_writes",
        "num_pages",
    )

    def __init__(
        self,
        chain: Callable[[Namespace, TokenArray], PageChain],
        page_size: int,
        slots: HostSlots,
        stores: Stores,
        reads: Reads,
        writes: Writes,
    ) -> None:
        self._chain = chain
        self._page_size = page_size
        self._slots = slots
        self._stores = stores
        self._reads = reads
        self._writes = writes
        self._queue: deque[_Noted] = deque()
        self.num_pages = 0
        """Of all that is noted."""

    def note(self, namespace: Namespace, tokens: TokenArray) -> None:
        """The full pages of ``tokens`` (int32[n], which must not change) are in the tree."""
        num_pages = len(tokens) // self._page_size
        if not 0 < num_pages <= MAX_NOTED_PAGES:
            return
        self._queue.append(_Noted(namespace, tokens, num_pages))
        self.num_pages += num_pages
        while self.num_pages > MAX_NOTED_PAGES:
            self._drop_first()

    def _drop_first(self) -> None:
        self.num_pages -= self._queue.popleft().num_pages

    def clear(self, namespace: Namespace | None) -> None:
        """Forget what is noted of one namespace, or all."""
        self._queue = deque(one for one in self._queue if namespace not in (None, one.namespace))
        self.num_pages = sum(one.num_pages for one in self._queue)

    @property
    def can_go_on(self) -> bool:
        """Whether ``plan`` would get on: something is noted, and there is room for a page."""
        return bool(self._queue) and self._has_room()

    def _has_room(self) -> bool:
        num_on_their_way = len(self._writes) + len(self._stores)
        return num_on_their_way < self._writes.limit and self._slots.available_slots > 0

    def plan(self, tree: RadixTree, max_pages: int) -> int:
        """Plan stores of at most ``max_pages`` noted pages; returns of how many.

        *Mutates* stores, slots, writes. *Cost*: see the module.
        """
        num_planned = num_looked_at = 0
        pages: PageArray | None = None
        while self.can_go_on and num_planned < max_pages and num_looked_at < MAX_LOOK_UPS:
            noted = self._queue[0]
            key = self._next_key(noted)
            num_looked_at += 1
            if key is not None:
                if pages is None:
                    pages = self._pages_in_tree(tree, noted)
                if noted.page < len(pages):
                    page = PageId(int(pages[noted.page]))
                    planned = self._stores.plan(page, key, rank(noted.use, noted.page))
                    assert planned, "there was room"
                    num_planned += 1
                else:
                    # The rest was evicted, and so demoted, or dropped by order.
                    noted.page = noted.num_pages
            noted.page += 1
            if noted.page >= noted.num_pages:
                if noted.in_files:
                    # All at once: the order in which they go again is that of one prefix.
                    self._reads.touch(noted.in_files)
                self._drop_first()
                pages = None
        return num_planned

    def _next_key(self, noted: _Noted) -> PageKey | None:
        """The next page's, if it is to be stored."""
        if noted.chain is None:
            noted.chain = self._chain(noted.namespace, noted.tokens)
            noted.use = self._slots.next_use()
        key = noted.chain.key(noted.page)
        if self._reads.can_find(key):
            noted.in_files.append(key)
            return None
        if self._stores.is_arriving(key.name):
            return None
        slot = self._slots.find(key.name)
        if slot is None:
            return key
        self._writes.offer(slot)
        return None

    def _pages_in_tree(self, tree: RadixTree, noted: _Noted) -> PageArray:
        """The pages of the noted tokens' full pages, as far as the tree holds them."""
        match = tree.match(noted.namespace, noted.tokens)
        if match.node is None:
            return _NO_PAGES
        return page_table(match.node, self._page_size)[: match.num_tokens // self._page_size]
