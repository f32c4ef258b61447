"""Where below public nodes the edges of namespaces begin: an index for whoever asks by namespace.

    a b c d            public, [0, 4)
     ├─ e f            public, filed under e
     ├─ e x            tenant A's, filed under (A, e)
     └─ q r            tenant B's, filed under (B, q)

A public node may have thousands of children of as many tenants; nothing that is done for one of
them may look at all. So the tree tells this index of every edge that begins a namespace's part.

What it says stays true while edges are split and merged: what hangs below a node changes, which
node it hangs below does not.

Costs: O(1), but for ``of``, which costs what it returns.
"""

from collections.abc import Iterator

from radixserve.cache.node import Node
from radixserve.ids import Namespace


class TenantEdges:
    """Public nodes, and the first tokens of each namespace's edges below them. Mutable."""

    __slots__ = ("_num_below", "_tokens")

    def __init__(self) -> None:
        self._tokens: dict[Namespace, dict[Node, set[int]]] = {}
        self._num_below: dict[Node, int] = {}

    def add(self, node: Node, namespace: Namespace, token: int) -> None:
        """A namespace's edge that begins with ``token`` hangs below a public node now."""
        self._tokens.setdefault(namespace, {}).setdefault(node, set()).add(token)
        self._num_below[node] = self._num_below.get(node, 0) + 1

    def remove(self, node: Node, namespace: Namespace, token: int) -> None:
        """It hangs there no longer."""
        by_node = self._tokens[namespace]
        tokens = by_node[node]
        tokens.remove(token)
        if not tokens:
            del by_node[node]
            if not by_node:
                # A namespace is hostile input: nothing of it stays.
                del self._tokens[namespace]
        self._num_below[node] -= 1
        if not self._num_below[node]:
            del self._num_below[node]

    def of(self, namespace: Namespace) -> list[tuple[Node, list[int]]]:
        """The public nodes below which a namespace's edges begin, and with which tokens: a copy."""
        return [(node, list(tokens)) for node, tokens in self._tokens.get(namespace, {}).items()]

    def begin_at(self, node: Node, namespace: Namespace) -> bool:
        """Whether any of a namespace's edges begins at a public node."""
        return node in self._tokens.get(namespace, ())

    def num_below(self, node: Node) -> int:
        """How many edges of all namespaces begin at a public node."""
        return self._num_below.get(node, 0)

    def __iter__(self) -> Iterator[Namespace]:
        """The namespaces that have any."""
        return iter(self._tokens)
