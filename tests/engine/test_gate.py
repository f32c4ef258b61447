"""Who may wait and who is refused: the bounds of the queue, tenants' parts, priorities."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from radixserve.config import QueueLimits
from radixserve.engine.gate import MAX_RETRY_AFTER_S
from radixserve.errors import OverloadedError
from radixserve.ids import RequestId
from tests.engine.busy_engine import BusyEngine


def test_requests_are_bounded() -> None:
    engine = BusyEngine(QueueLimits(max_queued_requests=3))
    first, _, last = engine.enter(), engine.enter(), engine.enter()
    error = engine.refused()
    assert "3 requests wait already, and 3 may" in str(error)
    assert "--max-queued-requests" in str(error)
    engine.gate.leave(last)
    engine.gate.leave(last)
    engine.enter()
    engine.refused()
    engine.step(1.0, 1, admitted=(first, RequestId("unknown")))
    engine.enter()
    engine.refused()
    assert engine.gate.refused == {"requests": 3}


def test_tokens_are_bounded() -> None:
    engine = BusyEngine(QueueLimits(max_queued_tokens=1000))
    engine.enter(600)
    engine.enter(400)
    error = engine.refused(1)
    assert "1000 prompt tokens wait already, 1 more are too many: 1000 may" in str(error)
    assert engine.gate.refused == {"tokens": 1}


def test_a_prompt_larger_than_the_bound_may_wait_alone() -> None:
    engine = BusyEngine(QueueLimits(max_queued_tokens=1000))
    only = engine.enter(5000)
    engine.refused(1)
    engine.gate.leave(only)
    engine.enter(999)
    engine.refused(5000)


def test_the_wait_is_bounded() -> None:
    engine = BusyEngine(QueueLimits(max_queue_s=2.0))
    engine.run(4)
    for _ in range(9):
        engine.enter()
    error = engine.refused()
    assert "would wait for about 2.2 s, and 2 s are the limit" in str(error)
    assert "try again in 3 s" in str(error)
    assert error.retry_after_s == pytest.approx(2.25)
    assert engine.gate.refused == {"wait": 1}


def test_where_nobody_waits_everybody_may() -> None:
    """However slow the engine is, and however large the request."""
    engine = BusyEngine(QueueLimits(max_queue_s=0.01, max_queued_requests=1, max_queued_tokens=1))
    for _ in range(100):
        engine.step(60.0, 1)
    engine.enter(10**6)
    engine.refused(1)


def test_who_cannot_make_it_in_time_is_told_at_once() -> None:
    engine = BusyEngine()
    engine.run(4)
    for _ in range(20):
        engine.enter()
    error = engine.refused(deadline_s=4.9)
    assert "about 5.0 s, longer than the 4.9 s that it has" in str(error)
    engine.enter(deadline_s=5.1)


def test_retry_after_is_the_time_until_all_that_wait_have_started() -> None:
    engine = BusyEngine(QueueLimits(max_queued_requests=40))
    engine.run(4)
    for _ in range(8):
        engine.enter()
    assert engine.gate.expected_wait_s == pytest.approx(2.0)
    slow = BusyEngine(QueueLimits(max_queue_s=80_000, max_queued_requests=50))
    for _ in range(100):
        slow.step(60.0, 1)
    for _ in range(50):
        slow.enter()
    assert slow.refused().retry_after_s == MAX_RETRY_AFTER_S
    unknown = BusyEngine(QueueLimits(max_queued_requests=1))
    unknown.enter()
    assert unknown.refused().retry_after_s == 1.0


def test_prompts_of_one_request_are_let_in_together() -> None:
    engine = BusyEngine(QueueLimits(max_queued_requests=2, max_queued_tokens=150, max_queue_s=0.1))
    engine.run(4)
    first = engine.enter()
    for _ in range(9):
        engine.enter(follows=first)
    assert len(engine.gate) == 10
    engine.refused()


# -- tenants and priorities -------------------------------------------------------------------


def test_a_tenant_with_nothing_waiting_is_never_refused() -> None:
    engine = BusyEngine(
        QueueLimits(max_queued_requests=10, max_queued_tokens=1000, max_queue_s=1.0)
    )
    engine.run(4)
    while True:
        try:
            engine.enter(tenant="heavy")
        except OverloadedError:
            break
    engine.enter(tenant="light")
    engine.refused(tenant="heavy")


@pytest.mark.parametrize(
    "limits",
    [
        QueueLimits(max_queued_requests=12, max_queue_s=100),
        QueueLimits(max_queued_tokens=1200, max_queue_s=100),
        QueueLimits(max_queue_s=2.9),
    ],
)
def test_one_of_m_tenants_has_its_mth_of_each_bound(limits: QueueLimits) -> None:
    engine = BusyEngine(limits)
    engine.run(4)
    for num_tenants, share in ((1, 12), (2, 6), (3, 4), (4, 3)):
        for _ in range(share):
            engine.enter(tenant=f"t{num_tenants}")
        engine.refused(tenant=f"t{num_tenants}")
    for number in range(1, 5):
        engine.refused(tenant=f"t{number}")


def test_a_tenant_that_leaves_gives_its_share_back() -> None:
    engine = BusyEngine(QueueLimits(max_queued_requests=4))
    heavy = [engine.enter(tenant="heavy") for _ in range(4)]
    light = engine.enter(tenant="light")
    engine.gate.leave(heavy[0])
    engine.refused(tenant="heavy")
    engine.gate.leave(light)
    engine.enter(tenant="heavy")
    engine.refused(tenant="heavy")


def test_less_important_ones_are_not_waited_for() -> None:
    engine = BusyEngine(QueueLimits(max_queue_s=1.0, max_queued_requests=12))
    engine.run(4)
    for _ in range(5):
        engine.enter(priority=5)
    engine.refused(priority=5)
    engine.refused(priority=6)
    for _ in range(5):
        engine.enter(priority=4)
    engine.refused(priority=4)
    # But they are requests: no new priority is a way past that bound.
    engine.enter(priority=3)
    engine.enter(priority=2)
    assert "12 may" in str(engine.refused(priority=1))
    assert engine.gate.refused == {"wait": 3, "requests": 1}


def test_other_tenants_are_waited_for_whatever_their_priority() -> None:
    engine = BusyEngine(QueueLimits(max_queue_s=1.0))
    engine.run(4)
    for _ in range(5):
        engine.enter(tenant="a", priority=100)
    for _ in range(3):
        engine.enter(tenant="b", priority=-100)
    engine.refused(tenant="b", priority=-100)


def test_nor_are_they_beside_other_tenants() -> None:
    """Five are ahead: the other tenant's and its own important ones, not twice its own."""
    engine = BusyEngine(QueueLimits(max_queue_s=1.5))
    engine.run(4)
    for _ in range(4):
        engine.enter(tenant="a")
    engine.enter(tenant="b")
    for _ in range(2):
        engine.enter(tenant="a", priority=5)
    engine.enter(tenant="a")
    engine.enter(tenant="a")
    engine.refused(tenant="a")


class GateMachine(RuleBasedStateMachine):
    """The gate's books against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = BusyEngine()
        self.engine.run(10)
        self.plain: dict[RequestId, tuple[str, int, int]] = {}

    @rule(
        tenant=st.sampled_from("abc"), priority=st.integers(-1, 1), num_tokens=st.integers(1, 500)
    )
    def enter(self, tenant: str, priority: int, num_tokens: int) -> None:
        name = self.engine.enter(num_tokens, tenant=tenant, priority=priority)
        self.plain[name] = (tenant, priority, num_tokens)

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), is_admitted=st.booleans())
    def leave(self, data: st.DataObject, *, is_admitted: bool) -> None:
        name = data.draw(st.sampled_from(list(self.plain)))
        del self.plain[name]
        if is_admitted:
            self.engine.step(0.1, 1, admitted=(name,))
        self.engine.gate.leave(name)

    @invariant()
    def agrees(self) -> None:
        gate = self.engine.gate
        assert len(gate) == len(self.plain)
        assert gate._total.num_requests == len(self.plain)
        assert gate._total.num_tokens == sum(tokens for _, _, tokens in self.plain.values())
        lines = {(tenant, priority) for tenant, priority, _ in self.plain.values()}
        kept = {(tenant, value) for tenant, own in gate._tenants.items() for value in own}
        assert kept == lines
        for tenant, priority in lines:
            own = [t for one, value, t in self.plain.values() if (one, value) == (tenant, priority)]
            load = gate._tenants[tenant][priority]
            assert (load.num_requests, load.num_tokens) == (len(own), sum(own))
        assert all(gate._tenants.values())


TestGate = GateMachine.TestCase
