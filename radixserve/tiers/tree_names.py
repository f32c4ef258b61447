"""The names of pages that the tree gives up, kept where an eviction has found them.

    depth     0      P      2P     3P     4P       a page border at each multiple of P
    path      |------|---|--|------|------|-.      the leaf's edge starts inside page 1
    known            s1     s2     s3     s4       the chain's state at each border, from the one at
                                                   or above the leaf's start on: ``Node.page_names``

A page's name depends on all tokens before it, so naming the last page of a leaf takes a walk from
the root. The states on the way are kept on the leaf (and the first one on its parent, for the
leaf's siblings): a leaf that is trimmed page by page is hashed once. What lies on a node's path
never changes while the node lives, except by the cuts told here.

All of a node's states belong to its owner's chain. Below public nodes a namespace's chain begins
anew at the first token, so nothing is taken from, or left with, a node of another owner.

Knows the tree's shape; no pages, no tiers. *Cost* (measured): 0.7 µs for each page of the path that
was not named before, some 4 µs a cut.
"""

from typing import NamedTuple

from radixserve.cache.lookup import path_tokens
from radixserve.cache.node import Node
from radixserve.ids import Namespace
from radixserve.tiers.page_names import ChainState, PageKey, PageNamer


class _Known(NamedTuple):
    """States at borders ``first``, ``first + 1``, ... Not to be changed in place, but by adding."""

    first: int
    states: list[ChainState]

    @property
    def last(self) -> int:
        return self.first + len(self.states) - 1


class TreeNames:
    """Names pages of one tree. Keeps what it knows on the tree's nodes."""

    __slots__ = ("_namer", "_owner_name", "_owner_of")

    def __init__(self, namer: PageNamer) -> None:
        self._namer = namer
        # An owner's folder is a hash; of the last owner it is remembered, as leaves come in runs.
        self._owner_of: Namespace | None = None
        self._owner_name = namer.owner_name(None)

    def cut(self, leaf: Node, end: int) -> list[PageKey]:
        """Whose full pages end on ``leaf``'s edge behind depth ``end`` (a page border, or its
        start), from page index ``end // P`` on. The leaf is about to be cut there.

        *Mutates* what nodes know. *Cost*: see the module.
        """
        known = self._name_borders(leaf)
        first = end // self._namer.page_size
        owner = self._folder(leaf.namespace)
        keys = [
            PageKey(owner, state.name, state.identity)
            for state in known.states[first + 1 - known.first :]
        ]
        del known.states[first + 1 - known.first :]
        return keys

    def _folder(self, owner: Namespace | None) -> str:
        if owner != self._owner_of:
            self._owner_of, self._owner_name = owner, self._namer.owner_name(owner)
        return self._owner_name

    def _name_borders(self, leaf: Node) -> _Known:
        """The states from the border at or above ``leaf``'s start to its last, kept on it."""
        size = self._namer.page_size
        first, last = leaf.start // size, leaf.end // size
        known: _Known | None = leaf.page_names
        if known is None or known.first > first:
            known = _Known(first, [self._state(leaf, first)])
        if known.last < last:
            tokens = path_tokens(leaf, known.last * size, last * size)
            known.states.extend(self._namer.advance(known.states[-1], tokens))
        leaf.page_names = known
        return known

    def _state(self, leaf: Node, border: int) -> ChainState:
        """The state at ``border``, at or above ``leaf``'s start, in the leaf's owner's chain."""
        size = self._namer.page_size
        above, state = self._nearest(leaf.parent, border, leaf.namespace)
        if above < border:
            state = self._namer.advance(state, path_tokens(leaf, above * size, border * size))[-1]
        parent = leaf.parent
        assert parent is not None
        is_news = parent.page_names is None or above < border
        if parent.namespace == leaf.namespace and is_news:
            # Its other children begin there too. What it knows may end above that: it may have been
            # trimmed, and have grown since.
            parent.page_names = _Known(border, [state])
        return state

    def _nearest(
        self, node: Node | None, border: int, owner: Namespace | None
    ) -> tuple[int, ChainState]:
        """A border on the way to ``node``, ``border`` or one above it, whose state is known."""
        while node is not None and node.namespace == owner:
            known: _Known | None = node.page_names
            if known is not None and known.first <= border:
                # A node knows nothing below its end, which lies at ``border`` or above.
                return known.last, known.states[-1]
            node = node.parent
        return 0, self._namer.seed(owner)
