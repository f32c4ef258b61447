"""Names for the integers and arrays that travel between the rooms.

A page id, a slot and a token id are all small integers; giving each a type of its own lets mypy
tell them apart. This module imports nothing of ours and everything of ours may import it.
"""

from typing import NewType

import numpy as np
import numpy.typing as npt

RequestId = NewType("RequestId", str)
"""Names one request for its whole life; chosen by whoever submits it, unique while it lives."""

Namespace = NewType("Namespace", str)
"""Names one root of the radix tree (a tenant, a cache salt). Nothing is shared across roots."""

PageId = NewType("PageId", int)
"""Index of a page in the pool: ``0 <= page < num_pages``."""

TokenArray = npt.NDArray[np.int32]
"""A run of token ids, int32[n]."""

PageArray = npt.NDArray[np.int32]
"""A run of page ids, int32[n]. Entry ``i`` of a page table covers tokens ``[i P, (i + 1) P)``."""

DEFAULT_NAMESPACE = Namespace("")
