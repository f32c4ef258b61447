"""What must hold of a cache's marks at any moment."""

from radixserve.cache.node import Root
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import Namespace


def check_retention(cache: PrefixCache) -> None:
    """Budgets, bookkeeping and what is held back, against the tree as it is."""
    retention = cache.retention
    found = []
    weights: dict[Namespace, int] = {}
    for node in cache.tree.nodes():
        above = node
        while not isinstance(above, Root):
            assert above.parent is not None
            above = above.parent
        assert node.marks != [], "no marks are None"
        for mark in node.marks or ():
            assert mark.node is node
            assert node.start < mark.depth <= node.end, f"{mark} lies outside of its node"
            assert above.namespace in (mark.namespace, None)
            assert node.namespace in (mark.namespace, None)
            weights[mark.namespace] = weights.get(mark.namespace, 0) + mark.num_pages
            found.append(mark)
        is_evictable = node.parent is not None and not node.lock_count and not node.children
        last_page = (node.end - 1) // cache.page_size * cache.page_size
        is_marked = any(mark.depth > last_page for mark in node.marks or ())
        assert (node in retention._held) == (is_evictable and is_marked)
        assert (node in retention.policy) == (is_evictable and not is_marked)
    assert set(found) == retention._marks
    assert len(found) == len(retention._marks)
    assert weights == retention._weights
    assert all(weight <= retention.budget_pages for weight in weights.values())
    assert sum(weights.values()) == retention.weight_pages <= retention.total_pages
    if weights:
        assert weights[retention._heaviest_namespace()] == max(weights.values())
    assert len(retention._heaviest) <= 2 * len(weights) + 16
    for namespace in weights:
        retention.num_marks(namespace)
    assert all(mark.until_s > retention._now() for mark in retention._marks)
