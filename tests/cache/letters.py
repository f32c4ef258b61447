"""Caches in which a page holds four tokens (P = 4) and a token is a letter, run and drawn."""

import numpy as np

from radixserve.cache.lease import Lease
from radixserve.cache.node import ChildKey, Node
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.retention import Keep
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray

P = 4


def tokens_of(text: str) -> TokenArray:
    return np.array([ord(letter) for letter in text], dtype=np.int32)


def start(cache: PrefixCache, text: str, namespace: Namespace = DEFAULT_NAMESPACE) -> Lease:
    """Acquire; the border copy, if any, is performed."""
    lease = cache.acquire(namespace, tokens_of(text))
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    return lease


def compute(cache: PrefixCache, lease: Lease, text: str) -> None:
    """Compute all of ``text`` and let its full pages be shared."""
    cache.reserve(lease, len(text))
    cache.commit(lease, tokens_of(text))


def run(
    cache: PrefixCache,
    text: str,
    namespace: Namespace = DEFAULT_NAMESPACE,
    keep: Keep | None = None,
) -> int:
    """A whole request; returns how much of it was cached."""
    lease = start(cache, text, namespace)
    compute(cache, lease, text)
    cache.release(lease, tokens_of(text), () if keep is None else (keep,))
    return lease.num_cached_tokens


def sketch(cache: PrefixCache) -> list[str]:
    """One line a node: whose it is (nothing if everybody's, or the default namespace's), its
    tokens, its pages, ``*`` for each lock."""
    lines = []
    stack: list[tuple[int, Node]] = [(0, root) for root in cache.tree.roots.values()]
    while stack:
        indent, node = stack.pop()
        if node.parent is not None:
            text = "".join(map(chr, node.tokens.tolist()))
            pages = " ".join(map(str, node.pages.tolist()))
            owner = f"{node.namespace}:" if node.namespace else ""
            lines.append(f"{'  ' * (indent - 1)}{owner}{text} {pages}{'*' * node.lock_count}")
        below = sorted(node.children.items(), key=_owner_and_token, reverse=True)
        stack.extend((indent + 1, child) for _, child in below)
    return lines


def _owner_and_token(item: tuple[ChildKey, Node]) -> tuple[str, int]:
    """Namespaces' edges before public ones."""
    key = item[0]
    return key if isinstance(key, tuple) else ("~", key)
