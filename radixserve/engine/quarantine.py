"""Requests that have ended the engine by themselves, and are refused for a while.

Otherwise a client that tries again, as clients do, would take the engine from everybody once more.
What is refused is the same prompt with the same parameters and hints in the same namespace, the
seed apart: nobody can have another tenant's requests refused, or learn of them. Bounded in number
and in time. *Cost*: while it is empty, nothing; else a hash of the request.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from radixserve.errors import InvalidRequestError
from radixserve.types import EngineRequest

QUARANTINE_S: Final = 600.0
MAX_QUARANTINED: Final = 256


class Quarantine:
    """What is refused, by hash, and until when by ``clock`` (seconds, monotonic)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, request: EngineRequest) -> None:
        """Refuse its like from now on; if there are too many, the oldest is let go."""
        key = _key(request)
        self._until_s[key] = self._clock() + QUARANTINE_S
        self._until_s.move_to_end(key)
        if len(self._until_s) > MAX_QUARANTINED:
            self._until_s.popitem(last=False)

    def check(self, request: EngineRequest) -> None:
        """*Raises* ``InvalidRequestError`` if it is to be refused."""
        now_s = self._clock()
        while self._until_s and next(iter(self._until_s.values())) <= now_s:
            self._until_s.popitem(last=False)
        if not self._until_s:
            return
        until_s = self._until_s.get(_key(request))
        if until_s is not None:
            raise InvalidRequestError(
                "the engine process has died of this very request, each time that it ran alone; "
                f"it is refused for {until_s - now_s:.0f} s more. Change the prompt or the "
                "parameters, and tell whoever runs the server",
                code="quarantined",
            )


def _key(request: EngineRequest) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.asarray(request.prompt_ids, dtype=np.int64).tobytes())
    rest = (request.namespace, request.hints, replace(request.params, seed=None))
    digest.update(repr(rest).encode("utf-8", "backslashreplace"))
    return digest.digest()
