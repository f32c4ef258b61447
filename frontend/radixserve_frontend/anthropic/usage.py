"""What a message cost. The three kinds of input tokens add up to the prompt.

    |---- read from the cache ----|---- written under a mark ----|------ plain ------|
    0                       num_cached                    deepest mark            prompt

Written under a mark: computed for this request, and a ``cache_control`` asked to keep it. (What
nobody marked is cached as well, until others need the room; nobody promised it, so it is not
counted as written.)
"""

from collections.abc import Sequence
from typing import Any

from radixserve.types import PrefixMark
from radixserve_frontend.breakpoints import num_marked_tokens

_LONG_S = 3600.0


def input_usage(
    prompt_tokens: int, cached_tokens: int, marks: Sequence[PrefixMark]
) -> dict[str, Any]:
    """Anthropic's counts of input tokens."""
    written = max(0, num_marked_tokens(marks) - cached_tokens)
    long = num_marked_tokens([mark for mark in marks if mark.keep_s >= _LONG_S])
    written_long = max(0, long - cached_tokens)
    return {
        "input_tokens": prompt_tokens - cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - written_long,
            "ephemeral_1h_input_tokens": written_long,
        },
    }
