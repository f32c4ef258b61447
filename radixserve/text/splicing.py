"""How much of what a model wrote is still there, when the text comes back changed.

    generated    "The", " quick", " bro", "wn", " fox"
    came back     The   quick    bro   adway            an edited end
                  The   quick    bro   wn               a stop string cut off
                 |___________|  kept; " broadway" is tokenized

Kept are whole tokens, up to the end of the text that came back, or else up to a place where
tokenizers part words anyhow: before white space, and around an added token. So what follows is not
tokenized from the middle of a word.

Cost: O(what was generated).
"""

from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np

_WHITE: Final = frozenset(b" \t\n\r")


class Kept(NamedTuple):
    """The beginning that both agree in."""

    num_ids: int
    rest: str
    """What came back behind it."""


def keep(
    text: str,
    generated: str,
    ids: Sequence[int],
    *,
    piece: Callable[[int], bytes],
    added_ids: Collection[int],
    begins_with_token: Callable[[str], bool],
) -> Kept | None:
    """How many of ``ids``, which spell ``generated``, can stand for the beginning of ``text``; None
    if that is none. ``piece`` gives a token's bytes, ``begins_with_token`` whether a text begins
    with an added token, ``added_ids`` are theirs."""
    came = text.encode()
    agreed = _num_agreeing(came, generated.encode())
    ends = list(accumulate(len(piece(token_id)) for token_id in ids))
    for index in range(len(ends) - 1, -1, -1):
        end = ends[index]
        # Of tokens without text, those behind the end of the text are not needed for it.
        if end > agreed or end == 0 or (index > 0 and ends[index - 1] == end):
            continue
        if (
            end == len(came)
            or (came[end] in _WHITE and came[end - 1] not in _WHITE)
            or (ids[index] in added_ids)
            or (end == agreed and _is_start(came[end]) and begins_with_token(came[end:].decode()))
        ):
            return Kept(index + 1, came[end:].decode())
    return None


def _is_start(byte: int) -> bool:
    """Whether a character begins with it."""
    return byte & 0xC0 != 0x80


def _num_agreeing(one: bytes, other: bytes) -> int:
    """How many leading bytes are the same."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    first = np.frombuffer(one, np.uint8, length)
    return int(np.argmax(first != np.frombuffer(other, np.uint8, length)))
