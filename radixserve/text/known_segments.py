"""The token ids that segments of text are known to have, within a bound of bytes.

    (namespace, hash of the text before, segment) ──▶ ids                    exactly this one
    (namespace, hash of the text before)          ──▶ what was generated there, newest first

A namespace finds what it has put in itself, and nothing else: the name is part of every key, so
not even a collision of hashes leads into another one. Segments are compared, not their hashes; the
hash of what lies before only tells conversations apart.

Safe to use from several threads. The lock is held for a thousand look-ups at most, never while
anything is encoded. A text that alone would take a large part of the memory is not remembered: it
would drive out everything else.

Cost: about a microsecond for a known segment, and the hash of one that is not.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import xxhash

from radixserve.ids import Namespace

TokenIds = tuple[int, ...]
"""Made of shared numbers (``KnownSegments.shared``): eight bytes a token. Putting 100,000 of them
into a list takes a fifth of a millisecond; unpacking an array of them takes more than one."""

MAX_GENERATED: Final = 8
"""Most answers to remember to one prompt; the oldest gives way."""

MAX_HERE: Final = 64
"""Most answers to remember in one place: without cuts that is where every conversation begins."""

MAX_SHARE: Final = 1 / 8
"""Most of the memory that one entry may take."""

_AT_ONCE: Final = 1024
"""Segments to look up, or to put in, before others may: the event loop is among them."""

_ENTRY_BYTES: Final = 400
"""What an entry weighs besides its text and ids: keys, headers, its place in the dictionary."""

_POINTER_BYTES: Final = 8

_BEGINNING: Final = b"\0" * 16


def follow(before: bytes, text: str) -> bytes:
    """The hash of everything up to the end of ``text``, from the hash of what is before it."""
    return xxhash.xxh3_128_digest(before + text.encode())


@dataclass(frozen=True, slots=True)
class GeneratedSegment:
    """A segment whose end the model wrote."""

    head: str
    """What stood there before it began."""
    generated: str
    """What it wrote."""
    ids: TokenIds
    """Of both."""
    num_head: int
    """How many of them are the head's."""

    def says(self, text: str) -> bool:
        """Whether this is the segment's text. *Cost*: O(1) if the lengths differ."""
        length = len(self.head) + len(self.generated)
        return length == len(text) and self.head + self.generated == text


class _Known(NamedTuple):
    ids: TokenIds
    after: bytes
    """The hash of the text up to its end."""
    num_bytes: int


class _GeneratedHere(NamedTuple):
    segments: tuple[GeneratedSegment, ...]
    num_bytes: int


_Key = tuple[Namespace, bytes, str] | tuple[Namespace, bytes]


class KnownSegments:
    """Ids by namespace, place and text; the least recently used go first. Mutable, thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_entry_bytes = int(max_bytes * MAX_SHARE)
        self._entries: OrderedDict[_Key, _Known | _GeneratedHere] = OrderedDict()
        self._lock = threading.Lock()
        self._numbers: dict[int, int] = {}
        """Every token id that was ever kept: not more than the vocabulary has."""
        self.num_bytes = 0
        """What all entries weigh."""

    def shared(self, ids: Iterable[int]) -> TokenIds:
        """The same ids, in numbers that all entries share."""
        share = self._numbers.setdefault
        return tuple([share(token_id, token_id) for token_id in ids])

    def walk(
        self, namespace: Namespace, segments: Sequence[str]
    ) -> tuple[list[TokenIds | None], list[bytes]]:
        """Each segment's ids, or None, and the hash of what is before it, for the segments of one
        text. *Mutates* the order of use."""
        ids: list[TokenIds | None] = []
        befores: list[bytes] = []
        before = _BEGINNING
        get, touch = self._entries.get, self._entries.move_to_end
        for start in range(0, len(segments), _AT_ONCE):
            with self._lock:
                for segment in segments[start : start + _AT_ONCE]:
                    befores.append(before)
                    key = (namespace, before, segment)
                    known = get(key)
                    if isinstance(known, _Known):
                        touch(key)
                        ids.append(known[0])
                        before = known[1]
                    else:
                        ids.append(None)
                        before = follow(before, segment)
        return ids, befores

    def generated(self, namespace: Namespace, before: bytes) -> tuple[GeneratedSegment, ...]:
        """What was generated behind this text, newest first. *Mutates* the order of use."""
        key = (namespace, before)
        with self._lock:
            here = self._entries.get(key)
            if here is None:
                return ()
            assert isinstance(here, _GeneratedHere)
            self._entries.move_to_end(key)
            return here.segments

    def add(self, namespace: Namespace, places: Sequence[tuple[bytes, str, TokenIds]]) -> None:
        """Remember ids by what is before them and their text, unless others are known there: those
        may have been generated meanwhile. *Mutates* the memory."""
        for start in range(0, len(places), _AT_ONCE):
            with self._lock:
                for before, text, ids in places[start : start + _AT_ONCE]:
                    if (namespace, before, text) not in self._entries:
                        self._put_known(namespace, before, text, ids)
                self._make_room()

    def add_generated(self, namespace: Namespace, before: bytes, segment: GeneratedSegment) -> None:
        """Remember what the model wrote, whatever was known of this text before. *Mutates* the
        memory."""
        key = (namespace, before)
        text = segment.head + segment.generated
        with self._lock:
            self._put_known(namespace, before, text, segment.ids)
            here = self._entries.get(key)
            older = here.segments if isinstance(here, _GeneratedHere) else ()
            kept = [each for each in older if not each.says(text)]
            rivals = [each for each in kept if each.head == segment.head]
            for each in rivals[MAX_GENERATED - 1 :]:
                kept.remove(each)
            segments = (segment, *kept[: MAX_HERE - 1])
            while segments and sum(map(_weight_of, segments)) > self._max_entry_bytes:
                segments = segments[:-1]
            self._put(key, _GeneratedHere(segments, sum(map(_weight_of, segments))))
            self._make_room()

    def _put_known(self, namespace: Namespace, before: bytes, text: str, ids: TokenIds) -> None:
        known = _Known(ids, follow(before, text), _weight(ids, text))
        self._put((namespace, before, text), known)

    def _put(self, key: _Key, entry: _Known | _GeneratedHere) -> None:
        old = self._entries.pop(key, None)
        self.num_bytes -= 0 if old is None else old.num_bytes
        if 0 < entry.num_bytes <= self._max_entry_bytes:
            self._entries[key] = entry
            self.num_bytes += entry.num_bytes

    def _make_room(self) -> None:
        while self.num_bytes > self._max_bytes:
            _, entry = self._entries.popitem(last=False)
            self.num_bytes -= entry.num_bytes

    def check_invariants(self) -> None:
        """*Raises* ``AssertionError`` if the count is not that of what is held, or too much is."""
        with self._lock:
            total = sum(entry.num_bytes for entry in self._entries.values())
            assert total == self.num_bytes <= self._max_bytes, (total, self.num_bytes)
            for key, entry in self._entries.items():
                if isinstance(entry, _Known):
                    assert entry.after == follow(*key[1:]), key
                else:
                    assert 0 < len(entry.segments) <= MAX_HERE, key


def _weight_of(segment: GeneratedSegment) -> int:
    return _weight(segment.ids, segment.head) + 4 * len(segment.generated)


def _weight(ids: TokenIds, text: str) -> int:
    # A string with one emoji takes four bytes a character.
    width = 1 if text.isascii() else 4
    return _ENTRY_BYTES + width * len(text) + _POINTER_BYTES * len(ids)
