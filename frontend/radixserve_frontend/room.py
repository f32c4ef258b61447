"""How many of a kind may be at once: in all, and of one tenant. Some room is administrators'."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from radixserve_frontend.caller import Caller
from radixserve_frontend.http_errors import RETRY_AFTER_S, HttpError


class Room:
    """Room for ``most`` at once, of which tenants do not take the last ``num_kept``, and one tenant
    no more than ``most_of_tenant``. Mutable: who is in it.

    ``refusal`` says what there is too much of, and ``remedy`` what to do; ``code`` is the error's.
    """

    def __init__(
        self,
        refusal: str,
        remedy: str,
        *,
        code: str,
        most: int,
        most_of_tenant: int,
        num_kept: int,
    ) -> None:
        self._refusal = refusal
        self._remedy = remedy
        self._code = code
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._num_kept = num_kept
        self._num = 0
        self._num_by_tenant: Counter[str] = Counter()

    def check(self, caller: Caller) -> None:
        """*Raises* ``HttpError`` (429) if there is no room for this caller."""
        most = most_own = self._most
        if not caller.is_admin:
            most, most_own = self._most - self._num_kept, self._most_of_tenant
        if self._num < most and self._num_by_tenant[caller.tenant] < most_own:
            return
        limit = f"at most {most} may"
        if not caller.is_admin:
            limit += f", and {most_own} of one tenant"
        raise HttpError(
            429,
            f"{self._refusal}; {limit}; {self._remedy}",
            code=self._code,
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )

    @contextmanager
    def hold(self, caller: Caller) -> Iterator[None]:
        """Be in it. Whoever enters has been checked."""
        self._num += 1
        self._num_by_tenant[caller.tenant] += 1
        try:
            yield
        finally:
            self._num -= 1
            self._num_by_tenant[caller.tenant] -= 1
            if not self._num_by_tenant[caller.tenant]:
                del self._num_by_tenant[caller.tenant]
