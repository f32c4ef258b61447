"""Which files are there, in the order in which they were used last, and how much they take.

Books only: knows no file system. Bytes count until their file is known to be gone (``freed``), so a
file that could not be removed still counts. Not for several threads at once, but ``in`` may be
asked at any time.

Costs: everything O(1) but ``of`` and ``check_invariants``, O(files). About 165 bytes a file
(measured, CPython 3.11).
"""

from collections import OrderedDict


class PageIndex:
    """Entries are 24 bytes, 8 of the owner and 16 of the name. Mutable."""

    __slots__ = ("_entries", "_num_files", "_sizes", "used_bytes")

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, int] = OrderedDict()
        """Bytes of each file; the one used longest ago comes first."""
        self._num_files: dict[bytes, int] = {}
        """How many files each owner has; owners without are left out."""
        self._sizes: dict[int, int] = {}
        """One integer object for all files of one size."""
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: bytes) -> bool:
        return entry in self._entries

    def add(self, entry: bytes, num_bytes: int) -> None:
        """There is a file now, in place of one of the same name if there was; it is the newest."""
        self.freed(self.forget(entry))
        self._entries[entry] = self._sizes.setdefault(num_bytes, num_bytes)
        self.used_bytes += num_bytes
        self._num_files[entry[:8]] = self._num_files.get(entry[:8], 0) + 1

    def touch(self, entry: bytes) -> bool:
        """It has been used. Returns whether there is such a file."""
        if entry not in self._entries:
            return False
        self._entries.move_to_end(entry)
        return True

    def oldest(self) -> bytes | None:
        """The one that was used longest ago."""
        return next(iter(self._entries), None)

    def of(self, owner: bytes | None) -> list[bytes]:
        """An owner's entries, or all, oldest first."""
        return [entry for entry in self._entries if owner is None or entry[:8] == owner]

    def has_any(self, owner: bytes) -> bool:
        """Whether the owner has a file."""
        return owner in self._num_files

    def forget(self, entry: bytes) -> int:
        """It is not to be found any more. Returns its bytes, which still count; 0 if it was
        not anyway."""
        num_bytes = self._entries.pop(entry, None)
        if num_bytes is None:
            return 0
        owner = entry[:8]
        self._num_files[owner] -= 1
        if not self._num_files[owner]:
            del self._num_files[owner]
        return num_bytes

    def freed(self, num_bytes: int) -> None:
        """So many bytes of forgotten files are gone."""
        self.used_bytes -= num_bytes

    def check_invariants(self) -> None:
        """Assert that the books agree with each other."""
        owners: dict[bytes, int] = {}
        for entry in self._entries:
            assert len(entry) == 24
            owners[entry[:8]] = owners.get(entry[:8], 0) + 1
        assert owners == self._num_files, "files an owner"
        assert self.used_bytes >= sum(self._entries.values()), "bytes used"
