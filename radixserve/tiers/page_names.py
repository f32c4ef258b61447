"""What a page is called below the device pool, and what proves that it is the one meant.

A page's keys and values depend on the model, on the namespace that may see them and on *all* tokens
up to the page's end. Two chains of hashes run over these, one link a page of P tokens:

    name(-1) = seed of (fingerprint, owner, P)        name(k) = xxh3_128(name(k-1) + tokens of k)
    identity(-1) = seed of the same                   identity(k) = SHA-256(identity(k-1) + ...)

    tokens     | page 0 | page 1 | page 2 | page 3 | rest
    public     |<------- num_public ------>.
    owner      | public | public |  namespace's ...          page 2 ends behind what is public

Names find, identities prove: names (16 bytes) are fast and can be made to collide by somebody who
tries; identities (32 bytes) can not, and nothing is loaded whose stored identity is another.

The owner of a page is the namespace, or nobody in particular (None) if all its tokens and all
before them are public. A page of the namespace is named in the namespace's own chain, which runs
over all tokens from the first one on, public ones included. Seeds are SHA-256 of an injective
encoding: no two (fingerprint, owner, P) share one, and the public owner equals no namespace,
whatever characters that has.

Knows no tree, no file and no slot. Not for several threads at once.

Costs (measured, 16 tokens a page): a name 0.11 µs, an identity 0.38 µs; each is made once a chain.
The names of all its pages are made when one is asked for, identities little further than asked.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import xxhash

from radixserve.ids import Namespace, TokenArray

_FORMAT = b"radixserve-page-1"
_IDENTITIES_AT_ONCE = 16


class ChainState(NamedTuple):
    """Both chains at one page border: all that is needed to go on without the tokens before it."""

    name: bytes
    """16 bytes."""
    identity: bytes
    """32 bytes."""


class PageKey(NamedTuple):
    """All that is needed to find one page below the device pool, and to prove that it is that."""

    owner: str
    """The owner's folder, 16 hex digits: ``PageNamer.owner_name``."""
    name: bytes
    """16 bytes; finds."""
    identity: bytes
    """32 bytes; proves."""


class PageNamer:
    """Names the pages of one model in one page size. Immutable."""

    __slots__ = ("_fingerprint", "page_size")

    def __init__(self, fingerprint: bytes, page_size: int) -> None:
        """``fingerprint``: of all that decides what a token's keys and values are and how a page is
        laid out."""
        assert page_size > 0
        self._fingerprint = fingerprint
        self.page_size = page_size

    def chain(self, namespace: Namespace, tokens: TokenArray, num_public: int = 0) -> "PageChain":
        """The chain of one prefix: ``tokens`` int32[n], whose first ``num_public`` are public.

        Refers to ``tokens``, which must not change. *Cost*: two seeds, about 4 µs; no names yet.
        """
        return PageChain(self, namespace, tokens, num_public)

    def seed(self, owner: Namespace | None) -> ChainState:
        """The state before an owner's first token; None: of what is public."""
        return ChainState(
            self._digest(b"name", owner)[:16],
            self._digest(b"identity", owner),
        )

    def owner_name(self, owner: Namespace | None) -> str:
        """The owner's folder: 16 hex digits, which do not tell the namespace's text."""
        return self._digest(b"owner", owner)[:8].hex()

    def names_after(self, name: bytes, tokens: TokenArray) -> list[bytes]:
        """The names of the whole pages of ``tokens`` (int32[n]), which follow the border that
        ``name`` belongs to. *Cost*: 0.11 µs a page."""
        step = 4 * self.page_size
        raw = _bytes(tokens)
        digest = xxhash.xxh3_128_digest
        names = []
        for start in range(0, len(raw) - step + 1, step):
            name = digest(name + raw[start : start + step])
            names.append(name)
        return names

    def identities_after(self, identity: bytes, tokens: TokenArray) -> list[bytes]:
        """The same of identities. *Cost*: 0.38 µs a page."""
        step = 4 * self.page_size
        raw = _bytes(tokens)
        sha256 = hashlib.sha256
        identities = []
        for start in range(0, len(raw) - step + 1, step):
            identity = sha256(identity + raw[start : start + step]).digest()
            identities.append(identity)
        return identities

    def advance(self, state: ChainState, tokens: TokenArray) -> list[ChainState]:
        """The states at the borders that end the whole pages of ``tokens`` (int32[n]), which follow
        the border of ``state``."""
        return list(
            map(
                ChainState,
                self.names_after(state.name, tokens),
                self.identities_after(state.identity, tokens),
            )
        )

    def _digest(self, purpose: bytes, owner: Namespace | None) -> bytes:
        # Each part is preceded by its length, so that no two tuples have the same encoding. A
        # namespace may hold lone surrogates: it came out of JSON.
        parts = [_FORMAT, purpose, self._fingerprint, str(self.page_size).encode()]
        if owner is not None:
            parts.append(owner.encode("utf-8", "surrogatepass"))
        encoded = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        return hashlib.sha256(encoded).digest()


class PageChain:
    """Names and identities of the whole pages of one prefix, made as they are asked for. Mutable.

    Page ``k`` covers tokens ``[k P, (k + 1) P)``.
    """

    __slots__ = ("_namer", "_own", "_public", "_tokens", "num_public_pages")

    def __init__(
        self, namer: PageNamer, namespace: Namespace, tokens: TokenArray, num_public: int
    ) -> None:
        assert 0 <= num_public <= len(tokens)
        self._namer = namer
        self._tokens = tokens
        self.num_public_pages = num_public // namer.page_size
        self._own = _Links(namer, namespace)
        self._public = _Links(namer, None) if self.num_public_pages else None

    @property
    def num_pages(self) -> int:
        """How many whole pages the tokens make."""
        return len(self._tokens) // self._namer.page_size

    def folder(self, page: int) -> str:
        """The folder of whose page it is: the namespace's, or what is public's; 16 hex digits."""
        return self._links(page).owner_name

    def name(self, page: int) -> bytes:
        """16 bytes. *Cost*: O(1) once it was made, else 0.11 µs for each page up to it."""
        return self._links(page).name(page, self._tokens)

    def identity(self, page: int) -> bytes:
        """32 bytes. *Cost*: O(1) once it was made, else 0.38 µs for each page up to it."""
        return self._links(page).identity(page, self._tokens)

    def key(self, page: int) -> PageKey:
        """Folder, name and identity in one."""
        links = self._links(page)
        return PageKey(
            links.owner_name, links.name(page, self._tokens), links.identity(page, self._tokens)
        )

    def _links(self, page: int) -> "_Links":
        assert 0 <= page < self.num_pages, f"page {page} of {self.num_pages}"
        if self._public is not None and page < self.num_public_pages:
            return self._public
        return self._own


class _Links:
    """One owner's two chains, as far as they were made. Mutable."""

    __slots__ = ("_identities", "_namer", "_names", "_seed", "owner_name")

    def __init__(self, namer: PageNamer, owner: Namespace | None) -> None:
        self._namer = namer
        self._seed = namer.seed(owner)
        self._names: list[bytes] = []
        self._identities: list[bytes] = []
        self.owner_name = namer.owner_name(owner)

    def name(self, page: int, tokens: TokenArray) -> bytes:
        names = self._names
        if page >= len(names):
            before = names[-1] if names else self._seed.name
            names += self._namer.names_after(before, self._pages(tokens, len(names)))
        return names[page]

    def identity(self, page: int, tokens: TokenArray) -> bytes:
        made = self._identities
        if page >= len(made):
            before = made[-1] if made else self._seed.identity
            # Little further than asked for: identities of pages that are not held are not needed.
            end = (page + _IDENTITIES_AT_ONCE) * self._namer.page_size
            made += self._namer.identities_after(before, self._pages(tokens[:end], len(made)))
        return made[page]

    def _pages(self, tokens: TokenArray, first: int) -> TokenArray:
        return tokens[first * self._namer.page_size :]


def _bytes(tokens: TokenArray) -> bytes:
    """As little-endian int32, whatever the machine is."""
    return tokens.astype(np.dtype("<i4"), copy=False).tobytes()
