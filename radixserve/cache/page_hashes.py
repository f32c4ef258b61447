"""Prefix hashes at consecutive page borders of one path of the tree."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class PageHashes(NamedTuple):
    """``hashes`` uint64[n], n >= 1: of the tokens up to page borders ``first``, ``first + 1``, ...

    Border ``k`` is depth ``k * P``. Not to be changed in place. *Cost*: O(1), slices are views.
    """

    first: int
    hashes: npt.NDArray[np.uint64]

    @property
    def last(self) -> int:
        """The deepest border known."""
        return self.first + len(self.hashes) - 1

    def at(self, border: int) -> int:
        """The hash at one border."""
        return int(self.hashes[border - self.first])

    def since(self, border: int) -> "PageHashes":
        """Without what lies above ``border``, which is known."""
        return PageHashes(border, self.hashes[border - self.first :])

    def until(self, border: int) -> "PageHashes":
        """Without what lies below ``border``, which is ``first`` at least."""
        return PageHashes(self.first, self.hashes[: border - self.first + 1])
