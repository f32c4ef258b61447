"""Things that are to be done when there is time: the newest first, each owner in turn, never many.

    push a1 a2 a3 (owner a), b1 (owner b)      pop -> a3, b1, a2, a1

Nothing in it is owed to anybody. Where there are too many, the oldest go: first the owner's own,
then those of whoever has the most. So an owner with a thousand things takes no turn and no place
from one with a single thing.

Knows nothing of what it holds. Not thread-safe. Costs: O(1) for ``pop``; O(owners) for a ``push``
into a full one; O(all) for ``drop``.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairStack(Generic[Item]):
    """At most ``max_items`` things, and ``max_per_owner`` of one owner."""

    def __init__(self, *, max_items: int, max_per_owner: int) -> None:
        self._max_items = max_items
        self._max_per_owner = max_per_owner
        self._by_owner: dict[str, deque[Item]] = {}
        """Each owner's, oldest first. Whose turn is next comes first; nobody's is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._by_owner.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._by_owner.values() for item in items)

    def push(self, owner: str, item: Item) -> None:
        """Put in the owner's newest thing. One that is too many goes."""
        items = self._by_owner.setdefault(owner, deque())
        items.append(item)
        if len(items) > self._max_per_owner:
            items.popleft()
        elif len(self) > self._max_items:
            longest = max(self._by_owner, key=lambda each: len(self._by_owner[each]))
            self._by_owner[longest].popleft()
            if not self._by_owner[longest]:
                del self._by_owner[longest]

    def pop(self) -> Item | None:
        """Take out the newest thing of the owner whose turn it is; None if there is nothing."""
        if not self._by_owner:
            return None
        owner = next(iter(self._by_owner))
        items = self._by_owner.pop(owner)
        item = items.pop()
        if items:
            # Behind everybody else.
            self._by_owner[owner] = items
        return item

    def drop(self, is_void: Callable[[Item], bool]) -> None:
        """Take out everything for which ``is_void`` holds."""
        kept = {
            owner: deque(item for item in items if not is_void(item))
            for owner, items in self._by_owner.items()
        }
        self._by_owner = {owner: items for owner, items in kept.items() if items}
