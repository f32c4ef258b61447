"""The bound: evict the evictable block whose next use lies farthest in the future.

Under the prefix rule (a block is of use only if all before it are there) a block is used no later
than any below it, so among all blocks the one used farthest in the future, and of equals the
deepest, is always a leaf. Evicting it is therefore Belady's rule unrestricted, and optimal for
block hits; for token hits it is a very strong reference, no proof.

*Source*: L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM
Systems Journal 5(2), 1966.
"""

import heapq

from tqdm import tqdm

from hit_rate_parts.tally import Tally
from hit_rate_parts.trace import Trace


def next_uses(trace: Trace) -> list[dict[int, int]]:
    """For each request, and each of its blocks, the next request that has the block too.

    A block that never comes back gets the number of requests.
    """
    never = len(trace.requests)
    coming: dict[int, int] = {}
    tables: list[dict[int, int]] = []
    for index in range(never - 1, -1, -1):
        blocks = trace.requests[index].blocks
        tables.append({block: coming.get(block, never) for block in blocks})
        coming.update(dict.fromkeys(blocks, index))
    tables.reverse()
    return tables


def run_belady(trace: Trace, capacity_blocks: int) -> Tally:
    """Run the whole trace. *Cost*: O(blocks touched x log capacity)."""
    tally = Tally()
    tables = next_uses(trace)
    resident: dict[int, int] = {}
    """Block -> its next use."""
    # Entries whose next use is not the block's current one are dead.
    heap: list[tuple[int, int, int]] = []
    requests = tqdm(trace.requests, desc="belady", unit="req", disable=None, leave=False)
    for request, table in zip(requests, tables, strict=True):
        blocks, lengths = request.blocks, trace.block_lengths(request)
        num_hit = 0
        while num_hit < len(blocks) and blocks[num_hit] in resident:
            num_hit += 1
        if len(blocks) > capacity_blocks:
            tally.refuse(tokens=request.num_tokens, blocks=len(blocks))
            continue
        tally.add(
            tokens=request.num_tokens,
            hit_tokens=sum(lengths[:num_hit]),
            blocks=len(blocks),
            hit_blocks=num_hit,
        )
        # What this request has matched is locked: neither evicted nor in the heap's living part.
        for block in blocks[:num_hit]:
            del resident[block]
        while len(resident) + len(blocks) > capacity_blocks:
            next_use, _, block = heapq.heappop(heap)
            if resident.get(block) == -next_use:
                del resident[block]
        for depth, block in enumerate(blocks):
            resident[block] = table[block]
            heapq.heappush(heap, (-table[block], -depth, block))
        if len(heap) > 8 * capacity_blocks + 1024:
            heap = [entry for entry in heap if resident.get(entry[2]) == -entry[0]]
            heapq.heapify(heap)
    return tally
