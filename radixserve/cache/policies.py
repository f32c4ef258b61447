"""The eviction policies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from radixserve.cache.eviction import LRU, EvictionPolicy
from radixserve.cache.return_time import ReturnTime
from radixserve.errors import ConfigError

Clock = Callable[[], float]
"""Seconds, from any origin."""


def _lru(clock: Clock, num_pages: int, page_size: int) -> EvictionPolicy:  # noqa: ARG001
    return LRU()


POLICIES: Final[Mapping[str, Callable[[Clock, int, int], EvictionPolicy]]] = MappingProxyType(
    {ReturnTime.name: ReturnTime, LRU.name: _lru}
)
DEFAULT_POLICY: Final = ReturnTime.name


def make_policy(name: str, clock: Clock, num_pages: int, page_size: int) -> EvictionPolicy:
    """A policy of that name for a cache of ``num_pages`` pages of ``page_size`` tokens.

    *Raises* ``ConfigError`` for a name that is not in ``POLICIES``.
    """
    make = POLICIES.get(name)
    if make is None:
        raise ConfigError(f"no eviction policy is named {name!r}; choose {' or '.join(POLICIES)}")
    return make(clock, num_pages, page_size)
