"""How much of what a namespace sends comes again, against how much of all that is sent.

Two tenants may send prompts that look alike, of which one goes on with its conversations and the
other asks once. What tells them apart is the share of their tokens that had been seen before. A
namespace is told from the rest only where its odds differ by ``_TELLING``: a lone one, or the one
that sends most, is as usual as can be.

Older requests count for less: of a request ``_MEMORY_REQUESTS`` ago, a third. A namespace that is
new is taken for a usual one, by as much as ``_PRIOR_REQUESTS`` requests.

Bounded: the namespaces that sent something last, ``_MAX_NAMESPACES`` of them. *Cost*: O(1).
"""

import math
from collections import OrderedDict
from enum import IntEnum
from typing import Final

from radixserve.ids import Namespace

_TELLING: Final = 2.0
_MEMORY_REQUESTS: Final = 2048
_PRIOR_REQUESTS: Final = 8
_MAX_NAMESPACES: Final = 4096
_GROWTH: Final = math.exp(1 / _MEMORY_REQUESTS)
_HEAVIEST: Final = 1e100


class Habit(IntEnum):
    """How often a namespace's tokens come again."""

    SELDOM = 0
    USUAL = 1
    OFTEN = 2


class _Share:
    """Tokens that had been seen before, and all, each as heavy as its request. Mutable."""

    __slots__ = ("asked", "known")

    def __init__(self) -> None:
        self.known = self.asked = 0.0


class Habits:
    """The habits of namespaces, learnt from their requests. Mutable. None is the public one."""

    # Instead of letting old requests fade each new one weighs more than the one before: nothing
    # old has to be looked at again, but for once in half a million requests.
    __slots__ = ("_all", "_of", "_requests", "_weight")

    def __init__(self) -> None:
        self._all = _Share()
        self._of: OrderedDict[Namespace | None, _Share] = OrderedDict()
        self._requests = 0.0
        """What all requests together weigh."""
        self._weight = 1.0

    def observe(self, namespace: Namespace | None, *, known: int, asked: int) -> Habit:
        """A namespace asked for so many tokens, of which so many had been seen before; returns its
        habit. *Mutates* the shares.
        """
        everybody = self._all
        own = self._of.get(namespace)
        if own is None:
            own = self._enter(namespace)
        else:
            self._of.move_to_end(namespace)
        weight = self._weight
        everybody.known += weight * known
        own.known += weight * known
        everybody.asked += weight * asked
        own.asked += weight * asked
        self._requests += weight
        # Tokens by which everybody's share counts beside the namespace's own.
        prior = _PRIOR_REQUESTS * weight / self._requests
        seen = own.known + prior * everybody.known
        new = own.asked - own.known + prior * (everybody.asked - everybody.known)
        # Odds, multiplied out: nothing is divided by nothing.
        odds = seen * (everybody.asked - everybody.known)
        usual = new * everybody.known
        self._weight = weight * _GROWTH
        if self._weight > _HEAVIEST:
            self._lighten()
        if odds * _TELLING < usual:
            return Habit.SELDOM
        return Habit.OFTEN if odds > usual * _TELLING else Habit.USUAL

    def _enter(self, namespace: Namespace | None) -> _Share:
        share = self._of[namespace] = _Share()
        if len(self._of) > _MAX_NAMESPACES:
            self._of.popitem(last=False)
        return share

    def _lighten(self) -> None:
        for share in (self._all, *self._of.values()):
            share.known /= self._weight
            share.asked /= self._weight
        self._requests /= self._weight
        self._weight = 1.0

    def __len__(self) -> int:
        return len(self._of)
