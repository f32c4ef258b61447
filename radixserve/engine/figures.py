"""The engine's figures over all of its lives: counters go on where a dead process left them.

Gauges (who waits, who runs, where the pages are) are those of the process that lives, or of an
empty engine until it has spoken.
"""

from dataclasses import replace
from typing import Final

from radixserve.types import CacheInfo, EngineInfo, EngineStats, TierInfo

_COUNTERS: Final = (
    "num_steps",
    "prompt_tokens",
    "cached_tokens",
    "in_flight_tokens",
    "host_tokens",
    "disk_tokens",
    "computed_tokens",
    "prefilled_tokens",
    "generated_tokens",
    "preemptions",
    "evicted_pages",
)

_TIER_COUNTERS: Final = (
    "host_loaded_pages",
    "disk_loaded_pages",
    "disk_stored_pages",
    "rejected_files",
    "lost_pages",
)


class Figures:
    """Adds up. ``now`` is what there is to say at this moment."""

    def __init__(self, info: EngineInfo) -> None:
        self._empty = EngineStats(
            num_waiting=0,
            num_running=0,
            cache=CacheInfo(
                free_pages=info.num_pages,
                cached_pages=0,
                in_use_pages=0,
                total_pages=info.num_pages,
                page_size=info.page_size,
            ),
            tiers=_empty_tiers(info),
        )
        self._before = self._empty
        self._latest = self._empty

    @property
    def now(self) -> EngineStats:
        """The newest gauges, and all counters since the start of the server."""
        return _sum(self._before, self._latest) if self._before is not self._empty else self._latest

    def update(self, stats: EngineStats) -> None:
        """The process that lives has spoken."""
        self._latest = stats

    def restart(self) -> None:
        """It has died; the next one counts from 0."""
        self._before, self._latest = _sum(self._before, self._latest), self._empty


def _sum(before: EngineStats, latest: EngineStats) -> EngineStats:
    counts = {name: getattr(before, name) + getattr(latest, name) for name in _COUNTERS}
    causes = before.admissions.keys() | latest.admissions.keys()
    admissions = {
        cause: before.admissions.get(cause, 0) + latest.admissions.get(cause, 0) for cause in causes
    }
    tiers = latest.tiers
    if tiers is not None and before.tiers is not None:
        tiers = replace(
            tiers,
            **{name: getattr(before.tiers, name) + getattr(tiers, name) for name in _TIER_COUNTERS},
        )
    return replace(latest, admissions=admissions, tiers=tiers, **counts)


def _empty_tiers(info: EngineInfo) -> TierInfo | None:
    if not info.num_host_pages:
        return None
    return TierInfo(
        host_free_pages=info.num_host_pages,
        host_cached_pages=0,
        host_in_use_pages=0,
        host_total_pages=info.num_host_pages,
    )
