"""What a front end may ask the engine between two steps, and the engine's replies.

Called by whatever takes messages to a core; knows no process and no socket.
"""

from radixserve.engine.core import EngineCore
from radixserve.engine.messages import (
    CacheStatsRead,
    ClearCache,
    Cleared,
    Explain,
    Explained,
    PathRead,
    Question,
    ReadCacheStats,
    ReadPath,
    Reply,
)


def reply_to(core: EngineCore, question: Question) -> Reply:
    """The core's reply. ``ClearCache`` *mutates* the cache, the others nothing that shows.

    *Cost*: what the core's methods say; a step waits for it.
    """
    match question:
        case Explain(prompt_ids, namespace, looks_elsewhere):
            found = core.explain(prompt_ids, namespace, looks_elsewhere=looks_elsewhere)
            return Explained(found)
        case ClearCache(namespace):
            return Cleared(core.clear_cache(namespace))
        case ReadCacheStats():
            return CacheStatsRead(core.cache_stats())
        case ReadPath(serial, spans):
            return PathRead(core.tree_feed.read(serial, spans))
