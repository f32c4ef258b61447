"""What was evicted, by prefix hash, so that its return is noticed.

One entry stands for the ``stride`` tokens that end at its depth. Entries live in two generations:
when the young one is full it becomes the old one, and what was old is forgotten. So at least the
last ``limit // 2`` entries are remembered, at most ``limit``.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Ghost(NamedTuple):
    """The history of evicted tokens, as in ``Run``."""

    hits: int
    class_: int
    position: int
    touched_s: float


class Ghosts:
    """Evicted tokens' histories. *Cost*: O(1) an entry, about 0.1 µs."""

    __slots__ = ("_limit", "_old", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._young: dict[int, Ghost] = {}
        self._old: dict[int, Ghost] = {}

    def remember(self, prefix_hashes: Sequence[int], ghost: Ghost) -> None:
        """Tokens that end at these prefixes, all of one history, were evicted."""
        young = self._young
        if len(young) + len(prefix_hashes) > self._limit // 2:
            self._old, young = young, {}
            self._young = young
            prefix_hashes = prefix_hashes[: self._limit // 2]
        for prefix_hash in prefix_hashes:
            young[prefix_hash] = ghost

    def recall(self, prefix_hashes: Sequence[int]) -> list[tuple[Ghost, int]]:
        """Tokens that end at these prefixes, one behind the other, are back: their histories, once,
        up to the first that is not known any more, each with how many in a row it is of.
        """
        young, old = self._young, self._old
        found: list[tuple[Ghost, int]] = []
        last: Ghost | None = None
        num_alike = 0
        for prefix_hash in prefix_hashes:
            # An older history of the same tokens would be found next time.
            older = old.pop(prefix_hash, None)
            ghost = young.pop(prefix_hash, older)
            if ghost is not last:
                if last is not None:
                    found.append((last, num_alike))
                last, num_alike = ghost, 0
            if ghost is None:
                break
            num_alike += 1
        if last is not None:
            found.append((last, num_alike))
        return found

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
