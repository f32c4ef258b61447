"""Stop strings that straddle tokens, found as the text arrives and never leaked.

Text is let through only when it can no longer be part of a stop string: the longest end of the text
that begins one is held back.

    stop "\\nUser:"    text so far  "Hello.\\nUs"      let through "Hello."  held back "\\nUs"

The match that *ends* first wins, and of those that end together the longest; so the answer does not
depend on how the text was cut into pieces.

Each string is sought by the Knuth-Morris-Pratt automaton, whose failure table is computed only as
far as the text has ever matched: 64 strings of 4,096 characters cost nothing to set up, a
character costs O(number of strings) amortised, and a piece never costs more for a longer answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopStep:
    """What one piece of text came to."""

    text: str
    """Decided: none of it can be part of a stop string any more."""
    stop: str | None = None
    """The stop string that was completed, if one was: the answer ends here."""


class StopStrings:
    """Looks for the first of several strings in a text that arrives in pieces.

    ``include_stop`` leaves the string that was found at the end of the text.
    """

    __slots__ = ("_held", "_include_stop", "_seekers")

    def __init__(self, stops: Sequence[str], *, include_stop: bool = False) -> None:
        self._seekers = [_Seeker(stop) for stop in stops]
        self._include_stop = include_stop
        self._held = ""

    def feed(self, text: str, *, accept: bool = True) -> StopStep:
        """Take the next piece. With ``accept`` false, stop strings that end in it do not count.

        After a match nothing more may be fed.
        """
        if not self._seekers:
            return StopStep(text)
        before = len(self._held)
        self._held += text
        end = len(text)
        found: str | None = None
        for seeker in self._seekers:
            match = seeker.advance(text, end, accept=accept)
            if match is None:
                continue
            if found is None or match < end or len(seeker.stop) > len(found):
                found, end = seeker.stop, match
        if found is None:
            cut = len(self._held) - max(seeker.matched for seeker in self._seekers)
            decided, self._held = self._held[:cut], self._held[cut:]
            return StopStep(decided)
        cut = before + end - (0 if self._include_stop else len(found))
        decided, self._held = self._held[:cut], ""
        return StopStep(decided, found)

    def flush(self) -> str:
        """The text has ended: what was held back belongs to it."""
        held, self._held = self._held, ""
        return held


class _Seeker:
    """The Knuth-Morris-Pratt automaton of one string, its failure table built on demand.

    ``matched`` is the length of the longest end of the text that begins ``stop``.
    ``_fallback[k]`` is the length of the longest proper end of ``stop[:k]`` that begins it: the
    next candidate once the one of length ``k`` has failed.
    """

    __slots__ = ("_fallback", "matched", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = [0, 0]

    def advance(self, text: str, limit: int, *, accept: bool) -> int | None:
        """Read ``text[:limit]``; the index just behind the first match, or None."""
        stop = self.stop
        matched = self.matched
        at = 0
        while at < limit:
            if matched == 0:
                # Most text is nowhere near a stop string: let C find where one could begin.
                at = text.find(stop[0], at, limit)
                if at < 0:
                    break
                matched = 1
            else:
                matched = self._next(matched, text[at])
            at += 1
            if matched == len(stop) and accept:
                self.matched = matched
                return at
        self.matched = self._fall(matched) if matched == len(stop) else matched
        return None

    def _next(self, matched: int, char: str) -> int:
        """The state after ``char``."""
        stop = self.stop
        if matched == len(stop):
            matched = self._fall(matched)
        while matched and stop[matched] != char:
            matched = self._fall(matched)
        return matched + 1 if stop[matched] == char else 0

    def _fall(self, matched: int) -> int:
        """The longest proper end of ``stop[:matched]`` that begins ``stop``."""
        stop, fallback = self.stop, self._fallback
        while len(fallback) <= matched:
            char = stop[len(fallback) - 1]
            shorter = fallback[-1]
            while shorter and stop[shorter] != char:
                shorter = fallback[shorter]
            fallback.append(shorter + 1 if stop[shorter] == char else 0)
        return fallback[matched]
