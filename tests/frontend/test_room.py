"""Room for so many at once: in all, of one tenant, and what is kept for administrators."""

from contextlib import ExitStack

import pytest

from radixserve_frontend.caller import Caller
from radixserve_frontend.http_errors import HttpError
from radixserve_frontend.room import Room

A, B, C = (Caller(tenant=name) for name in "abc")
ADMIN = Caller(tenant="operator", is_admin=True)


def check_refusal(room: Room, caller: Caller, message: str) -> None:
    with pytest.raises(HttpError) as caught:
        room.check(caller)
    error = caught.value
    assert (error.status, error.code, str(error)) == (429, "crowded", message)
    assert error.headers is not None
    assert int(error.headers["Retry-After"]) > 0


def test_nobody_takes_the_room_of_others() -> None:
    room = Room("too many", "go", code="crowded", most=5, most_of_tenant=2, num_kept=1)
    for_tenants = "too many; at most 4 may, and 2 of one tenant; go"
    with ExitStack() as stack:
        for caller in (A, A):
            room.check(caller)
            stack.enter_context(room.hold(caller))
        check_refusal(room, A, for_tenants)
        room.check(B)
        stack.enter_context(room.hold(B))
        stack.enter_context(room.hold(C))
        # Of the tenants' four places none is left, and an administrator finds the fifth.
        check_refusal(room, B, for_tenants)
        room.check(ADMIN)
        stack.enter_context(room.hold(ADMIN))
        check_refusal(room, ADMIN, "too many; at most 5 may; go")
    for caller in (A, B, C, ADMIN):
        room.check(caller)
    assert not room._num_by_tenant, "it keeps no names"


def test_who_fails_in_it_leaves_it() -> None:
    room = Room("too many", "go", code="crowded", most=1, most_of_tenant=1, num_kept=0)

    def fail() -> None:
        with room.hold(A):
            check_refusal(room, B, "too many; at most 1 may, and 1 of one tenant; go")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    room.check(B)
