"""What the hints of a request ask the cache to keep of it when it ends.

Reads requests, touches no cache; what becomes of the wishes is ``cache/retention.py``'s affair.
*Cost*: O(marks).
"""

from typing import Final

from radixserve.cache.retention import Keep
from radixserve.request import Request

RETURNS_SOON_S: Final = 60.0
"""How long a request that returns soon is kept at least."""


def keeps_of(request: Request, num_kept_tokens: int) -> list[Keep]:
    """What is to be kept of the first ``num_kept_tokens`` tokens of a request, and for how long."""
    hints = request.hints
    keeps = [Keep(min(num_kept_tokens, mark.num_tokens), mark.keep_s) for mark in hints.marks]
    if hints.returns_soon:
        keeps.append(Keep(num_kept_tokens, max(hints.keep_s, RETURNS_SOON_S)))
    elif hints.keep_s:
        keeps.append(Keep(min(num_kept_tokens, request.num_prompt_tokens), hints.keep_s))
    # The deepest first: where the budget is short the oldest marks go, and what more requests
    # begin with is worth more.
    return sorted(keeps, reverse=True)
