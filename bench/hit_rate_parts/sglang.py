"""SGLang's rule: a radix tree with pages of one token, whole leaves evicted, least recent first.

- A match ends anywhere, before the last token, which must run; a node in which it ends is split.
- Every node on a matched or inserted path is as recent as the request.
- To make room, leaves that no request holds go in order of last access, each of them whole, until
  there is enough; a parent that has lost its last child queues up too.

The capacity is counted in tokens (blocks times tokens a block), since pages are of one token.
Within a block all tokens are one block's, so nodes hold runs of blocks here and split between them.

*Source*: https://github.com/sgl-project/sglang, python/sglang/srt/mem_cache/radix_cache.py
(match_prefix, insert, evict).
"""

import heapq

from hit_rate_parts.tally import Tally
from hit_rate_parts.trace import Trace


class _Node:
    __slots__ = ("blocks", "children", "is_locked", "last_access", "lengths", "parent")

    def __init__(self, parent: "_Node | None", blocks: list[int], lengths: list[int]) -> None:
        self.parent = parent
        self.blocks = blocks
        self.lengths = lengths
        self.children: dict[int, _Node] = {}
        self.last_access = 0
        self.is_locked = False


class _Tree:
    def __init__(self, capacity_tokens: int) -> None:
        self.root = _Node(None, [], [])
        self.num_free = capacity_tokens
        self._leaves: list[tuple[int, int, _Node]] = []
        self._serial = 0

    def match(self, blocks: list[int], now: int) -> list[_Node]:
        """The nodes that hold the longest prefix, the last of them split where it ends."""
        path, depth = [self.root], 0
        while depth < len(blocks) and (child := path[-1].children.get(blocks[depth])) is not None:
            num_common = 0
            for held, wanted in zip(child.blocks, blocks[depth:], strict=False):
                if held != wanted:
                    break
                num_common += 1
            if num_common < len(child.blocks):
                child = self._split(child, num_common)
            depth += num_common
            path.append(child)
        for node in path:
            node.last_access = now
        return path

    @staticmethod
    def _split(node: _Node, num_upper: int) -> _Node:
        parent = node.parent
        assert parent is not None
        upper = _Node(parent, node.blocks[:num_upper], node.lengths[:num_upper])
        upper.last_access = node.last_access
        parent.children[upper.blocks[0]] = upper
        node.parent = upper
        node.blocks, node.lengths = node.blocks[num_upper:], node.lengths[num_upper:]
        upper.children[node.blocks[0]] = node
        return upper

    def insert(self, above: _Node, blocks: list[int], lengths: list[int], now: int) -> None:
        """Hang a new leaf below ``above``."""
        leaf = _Node(above, blocks, lengths)
        leaf.last_access = now
        above.children[blocks[0]] = leaf
        self.num_free -= sum(lengths)
        self.queue(leaf)

    def queue(self, node: _Node) -> None:
        """Let a node be evicted when its turn comes, if it is a leaf by then."""
        if node.parent is not None and not node.children:
            self._serial += 1
            heapq.heappush(self._leaves, (node.last_access, self._serial, node))

    def evict(self, num_tokens: int) -> None:
        """Drop whole leaves until ``num_tokens`` are free, or none is left."""
        held = []
        while self.num_free < num_tokens and self._leaves:
            entry = heapq.heappop(self._leaves)
            time, _, leaf = entry
            parent = leaf.parent
            if parent is None or leaf.children or time != leaf.last_access:
                continue
            if leaf.is_locked:
                held.append(entry)
                continue
            del parent.children[leaf.blocks[0]]
            leaf.parent = None
            self.num_free += sum(leaf.lengths)
            self.queue(parent)
        for entry in held:
            heapq.heappush(self._leaves, entry)


def run_sglang(trace: Trace, capacity_blocks: int) -> Tally:
    """Run the whole trace. *Cost*: O(blocks touched + leaves evicted x log leaves)."""
    tally = Tally()
    tree = _Tree(capacity_blocks * trace.block_tokens)
    for now, request in enumerate(trace.requests, 1):
        blocks, lengths = list(request.blocks), trace.block_lengths(request)
        size = {"tokens": request.num_tokens, "blocks": len(blocks)}
        if request.num_tokens > capacity_blocks * trace.block_tokens:
            tally.refuse(**size)
            continue
        path = tree.match(blocks, now)
        depth = sum(len(node.blocks) for node in path)
        num_hit_tokens = sum(lengths[:depth])
        for node in path:
            node.is_locked = True
        tree.evict(request.num_tokens - num_hit_tokens)
        for node in path:
            node.is_locked = False
        tree.queue(path[-1])
        if depth < len(blocks):
            tree.insert(path[-1], blocks[depth:], lengths[depth:], now)
        tally.add(
            hit_tokens=min(num_hit_tokens, request.num_tokens - 1),
            hit_blocks=depth if num_hit_tokens < request.num_tokens else depth - 1,
            **size,
        )
    return tally
