"""How surely and how soon tokens of each class come back, learnt online; and what that is worth.

Per class and bucket of age it counts, in tokens,

    at risk   those that reached the bucket's lower edge without being touched
    returned  those touched within the bucket, be they still cached or only remembered

Their quotient is a hazard; hazards make a survival curve S; and what an unreturned token of age a
is worth to keep is the best that can be had of it, per second of residence:

    index(a) = max over b > a of (S(a) - S(b)) / integral from a to b of S(x) dx

a Gittins index: keep until age b, get a hit with the odds of returning before, pay for the time. It
looks ahead, so a class that returns after a pause is kept during the pause (the hazard alone would
evict it there).

Counts are blurred over neighbouring sizes and ages first, half as much of each neighbour, lest the
best b be the luckiest one. Then few counts are shrunk towards more: a class towards all habits, if
there are several, those towards all traits of the same hits and size, those towards all sizes,
those towards all there is, each time as if ``prior_tokens`` more had been seen there. Tokens of one
request are one observation more than many, so the prior is a request's length.

Old counts fade, by 1% every 256 requests. *Cost*: ``record`` O(1); ``count`` vectorised, each log
entry once for each age it reaches; ``index`` O(classes seen x ages squared), about 1 ms.
*Source*: the index is Gittins' ("Bandit processes and dynamic allocation indices", 1979); counting
hits and lifetimes by age as in LHD (Beckmann et al., NSDI 2018).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from radixserve.cache.return_class import (
    NUM_CLASSES,
    NUM_HABITS,
    NUM_HITS,
    NUM_SIZES,
    NUM_TRAITS,
    Trait,
)
from radixserve.cache.touch_log import TouchLog

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

AGE_EDGES_S: Final = (0.0, *(2.0 ** (step / 2) for step in range(35)))
"""Lower edges of the age buckets, in seconds: 0, 1, then by factors of sqrt 2 to 36 hours."""

NUM_AGES: Final = len(AGE_EDGES_S)

_FADING: Final = 0.99
_REQUESTS_PER_FADING: Final = 256
_EDGES: Final = np.array(AGE_EDGES_S)
_WIDTHS: Final = np.diff(_EDGES, append=2 * _EDGES[-1])
_EARLIER: Final = np.where(np.tri(NUM_AGES, k=-1, dtype=bool), np.inf, 0.0)
"""No end of a stay lies before its beginning: at such a price none is chosen."""

_SHORTEST_S: Final = 1e-9
_SHAPE: Final = (NUM_HABITS, NUM_TRAITS, NUM_HITS, NUM_SIZES, NUM_AGES)


def _add(counts: FloatArray, places: IntArray, weights: IntArray) -> None:
    """Add weights to places of ``counts``, counted row by row."""
    # Of one type, or it takes ten times as long.
    np.add.at(counts.reshape(-1), places, weights.astype(np.float64))


def _shrunk(
    returned: FloatArray, at_risk: FloatArray, towards: FloatArray, prior_tokens: float
) -> FloatArray:
    return (returned + prior_tokens * towards) / (at_risk + prior_tokens)


def _neighbours(number: int) -> FloatArray:
    """What to multiply by to add to each half of its neighbours, float64[number, number]."""
    return np.eye(number) + (np.eye(number, k=1) + np.eye(number, k=-1)) / 2


_NEAR_SIZES: Final = _neighbours(NUM_SIZES)
_NEAR_AGES: Final = _neighbours(NUM_AGES)


def _blurred(counts: FloatArray) -> FloatArray:
    """Each size and each age with half of its neighbours' counts; the last two axes."""
    blurred: FloatArray = _NEAR_SIZES @ (counts @ _NEAR_AGES)
    return blurred


class ReturnStatistics:
    """Counts by class and age, float64[NUM_CLASSES, NUM_AGES]. Reads ``log``, never changes it."""

    __slots__ = ("_log", "_passed", "_pending", "at_risk", "returned")

    def __init__(self, log: TouchLog) -> None:
        self._log = log
        self.returned: FloatArray = np.zeros((NUM_CLASSES, NUM_AGES))
        self.at_risk: FloatArray = np.zeros((NUM_CLASSES, NUM_AGES))
        self._passed: npt.NDArray[np.int64] = np.zeros(NUM_AGES, dtype=np.int64)
        """Per age, the first position whose tokens had not reached it when last counted."""
        self._pending: list[tuple[int, float, int, int]] = []

    def record(self, class_: int, age_s: float, position: int, num_tokens: int) -> None:
        """Tokens at a position of the log come back; to be said before they leave it."""
        self._pending.append((class_, age_s, position, num_tokens))

    def count(self, now_s: float) -> None:
        """Take in what was recorded, and who has reached which age by now."""
        if self._pending:
            self._count_returns()
        self._count_ages(now_s)

    def _count_returns(self) -> None:
        columns = list(zip(*self._pending, strict=True))
        self._pending.clear()
        classes, positions, weights = (np.array(columns[i], dtype=np.int64) for i in (0, 2, 3))
        ages = np.searchsorted(_EDGES, np.array(columns[1]), side="right") - 1
        rows = classes * NUM_AGES
        _add(self.returned, rows + ages, weights)
        # Ages up to ``first - 1`` have been counted with the entry still whole; the older ones that
        # the tokens did reach, not yet. ``_passed`` falls with age.
        first = NUM_AGES - np.searchsorted(self._passed[::-1], positions, side="right")
        num_late = np.maximum(ages + 1 - first, 0)
        ends = np.cumsum(num_late)
        starts = np.repeat(rows + first - ends + num_late, num_late)
        _add(self.at_risk, starts + np.arange(ends[-1]), np.repeat(weights, num_late))

    def _count_ages(self, now_s: float) -> None:
        log = self._log
        oldest = max(log.oldest, int(self._passed[-1]))
        firsts = np.maximum(self._passed, oldest)
        ends = log.reached(now_s - _EDGES, oldest)
        places, weights = [], []
        for age in np.flatnonzero(ends > firsts).tolist():
            for slots in log.slots(int(firsts[age]), int(ends[age])):
                places.append(log.classes[slots] * NUM_AGES + age)
                weights.append(log.weights[slots])
            self._passed[age] = ends[age]
        if places:
            _add(self.at_risk, np.concatenate(places), np.concatenate(weights))

    def fade(self, num_requests: int) -> None:
        """Let the past count for less, by what ``num_requests`` more requests are worth."""
        factor = _FADING ** (num_requests / _REQUESTS_PER_FADING)
        self.returned *= factor
        self.at_risk *= factor

    def hazards(self, prior_tokens: float) -> FloatArray:
        """The share of tokens that return within a bucket of those that reach it; same shape."""
        # A run may stand for a few tokens more or less than it had: counts may dip below 0.
        at_risk = np.maximum(self.at_risk, 0.0).reshape(_SHAPE)
        habits = np.flatnonzero(at_risk.any((1, 2, 3, 4)))
        by_habit = _blurred(self.returned.reshape(_SHAPE)[habits])
        risks_by_habit = _blurred(at_risk[habits])
        returned, at_risk = by_habit.sum(0), risks_by_habit.sum(0)
        overall = returned.sum((0, 1, 2)) / (at_risk.sum((0, 1, 2)) + prior_tokens)
        hazards = np.empty(_SHAPE[1:])
        # Partial pages are another kind altogether; the rest lends from one another.
        for family in (slice(Trait.PARTIAL), slice(Trait.PARTIAL, None)):
            returns, risks = returned[family].sum(0), at_risk[family].sum(0)
            by_hits = _shrunk(returns.sum(1), risks.sum(1), overall, prior_tokens)
            pooled = _shrunk(returns, risks, by_hits[:, None], prior_tokens)
            hazards[family] = _shrunk(returned[family], at_risk[family], pooled, prior_tokens)
        every = np.empty(_SHAPE)
        every[:] = hazards
        # A lone habit is all there is: it would but be counted twice.
        if len(habits) > 1:
            every[habits] = _shrunk(by_habit, risks_by_habit, hazards, prior_tokens)
        return np.clip(every, 0.0, 1.0, out=every).reshape(NUM_CLASSES, NUM_AGES)

    def index(self, prior_tokens: float) -> FloatArray:
        """What keeping a token is worth, in hits per second, by class and age; 0 for the unseen."""
        seen = np.flatnonzero(self.at_risk[:, 0])
        survival = np.ones((len(seen), NUM_AGES + 1))
        np.cumprod(1 - self.hazards(prior_tokens)[seen], axis=1, out=survival[:, 1:])
        residence = np.zeros((len(seen), NUM_AGES + 1))
        means = (survival[:, :-1] + survival[:, 1:]) / 2
        np.cumsum(means * _WIDTHS, axis=1, out=residence[:, 1:])
        gain = survival[:, :-1, None] - survival[:, None, 1:]
        cost = residence[:, None, 1:] - residence[:, :-1, None]
        index = np.zeros((NUM_CLASSES, NUM_AGES))
        cost += _EARLIER
        # What has certainly returned costs nothing, and gains nothing.
        gain /= np.maximum(cost, _SHORTEST_S, out=cost)
        index[seen] = gain.max(2)
        return index
