"""How fast an engine starts requests while some wait, and hence how long a new one would.

Measured is only time in which somebody waited for room, by what the engine says of itself after
each step: time in which nobody did tells of the arrivals, not of the engine.

    step   waits 0 |  waits 3  |  waits 2 |  waits 0 |
                   |- counted -|- counted -|

A start takes some time as such (a place must become free) and some for each token that must be
computed; which of the two holds up the queue depends on the traffic. So the wait behind ``k``
requests of ``t`` tokens is taken to be the larger of ``k`` over requests per second and ``t`` over
tokens per second.

Old measurements fade with time and with starts, whichever is slower: a window holds at least about
``WINDOW_S`` seconds and ``WINDOW_STARTS`` starts. A stall shows at once, because time that goes by
while somebody waits counts, step or no step.

Knows no requests and reads no clock: every call says when it is. Costs: O(1).
"""

import math

from radixserve.types import EngineStats

WINDOW_S = 10.0
WINDOW_STARTS = 32
MIN_STARTS = 4
"""So many must have been counted before there is a rate."""

_HITS_WINDOW = 64
"""Starts over which the share of cached tokens is averaged."""


class StartRate:
    """Starts, their tokens and the time they took, faded."""

    def __init__(self) -> None:
        self._last: EngineStats | None = None
        self._last_s = 0.0
        self._is_counting = False
        """Whether somebody waited for room after the last step."""
        self._time_s = 0.0
        self._starts = 0.0
        self._tokens = 0.0
        self._num_starts = 0
        self._prompt_tokens = 0.0
        self._cached_tokens = 0.0

    def observe(self, stats: EngineStats, now_s: float) -> None:
        """Take in the engine's figures after a step."""
        last, self._last = self._last, stats
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        counted, self._is_counting = (
            self._is_counting,
            stats.num_waiting > stats.num_deferred,
        )
        if last is None:
            return
        starts = sum(stats.admissions.values()) - sum(last.admissions.values())
        if starts < 0 or stats.num_steps < last.num_steps:
            # Another engine, which counts from nothing: what was before its first step, was no
            # step. One that died young had made no more steps than that, but more starts.
            return
        prompt_tokens = stats.prompt_tokens - last.prompt_tokens
        cached_tokens = stats.cached_tokens - last.cached_tokens
        fade = math.exp(-starts / _HITS_WINDOW)
        self._prompt_tokens = self._prompt_tokens * fade + prompt_tokens
        self._cached_tokens = self._cached_tokens * fade + cached_tokens
        if counted:
            fade = math.exp(-min(elapsed_s / WINDOW_S, starts / WINDOW_STARTS))
            self._time_s = self._time_s * fade + elapsed_s
            self._starts = self._starts * fade + starts
            self._tokens = self._tokens * fade + prompt_tokens - cached_tokens
            self._num_starts += starts

    def wait_s(self, num_requests: int, num_prompt_tokens: int, now_s: float) -> float:
        """How long until so many waiting requests, with so many prompt tokens together, have been
        started; 0 as long as there is no telling. What of the tokens is cached is taken to be as
        it was with the last few."""
        if self._num_starts < MIN_STARTS or num_requests == 0:
            return 0.0
        time_s = self._time_s
        if self._is_counting:
            time_s += max(0.0, now_s - self._last_s)
        tokens = float(num_prompt_tokens)
        if self._prompt_tokens > 0:
            tokens *= 1 - self._cached_tokens / self._prompt_tokens
        return time_s * max(
            num_requests / self._starts,
            # Where everything was cached nothing is known of the time that tokens take.
            tokens / self._tokens if self._tokens > 0 else 0.0,
        )
