"""Simulated pages: each token's place holds a digest of the whole prefix, and of who computed it.

So whatever is read back says which prefix it belongs to, wherever the page has been meanwhile.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radixserve.ids import Namespace
from radixserve.tiers.page_names import PageNamer
from tests.cache.public_model import Tokens

DIGEST_BYTES = 16
JUNK = 0x5A

Bytes = npt.NDArray[np.uint8]


class Origin(NamedTuple):
    """Whose computation it was, of the last token of which prefix."""

    namespace: Namespace
    tokens: Tokens


class WeakNamer(PageNamer):
    """Names collide all the time: there are only ``num_names`` of them."""

    num_names = 5

    def names_after(self, name: bytes, tokens: npt.NDArray[np.int32]) -> list[bytes]:
        return [bytes([one[0] % self.num_names]) * 16 for one in super().names_after(name, tokens)]


class Contents:
    """All digests and page identities that there can be, and what they stand for."""

    def __init__(self, page_size: int, namer: PageNamer) -> None:
        self.page_size = page_size
        self.page_bytes = page_size * DIGEST_BYTES
        self._namer = namer
        self._origins: dict[bytes, Origin] = {}
        self._prefixes: dict[bytes, Tokens] = {}
        self._expected: set[tuple[Namespace, Tokens]] = set()

    def computed(self, namespace: Namespace, tokens: Tokens) -> Bytes:
        """What a step leaves at the place of the last of ``tokens``: uint8[16]."""
        text = repr((str(namespace), tokens)).encode()
        digest = hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()
        self._origins[digest] = Origin(namespace, tokens)
        return np.frombuffer(digest, dtype=np.uint8)

    def origin(self, place: Bytes) -> Origin | None:
        """What is at a token's place; None if it is junk."""
        return self._origins.get(place.tobytes())

    def expect(self, namespace: Namespace, tokens: Tokens) -> None:
        """From now on there may be pages of ``tokens`` below, of the namespace or public."""
        if (namespace, tokens) in self._expected:
            return
        self._expected.add((namespace, tokens))
        array = np.array(tokens, dtype=np.int32)
        for owner in (namespace, None):
            identities = self._namer.identities_after(self._namer.seed(owner).identity, array)
            for page, identity in enumerate(identities):
                self._prefixes[identity] = tokens[: (page + 1) * self.page_size]

    def check_page(self, page: Bytes, identity: bytes) -> None:
        """That the page (uint8[page_bytes]) is the one of this identity."""
        prefix = self._prefixes[identity]
        first = len(prefix) - self.page_size
        for offset, place in enumerate(page.reshape(self.page_size, DIGEST_BYTES)):
            origin = self.origin(place)
            wanted = prefix[: first + offset + 1]
            assert origin is not None, f"junk in the place of {wanted}"
            assert origin.tokens == wanted, f"{origin.tokens} in the place of {wanted}"
