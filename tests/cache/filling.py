"""A cache that requests fill: token ids, and requests that computed them."""

import numpy as np

from radixserve.cache.prefix_cache import Lease, PrefixCache
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray


def tokens_of(*ids: int) -> TokenArray:
    return np.array(ids, dtype=np.int32)


def put(cache: PrefixCache, tokens: TokenArray, namespace: Namespace = DEFAULT_NAMESPACE) -> Lease:
    """What a request that has just been prefilled holds."""
    lease = cache.acquire(namespace, tokens[:-1])
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    cache.reserve(lease, len(tokens))
    cache.commit(lease, tokens)
    return lease


def keep(cache: PrefixCache, tokens: TokenArray, namespace: Namespace = DEFAULT_NAMESPACE) -> None:
    """Have the tree hold them, and nobody use them."""
    cache.release(put(cache, tokens, namespace), tokens)
