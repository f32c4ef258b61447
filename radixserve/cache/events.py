"""What happens to full pages of the tree, told as hashes of prefixes, for routers that watch.

    depth    0      P      2P     3P          a page border at each multiple of the page size P
    tokens   |------|------|------|--.        the last page is not full: nobody is told of it
    hashes   root   h1     h2     h3

``h(k) = xxh3_64(h(k - 1) as 8 bytes, then the P tokens of page k as int32; all little-endian)``,
with ``h(0) = root_hash(namespace)``. So a hash stands for a namespace and all tokens up to a page
border, and a router computes it from token ids. Public tokens (``public_prefixes.py``) are no
namespace's: their chain begins with ``root_hash(None)``, and where a namespace goes on behind the
first p of them, the hash of its first page there takes ``namespace_hash(h, namespace, p)`` in the
place of the hash ``h`` before it. Nothing here compares hashes: should two prefixes
collide, a router is misled and nobody is handed another's pages.

What is stored, to a watcher, are the page borders on the edges of the tree. Each lies on one edge,
``start < depth <= end``, and the page that ends there is listed there and stands for no other
border. Splits and merges move borders between nodes and change no page of theirs, and only partial
pages are ever replaced. So one hash is kept by page id, and only three things are news: an edge
that grows or is hung (``RadixTree._append``), one that is trimmed, one that is dropped.

Invariants: a border's ``stored`` comes once while it is in the tree, its ``removed`` once when it
leaves; replaying the events on top of a snapshot gives what is stored, at every moment.

Costs: nobody watching, one ``if`` at each of these places. Watched, one hash of 8 + 4 P bytes a
full page stored (about 0.2 µs at P = 16), one look-up a page removed, and 8 bytes of memory a page
of the pool. Beginning to watch hashes all that the tree holds; a later snapshot hashes nothing.
"""

import hashlib
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from radixserve.cache.node import Node, Root
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, PageArray, TokenArray
from radixserve.types import CacheEvent

if TYPE_CHECKING:
    from radixserve.cache.radix_tree import RadixTree

MAX_EVENT_HASHES: Final = 1024
"""A longer run of pages is told in several events."""

_NO_TOKENS: Final = np.empty(0, dtype=np.int32)


class _Border(NamedTuple):
    """A page border, and what lies between it and the end of a node."""

    hash: int
    parent: int | None
    """The same, but None at the root: whoever knew a root's hash could test guesses of prompts."""
    tokens: TokenArray


_PUBLIC_NAME: Final = b"\xffpublic"
"""No namespace's name in UTF-8."""


def root_hash(namespace: Namespace | None) -> int:
    """The hash of a namespace's empty prefix: the first 8 bytes of SHA-256 of its name in UTF-8,
    read little-endian. The default namespace's name is empty. None: of the public root, whose name
    is the byte 0xFF and "public"."""
    name = _PUBLIC_NAME if namespace is None else namespace.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little")


def namespace_hash(parent: int, namespace: Namespace, num_public_tokens: int) -> int:
    """What stands for ``parent``, the hash at a public page border, where the next page is a
    namespace's from depth ``num_public_tokens`` on: xxh3_64 of parent, the namespace's root hash
    and that depth, 8 bytes each, little-endian."""
    words = (parent, root_hash(namespace), num_public_tokens)
    return xxhash.xxh3_64_intdigest(b"".join(word.to_bytes(8, "little") for word in words))


def chain_hashes(parent: int, tokens: TokenArray, page_size: int) -> list[int]:
    """The hashes at the page borders in ``tokens`` (int32[n]), which begin at a border.

    ``parent`` is the hash there. *Cost*: one xxh3_64 a full page.
    """
    data = tokens.astype("<i4", copy=False).tobytes()
    page_bytes = 4 * page_size
    hashes = []
    for end in range(page_bytes, len(data) + 1, page_bytes):
        page = data[end - page_bytes : end]
        parent = xxhash.xxh3_64_intdigest(parent.to_bytes(8, "little") + page)
        hashes.append(parent)
    return hashes


class EventLog:
    """The news of one tree since somebody began to watch it. Fed by the tree alone.

    Whoever watches takes the news regularly: what is not taken is kept.
    """

    __slots__ = ("_hashes", "_news", "_num_stored", "_tree")

    def __init__(self, tree: "RadixTree") -> None:
        self._tree = tree
        self._news: list[CacheEvent] = []
        self._num_stored = 0
        self._hashes: npt.NDArray[np.uint64] = np.zeros(tree.pool.num_pages, dtype=np.uint64)
        """By page id: the hash at the border where the page ends, if it is full."""
        for node in tree.nodes():
            if node.parent is not None:
                self._hash(node.parent, node.tokens, node.pages, node.namespace)

    def snapshot(self) -> list[CacheEvent]:
        """All that is stored: a ``snapshot`` event that says how much, then ``stored`` ones,
        parents first. News not taken yet are part of it, and are forgotten.

        *Cost*: O(nodes + pages).
        """
        root = root_hash(DEFAULT_NAMESPACE)
        self._news = [CacheEvent(kind="snapshot", count=self._num_stored, parent=root)]
        for node in self._tree.nodes():
            num_full = self._num_full(node)
            if node.parent is not None and num_full:
                parent = self._last_border(node.parent, node.namespace).parent
                self._tell("stored", self._hashes[node.pages[:num_full]].tolist(), parent)
        return self.take()

    def take(self) -> list[CacheEvent]:
        """The news since the last call, in order."""
        news, self._news = self._news, []
        return news

    def stored(
        self, node: Node, tokens: TokenArray, pages: PageArray, namespace: Namespace | None
    ) -> None:
        """``tokens`` (int32[n]) of a namespace, or (None) of everybody, are about to go below
        ``node``, covered by ``pages`` from index ``node.end // P`` on.

        *Cost*: O(tokens + nodes in ``node``'s last page)."""
        parent, hashes = self._hash(node, tokens, pages, namespace)
        self._tell("stored", hashes, parent)

    def removed(self, node: Node, depth: int) -> None:
        """What ``node`` holds behind ``depth``, a page border or its start, is about to go."""
        size = self._tree.page_size
        pages = node.pages[depth // size - node.start // size : self._num_full(node)]
        if len(pages):
            self._num_stored -= len(pages)
            self._tell("removed", self._hashes[pages].tolist(), None)

    def cleared(self) -> None:
        """All that was not in use has been dropped. If that left nothing, one event says so in
        place of all news not taken yet."""
        if self._num_stored == 0:
            self._news = [CacheEvent(kind="cleared")]

    def _hash(
        self, node: Node, tokens: TokenArray, pages: PageArray, namespace: Namespace | None
    ) -> tuple[int | None, list[int]]:
        """Hash what goes, or lies, below ``node``; returns the parent, as events name it, and the
        hashes. *Mutates* the hashes and the count."""
        size = self._tree.page_size
        if (node.end + len(tokens)) // size == node.end // size:
            return None, []
        border = self._last_border(node, namespace)
        hashes = chain_hashes(border.hash, np.concatenate([border.tokens, tokens]), size)
        self._hashes[pages[: len(hashes)]] = np.array(hashes, dtype=np.uint64)
        self._num_stored += len(hashes)
        return border.parent, hashes

    def _last_border(self, node: Node, namespace: Namespace | None) -> _Border:
        """The last page border at or above ``node``'s end, below which what is ``namespace``'s is
        to be hashed. *Cost*: O(nodes in that page)."""
        size = self._tree.page_size
        depth = node.end // size * size
        parts: list[TokenArray] = []
        # An edge that starts at the border lies behind it.
        num_public = node.end
        while node.parent is not None and node.start >= depth:
            if node.namespace is not None:
                num_public = node.start
            parts.append(node.tokens)
            node = node.parent
        if isinstance(node, Root):
            value, parent = root_hash(node.namespace), None
        else:
            parts.append(node.tokens[depth - node.start :])
            page = node.pages[depth // size - 1 - node.start // size]
            value = parent = int(self._hashes[page])
        if namespace is not None and node.namespace is None:
            value = namespace_hash(value, namespace, num_public)
        return _Border(value, parent, np.concatenate([_NO_TOKENS, *reversed(parts)]))

    def _num_full(self, node: Node) -> int:
        """How many page borders lie on the edge: the first so many of its pages end at them."""
        size = self._tree.page_size
        return node.end // size - node.start // size

    def _tell(
        self, kind: Literal["stored", "removed"], hashes: list[int], parent: int | None
    ) -> None:
        for start in range(0, len(hashes), MAX_EVENT_HASHES):
            part = hashes[start : start + MAX_EVENT_HASHES]
            self._news.append(CacheEvent(kind=kind, hashes=part, parent=parent))
            if kind == "stored":
                parent = part[-1]
