"""Pages on their way between the device pool and the host tier: what a step is to do about them.

    stores    device page -> host slot     what eviction gives up, or what is to be kept on disk
    loads     host slot -> device page     what a request need not compute

Within one step all stores come first, then all loads, then the step's page copies, then its writes.
So a page that is evicted and given to somebody else in one plan is stored before it is overwritten,
and nothing has to be held for a store: what lies in a page when the plan is made lies in it when
the store runs. Data only.
"""

from dataclasses import dataclass
from typing import Final, NewType

from radixserve.ids import PageId

SlotId = NewType("SlotId", int)
"""Index of a page's place in host memory."""


@dataclass(frozen=True, slots=True)
class Store:
    """Copy a whole device page into a host slot."""

    page: PageId
    slot: SlotId


@dataclass(frozen=True, slots=True)
class Load:
    """Copy a host slot into a whole device page."""

    slot: SlotId
    page: PageId


@dataclass(frozen=True, slots=True)
class Moves:
    """A step's transfers. No slot and no page is the target of two of them; a slot is not both
    source and target."""

    stores: tuple[Store, ...] = ()
    loads: tuple[Load, ...] = ()

    def __len__(self) -> int:
        return len(self.stores) + len(self.loads)


NO_MOVES: Final = Moves()
