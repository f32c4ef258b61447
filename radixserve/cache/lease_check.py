"""What must be true of a cache's leases, checked: that they explain every use and every lock.

Reads everything, changes nothing; beside ``tree_check.py``, which knows no leases. *Cost*: O(all).
"""

from collections.abc import Iterable

import numpy as np

from radixserve.cache.lease import Lease
from radixserve.cache.lookup import page_table
from radixserve.cache.radix_tree import RadixTree


def check_leases(tree: RadixTree, leases: Iterable[Lease]) -> None:
    """Check pool and tree, and ``leases``, which are all living ones.

    *Raises* ``AssertionError`` that says what is broken and shows the tree.
    """
    uses = tree.check_invariants()
    try:
        locks: dict[int, int] = {}
        for lease in leases:
            _check_lease(tree, lease)
            uses[lease.own_pages] += 1
            if lease.pending_copy is not None:
                uses[lease.pending_copy.source] += 1
            locks[id(lease.node)] = locks.get(id(lease.node), 0) + 1
        for page, count in enumerate(uses.tolist()):
            kept = tree.pool.use_count(page)
            assert kept == count, f"page {page} has {count} users, the pool says {kept}"
        for node in tree.nodes():
            below = sum(child.lock_count for child in node.children.values())
            held = locks.get(id(node), 0)
            assert node.lock_count == below + held, (
                f"{node} is locked by {held} leases, and {below} times below"
            )
    except AssertionError as error:
        raise AssertionError(f"{error}\n{tree.format()}") from error


def _check_lease(tree: RadixTree, lease: Lease) -> None:
    table = lease.page_table
    assert len(set(table.tolist())) == len(table), f"{lease} lists a page twice: {table}"
    shared = page_table(lease.node, tree.page_size)[: lease.num_shared_pages]
    assert np.array_equal(table[: lease.num_shared_pages], shared), (
        f"{lease} lists {table[: lease.num_shared_pages]} as shared, the tree {shared}"
    )
    assert lease.num_shared_pages == lease.num_committed_tokens // tree.page_size, (
        f"{lease} shares {lease.num_shared_pages} pages of {lease.num_committed_tokens} tokens"
    )
    assert lease.node.namespace in (lease.namespace, None), (
        f"{lease} of {lease.namespace!r} holds {lease.node} of {lease.node.namespace!r}"
    )
    for page in lease.own_pages.tolist():
        assert tree.pool.node_count(page) == 0, f"{lease} owns page {page} of the tree"
