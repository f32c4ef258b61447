"""What a tree holds, found by walking it rather than by asking ``match``."""

import itertools

from radixserve.cache.node import Node
from radixserve.cache.radix_tree import RadixTree
from tests.cache.public_model import PUBLIC, Path, Tokens


def all_paths(tree: RadixTree) -> list[Path]:
    """Every node."""
    found: list[Path] = []
    stack: list[tuple[Node, Tokens, dict[int, int], int]] = [
        (root, (), {}, 0) for root in tree.roots.values()
    ]
    while stack:
        node, above, table, num_public = stack.pop()
        tokens = (*above, *node.tokens.tolist())
        first = node.start // tree.page_size
        table = table | dict(enumerate(node.pages.tolist(), start=first))
        pages = [table[index] for index in range(len(table))]
        owner = PUBLIC if node.namespace is None else node.namespace
        num_public = len(tokens) if node.namespace is None else num_public
        found.append(Path(owner, tokens, pages, num_public, node.lock_count > 0))
        stack.extend((child, tokens, table, num_public) for child in node.children.values())
    return found


def longest_paths(tree: RadixTree) -> list[Path]:
    """The same without what begins another of its owner: blind to where edges are split."""
    paths = sorted(all_paths(tree))
    kept = []
    for path, after in itertools.pairwise([*paths, Path("", (), [], 0, is_locked=False)]):
        if after.owner != path.owner or after.tokens[: len(path.tokens)] != path.tokens:
            kept.append(path)
    return kept
