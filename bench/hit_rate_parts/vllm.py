"""vLLM's rule, as its design document states it: hashed full blocks, a queue of free ones.

- Only full blocks are hashed; a match ends before the last token, which must run.
- Free blocks, cached or not, wait in one queue; new blocks are taken from its head, and lose what
  they held. A hit takes a block out of the queue.
- A finished request's blocks go to the queue's tail, the last block first: of blocks freed at the
  same time, the one that serves fewer prefixes goes first. The partial last block, which has no
  hash, takes its turn in the queue like the others and holds nothing.

A new block's parent may have been evicted before it; the match then ends there.

*Source*: https://docs.vllm.ai/en/latest/design/prefix_caching.html (Free, Eviction).
"""

from collections import OrderedDict
from collections.abc import Sequence

from hit_rate_parts.tally import Tally
from hit_rate_parts.trace import Trace


class VLLMCache:
    """So many blocks, all of them in one queue."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity_blocks = capacity_blocks
        # Keys: block ids; or, for blocks that hold nothing, negative numbers of their own.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(-capacity_blocks, 0))
        self._num_nameless = capacity_blocks

    def serve(self, blocks: Sequence[int], num_matchable: int, num_full: int) -> int | None:
        """Look up the first ``num_matchable`` blocks of a request, hold all, and let go of them.

        Returns how many were found, or None if the cache cannot hold that many. ``num_full`` blocks
        are full, one more is not. *Cost*: O(blocks).
        """
        free = self._free
        if len(blocks) > self._capacity_blocks:
            return None
        num_hit = 0
        while num_hit < num_matchable and blocks[num_hit] in free:
            num_hit += 1
        for block in blocks[:num_hit]:
            del free[block]
        for _ in blocks[num_hit:]:
            free.popitem(last=False)
        for block in reversed(blocks):
            # A copy of the same block that was not matched: cached twice, found by one hash.
            if num_full < len(blocks) or block in free:
                self._num_nameless += 1
                free[-self._num_nameless] = None
            else:
                free[block] = None
            num_full = max(num_full, len(blocks))
        return num_hit


def run_vllm(trace: Trace, capacity_blocks: int) -> Tally:
    """Run the whole trace. *Cost*: O(blocks touched)."""
    tally = Tally()
    cache = VLLMCache(capacity_blocks)
    size = trace.block_tokens
    for request in trace.requests:
        num_blocks = len(request.blocks)
        num_hit = cache.serve(
            request.blocks, (request.num_tokens - 1) // size, request.num_tokens // size
        )
        if num_hit is None:
            tally.refuse(tokens=request.num_tokens, blocks=num_blocks)
            continue
        tally.add(
            tokens=request.num_tokens,
            hit_tokens=num_hit * size,
            blocks=num_blocks,
            hit_blocks=num_hit,
        )
    return tally
