"""Who may be in the engine together, so that a request which ends it is found and nobody else pays.

After a death nobody knows which request it was, if it was one at all. Those that were inside come
back in groups, and a group is let in when everybody let in before it has *settled*: has got on
further than the engine had when it died.

    inside   [a b c d e f g h]   dies
    inside   [a b c d]           settles: e f g h are let in beside them
             [a b c d|e f g h]   dies: it was the group on trial
             [a b c d|e f]       settles
             [a b c d e f|g h]   dies
             [a b c d e f|g]     settles
             [a b c d e f g|h]   dies, but h was not alone
             [h]                 alone, dies
             [h]                 alone, dies again: condemned
             [a b c d e f g]     and whoever has arrived meanwhile

Outside of a trial, those that had settled in the life that ended make the first group and the
others the second; if there is only one kind, halves do. A request that ends the engine does so
again within its first steps, so it is always in the group on trial from its second time on:
``log2(n) + 4`` deaths are enough. Newcomers wait until the trial is over, and are then let in as
ever.

A death that counts against nobody changes nothing: whoever was inside comes back, and a trial goes
on where it was.

Knows ids, no process and no clock. Costs: O(1) for whoever arrives, settles or leaves while nothing
is on trial; O(requests) at a death.
"""

from collections import deque
from typing import Final

from radixserve.ids import RequestId

MAX_DEATHS_ALONE: Final = 2
"""Once could be chance."""


class Trials:
    """One engine's requests: inside, or held until others have settled.

    What is returned as a list is to be let in now: the caller sends these to the engine.
    """

    def __init__(self) -> None:
        self._is_up = False
        self._is_trial = False
        self._inside: dict[RequestId, bool] = {}
        """Who was let in, in that order, and whether it has settled."""
        self._on_trial: set[RequestId] = set()
        """Those let in last, while there is a trial, that have not settled."""
        self._groups: deque[list[RequestId]] = deque()
        """To be let in, one after the other."""
        self._newcomers: dict[RequestId, None] = {}
        """To be let in when no group is left."""
        self._deaths_alone: dict[RequestId, int] = {}

    @property
    def is_trial(self) -> bool:
        """Whether anybody is held because of somebody else."""
        return self._is_trial

    @property
    def num_inside(self) -> int:
        return len(self._inside)

    @property
    def num_held(self) -> int:
        return len(self._newcomers) + sum(map(len, self._groups))

    def is_inside(self, request_id: RequestId) -> bool:
        """Whether the engine has it."""
        return request_id in self._inside

    def has_settled(self, request_id: RequestId) -> bool:
        """Whether the engine has it, and it has settled there."""
        return self._inside.get(request_id, False)

    def arrive(self, request_id: RequestId) -> list[RequestId]:
        """A new request."""
        self._newcomers[request_id] = None
        return self._let_in()

    def settle(self, request_id: RequestId) -> list[RequestId]:
        """A request has got on further than when the engine last died. Ignored if it is not
        inside."""
        if request_id not in self._inside:
            return []
        self._inside[request_id] = True
        self._deaths_alone.pop(request_id, None)
        self._on_trial.discard(request_id)
        return self._let_in()

    def leave(self, request_id: RequestId) -> list[RequestId]:
        """A request has ended, wherever it was."""
        if self._inside.pop(request_id, None) is None and request_id not in self._newcomers:
            for group in self._groups:
                if request_id in group:
                    group.remove(request_id)
                    break
        self._newcomers.pop(request_id, None)
        self._deaths_alone.pop(request_id, None)
        self._on_trial.discard(request_id)
        return self._let_in()

    def begin(self) -> list[RequestId]:
        """An engine is up, and empty."""
        assert not self._is_up, "the last one has not died"
        assert not self._inside, "the last one was not buried"
        self._is_up = True
        return self._let_in()

    def die(self, *, counts: bool) -> RequestId | None:
        """The engine has died; ``counts`` tells whether a request may be to blame. Returns the one
        that is condemned, if it is one, which is forgotten with that."""
        inside, on_trial = self._inside, self._on_trial
        self._inside, self._on_trial, self._is_up = {}, set(), False
        suspects = [one for one in inside if one in on_trial]
        others = [one for one in inside if one not in on_trial]
        if not counts:
            if self._is_trial:
                self._resume(others, suspects)
            else:
                self._newcomers = dict.fromkeys([*inside, *self._newcomers])
            return None
        if not self._is_trial:
            suspects = [one for one, has_settled in inside.items() if not has_settled]
            others = [one for one, has_settled in inside.items() if has_settled]
            if suspects and others:
                # The first division: by what they have done, which says more than a half would.
                self._resume(others, suspects)
                return None
            suspects, others = suspects or others, []
        return self._divide(suspects, others)

    def _divide(self, suspects: list[RequestId], others: list[RequestId]) -> RequestId | None:
        """One of the suspects may be to blame, in company of the others. Returns who is."""
        if len(suspects) > 1:
            middle = len(suspects) // 2
            self._resume(others, suspects[:middle], suspects[middle:])
            return None
        if suspects and not others:
            (suspect,) = suspects
            deaths = self._deaths_alone.pop(suspect, 0) + 1
            if deaths >= MAX_DEATHS_ALONE:
                return suspect
            self._deaths_alone[suspect] = deaths
        # Nobody else is to be inside next time.
        self._resume(suspects, others)
        return None

    def _resume(self, *groups: list[RequestId]) -> None:
        """Let these in first, one after the other."""
        self._groups.extendleft(group for group in reversed(groups) if group)
        self._is_trial = bool(self._groups)

    def _let_in(self) -> list[RequestId]:
        """Let in whoever need not wait for anybody."""
        if not self._is_up or self._on_trial:
            return []
        while self._groups:
            group = self._groups.popleft()
            if group:
                self._is_trial = True
                self._inside.update(dict.fromkeys(group, False))
                self._on_trial = set(group)
                return group
        self._is_trial = False
        admitted = list(self._newcomers)
        self._inside.update(dict.fromkeys(admitted, False))
        self._newcomers.clear()
        return admitted

    def check_invariants(self) -> None:
        """Assert that everybody is in one place. *Cost*: O(requests); for tests."""
        held = [*self._newcomers, *(one for group in self._groups for one in group)]
        assert len({*held, *self._inside}) == len(held) + len(self._inside), "in two places"
        assert self._on_trial <= self._inside.keys()
        assert not any(self._inside[one] for one in self._on_trial), "settled, and still on trial"
        assert self._is_up or not self._inside
        assert self._is_trial or not (self._on_trial or self._groups)
        if self._is_up:
            assert self._on_trial or not held, "held for nobody"
