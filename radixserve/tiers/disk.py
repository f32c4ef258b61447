"""The disk tier as the tiers above it see it. ``disk_tier.DiskTier`` is one."""

from collections.abc import Callable, Sequence
from typing import Protocol

from radixserve.tiers.disk_tier import Done
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_names import PageKey


class DirectoryFigures(Protocol):
    """What a directory tells of itself (``page_directory.py``)."""

    limit_bytes: int
    num_stored: int
    num_rejected: int

    @property
    def num_pages(self) -> int:
        """Files of this model."""
        ...

    @property
    def used_bytes(self) -> int:
        """Of all files."""
        ...


class Disk(Protocol):
    """Pages in files. What is handed in ends in one ``Done`` each; see ``disk_tier.py``."""

    on_done: Callable[[], None]
    """Rung by a thread when something is done."""

    @property
    def directory(self) -> DirectoryFigures:
        """Where the files are."""
        ...

    def contains(self, owner: str, name: bytes) -> bool:
        """Whether there is a file of this name."""
        ...

    def read(self, slot: SlotId, key: PageKey) -> None:
        """Bring the page of this very key into the slot."""
        ...

    def write(self, slot: SlotId, key: PageKey) -> None:
        """Keep the slot's page in a file."""
        ...

    def touch(self, keys: Sequence[PageKey]) -> None:
        """These pages of one prefix, first page first, have been of use."""
        ...

    def clear(self, owner: str | None) -> None:
        """Forget the pages of one owner, or all; what is under way of them ends in failure."""
        ...

    def slots(self) -> set[SlotId]:
        """Those of which a ``Done`` is still to be taken."""
        ...

    @property
    def has_done(self) -> bool:
        """Whether ``take_done`` would return anything."""
        ...

    def take_done(self) -> list[Done]:
        """What has ended since the last call."""
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until something can be taken, unless nothing is under way."""
        ...

    def close(self, timeout_s: float) -> None:
        """Give up reads, finish writes for so long, end the threads."""
        ...
