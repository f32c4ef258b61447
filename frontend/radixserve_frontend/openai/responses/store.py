"""Answers kept for a while, each with the conversation that it belongs to.

    tenant ──▶ id ──▶ the response as sent, its input, the conversation

Bounded three ways: a number of responses, a number of tokens (what text came along weighs as
tokens, too), and an age. Where there is no room the tenant that holds most gives up its oldest, so
that nobody can push everybody else's out. A tenant finds its own responses and no others.

One process's memory: a restart forgets, and so does another replica. Safe to use from several
threads (``prepare`` runs in one, replies on the event loop). Knows no HTTP.

Cost: O(1), and O(tenants) per response that has to go.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """What one answer leaves behind. Nobody may change what it holds: later ones share it."""

    response: Mapping[str, Any]
    """As it was sent."""
    input_items: Sequence[Mapping[str, Any]]
    """What came with the request itself."""
    messages: Sequence[Mapping[str, Any]]
    """The whole conversation without instructions, the answer included, as templates read it."""
    num_tokens: int
    """Of the prompt and the answer: what the conversation weighs."""
    num_bytes: int
    """Of the text that came with the request, and of what came with the answer besides text."""

    @property
    def weight(self) -> int:
        """Roughly, in tokens, what it holds of its own."""
        return self.num_tokens + self.num_bytes // _BYTES_PER_TOKEN


@dataclass(slots=True)
class _Shelf:
    """One tenant's responses, oldest first, and when each came. Mutable."""

    entries: OrderedDict[str, tuple[float, StoredResponse]]
    weight: int = 0


class ResponseStore:
    """Holds responses by tenant and id. Mutable, thread-safe."""

    def __init__(
        self,
        *,
        max_responses: int,
        max_tokens: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_responses = max_responses
        self._max_tokens = max_tokens
        self._ttl_s = ttl_s
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}
        self._lock = threading.Lock()
        self.num_responses = 0
        self.num_tokens = 0
        """What all of them weigh."""

    def put(self, tenant: str, response_id: str, stored: StoredResponse) -> bool:
        """Keep a response, if it fits at all. *Mutates* the store, making room."""
        if self._max_responses < 1 or stored.weight > self._max_tokens:
            return False
        with self._lock:
            now_s = self._clock()
            self._drop_expired(now_s)
            while (
                self.num_responses >= self._max_responses
                or self.num_tokens + stored.weight > self._max_tokens
            ):
                heaviest = max(self._shelves, key=lambda name: self._shelves[name].weight)
                self._drop(heaviest, next(iter(self._shelves[heaviest].entries)))
            shelf = self._shelves.setdefault(tenant, _Shelf(OrderedDict()))
            assert response_id not in shelf.entries, response_id
            shelf.entries[response_id] = (now_s, stored)
            shelf.weight += stored.weight
            self.num_responses += 1
            self.num_tokens += stored.weight
        return True

    def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """The tenant's response of this id, unless it was never kept, or has gone."""
        with self._lock:
            shelf = self._shelves.get(tenant)
            entry = None if shelf is None else shelf.entries.get(response_id)
            if entry is None or self._clock() - entry[0] > self._ttl_s:
                return None
            return entry[1]

    def delete(self, tenant: str, response_id: str) -> bool:
        """Forget one. False if there is none. *Mutates* the store."""
        with self._lock:
            self._drop_expired(self._clock())
            shelf = self._shelves.get(tenant)
            if shelf is None or response_id not in shelf.entries:
                return False
            self._drop(tenant, response_id)
            return True

    def _drop_expired(self, now_s: float) -> None:
        for tenant, shelf in list(self._shelves.items()):
            while shelf.entries:
                response_id, (came_s, _) = next(iter(shelf.entries.items()))
                if now_s - came_s <= self._ttl_s:
                    break
                self._drop(tenant, response_id)

    def _drop(self, tenant: str, response_id: str) -> None:
        shelf = self._shelves[tenant]
        _, stored = shelf.entries.pop(response_id)
        shelf.weight -= stored.weight
        self.num_responses -= 1
        self.num_tokens -= stored.weight
        if not shelf.entries:
            del self._shelves[tenant]

    def check_invariants(self) -> None:
        """*Raises* ``AssertionError`` if the counts are not those of what is held."""
        with self._lock:
            weights = {
                tenant: sum(stored.weight for _, stored in shelf.entries.values())
                for tenant, shelf in self._shelves.items()
            }
            assert all(shelf.entries for shelf in self._shelves.values()), "an empty shelf"
            assert weights == {name: shelf.weight for name, shelf in self._shelves.items()}
            assert self.num_tokens == sum(weights.values()) <= self._max_tokens
            num = sum(len(shelf.entries) for shelf in self._shelves.values())
            assert self.num_responses == num <= self._max_responses
