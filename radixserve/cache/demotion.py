"""Who is told of the pages that eviction drops, while they can still be read.

The tree calls it from ``pruning.trim`` alone: what is dropped by order (``forget``, ``clear``,
``set_public``) is not to come back. Knows nodes, no tiers.
"""

from typing import Protocol

from radixserve.cache.node import Node


class Demoter(Protocol):
    """Keeps elsewhere what the device pool has no room for."""

    def demote(self, leaf: Node, end: int) -> None:
        """Eviction is about to cut ``leaf`` down to depth ``end``: a page border, or its start.

        It still lists its tokens and pages. Some pages may be free already, but none has been given
        to anybody. Must not change the tree or the pool, but for what the node keeps for it
        (``Node.page_names``), which must be cut at ``end``.
        """
        ...
