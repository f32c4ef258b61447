"""The scheduler's choices, as pure functions and named numbers, each with its reason."""

from collections.abc import Sequence

from radixserve.request import Request

MAX_OVERTAKES = 64
"""How many later arrivals may be admitted before a request goes first (``waiting.py``)."""

MAX_CLASS_WAIT = 16
"""How many admissions a tenant's requests of one priority may be without any of their own, before
the next one is theirs (``tenant_queue.py``)."""

GENERATED_TOKEN_COST = 2
"""What a generated token counts for where a computed token of a prompt counts 1 (``shares.py``)."""

MAX_PROBES = 32
"""Most waiting requests looked at in one step. Each costs a match (tens of microseconds), and a
step must not stall because a thousand requests queue; who is not looked at keeps its place."""

MAX_PASSED_OVER = 8
"""How many waiting requests that do not fit just now are passed over in one step in favour of
smaller ones. The aging bound limits how often that can happen to the same one."""

SHORT_SHARE = 4
"""One part in so many of a step's chunk tokens goes first to requests that it suffices for, so that
a short prompt does not wait until a long one has been computed."""

MIN_SHORT_TOKENS = 8
"""That share is at least so large, where it leaves half to the others."""

MAX_MOVED_PAGES = 256
"""Most pages that are loaded, or stored for the disk's sake, in one step that no stream waits for:
so that whoever comes meanwhile, and the first row behind the loads, need not wait for all of a long
prefix."""

NUM_REFRESHED = 4
"""How many waiting requests' prefix estimates are brought up to date each step, in turn."""


def cheapest_victim(running: Sequence[Request]) -> Request | None:
    """Whom to preempt when pages run out: whoever has the fewest tokens computed beyond what the
    tree will keep for sure, that is, beyond its cached prompt; the youngest among equals. Of each
    tenant only those with its largest priority value are asked.

    Never the oldest running request, which so always gets on and frees its pages in the end: that
    is why preemption cannot go on forever. None if there is nobody else. Cost: O(running).
    """
    if len(running) < 2:
        return None
    oldest = min(running, key=_arrival)
    others = [request for request in running if request is not oldest]
    largest: dict[str, int] = {}
    for request in others:
        priority = largest.get(request.tenant, request.priority)
        largest[request.tenant] = max(priority, request.priority)
    return min(
        (request for request in others if request.priority == largest[request.tenant]),
        key=lambda request: (_num_tokens_at_stake(request), -request.arrival),
    )


def _arrival(request: Request) -> int:
    return request.arrival


def _num_tokens_at_stake(request: Request) -> int:
    """Computed tokens, those in flight included, that would be computed anew if all that the victim
    gives up were evicted."""
    assert request.lease is not None
    return request.num_launched_tokens - request.lease.num_cached_tokens


def awaits_update(request: Request) -> bool:
    """Whether nothing of a running request can be planned before a step in flight is known.

    So it is if the pending token is the last that it may come to (it will never run), if the
    pending tokens are those at which it forks (each choice goes on from its own), and if the answer
    has a grammar (what may come next depends on the token).
    """
    return request.num_pending_tokens > 0 and (
        request.is_to_fork
        or request.constraint is not None
        or request.num_foreseen_tokens >= request.max_total_tokens
    )
