"""Conversations whose pages are known beforehand, so that any page that is read can be judged.

A page's bytes begin with its tokens and go on with noise that follows from its identity, as keys
and values follow from the tokens before: whoever gets another page's bytes gets other tokens.
"""

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from radixserve.ids import Namespace
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_file import PageBytes, file_bytes
from radixserve.tiers.page_names import PageKey, PageNamer

FINGERPRINT = bytes(range(32))
PAGE_SIZE = 16
PAGE_BYTES = 1 << 16
NAMESPACES = (Namespace(""), Namespace("a tenant"), Namespace("another"))
NUM_CONVERSATIONS = 12
NUM_PAGES = 12
NUM_HELD = 90
"""Files that the directory may hold, of 144: so there is always something to evict."""


class Universe:
    """Every page that there is. *Cost*: 9 MiB, 30 ms."""

    def __init__(self) -> None:
        rng = np.random.default_rng(6)
        namer = PageNamer(FINGERPRINT, PAGE_SIZE)
        self.keys: list[PageKey] = []
        self.chains: list[list[int]] = []
        """The numbers of one conversation's pages, in order."""
        pages = []
        for namespace in itertools.islice(itertools.cycle(NAMESPACES), NUM_CONVERSATIONS):
            tokens = rng.integers(0, 50_000, NUM_PAGES * PAGE_SIZE).astype(np.int32)
            chain = namer.chain(namespace, tokens, num_public=2 * PAGE_SIZE)
            self.chains.append(list(range(len(self.keys), len(self.keys) + NUM_PAGES)))
            for page in range(NUM_PAGES):
                key = chain.key(page)
                self.keys.append(key)
                noise = np.random.default_rng(list(key.identity))
                data = noise.integers(0, 256, PAGE_BYTES, dtype=np.uint8)
                own = tokens[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
                data[: 4 * PAGE_SIZE] = own.view(np.uint8)
                pages.append(data)
        self.pages: npt.NDArray[np.uint8] = np.stack(pages)
        self.owners = sorted({key.owner for key in self.keys})

    def is_right(self, number: int, data: PageBytes) -> bool:
        """Whether this is the page."""
        return bool((data == self.pages[number]).all())


def open_directory(path: Path) -> PageDirectory:
    """As a server would."""
    return PageDirectory(path, FINGERPRINT, PAGE_BYTES, NUM_HELD * file_bytes(PAGE_BYTES))


def path_of(path: Path, key: PageKey) -> Path:
    """Where a page's file is."""
    return path / FINGERPRINT[:8].hex() / key.owner / f"{key.name.hex()}.safetensors"
