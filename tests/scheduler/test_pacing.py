"""Pacing on a simulated machine: the bound is met, and no more is given away than it takes."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.scheduler.pacing import FIRST_CHUNK_TOKENS, MIN_CHUNK_TOKENS, Pacer


@dataclass(frozen=True, slots=True)
class Machine:
    """A step takes ``base_s``, plus ``token_s`` for each chunk token, plus ``chunk_s`` if there are
    any."""

    base_s: float
    token_s: float
    chunk_s: float = 0.0

    def step(self, num_chunk_tokens: int) -> float:
        chunk_s = self.chunk_s if num_chunk_tokens else 0.0
        return self.base_s + chunk_s + self.token_s * num_chunk_tokens


def serve(pacer: Pacer, machine: Machine, num_steps: int) -> int:
    """A few steps of streams alone, then many with a long prompt; the last chunk's size."""
    for _ in range(4):
        pacer.observe(8, 0, machine.step(0))
    chunk = 0
    for _ in range(num_steps):
        allowed = pacer.max_chunk_tokens()
        assert allowed is not None
        assert allowed >= MIN_CHUNK_TOKENS
        chunk = allowed
        pacer.observe(8, chunk, machine.step(chunk))
    return chunk


MACHINES = st.builds(Machine, base_s=st.floats(1e-4, 1.0), token_s=st.floats(1e-6, 1e-2))


@settings(deadline=None)
@given(machine=MACHINES, stretch=st.floats(1.2, 5.0), num_alone=st.integers(0, 2))
def test_settles_where_the_bound_is_met_and_used(
    machine: Machine, stretch: float, num_alone: int
) -> None:
    pacer = Pacer(stretch)
    for _ in range(num_alone):
        pacer.observe(0, 512, machine.step(512))
    chunk = serve(pacer, machine, 100)
    ideal = (stretch - 1) * machine.base_s / machine.token_s
    if ideal <= MIN_CHUNK_TOKENS:
        assert chunk == MIN_CHUNK_TOKENS
    else:
        assert machine.step(chunk) <= 1.01 * stretch * machine.base_s
        assert chunk >= 0.9 * ideal - 1


@settings(deadline=None)
@given(
    machine=MACHINES,
    stretch=st.floats(1.2, 5.0),
    share=st.floats(0.0, 0.7),
    num_alone=st.integers(0, 2),
)
def test_what_a_chunk_costs_whatever_its_size_is_within_the_bound(
    machine: Machine, stretch: float, share: float, num_alone: int
) -> None:
    spare_s = (stretch - 1) * machine.base_s
    machine = replace(machine, chunk_s=share * spare_s)
    pacer = Pacer(stretch)
    for _ in range(num_alone):
        pacer.observe(0, 512, machine.step(512))
    chunk = serve(pacer, machine, 300)
    ideal = (spare_s - machine.chunk_s) / machine.token_s
    if ideal <= MIN_CHUNK_TOKENS:
        assert chunk <= MIN_CHUNK_TOKENS + 1
    else:
        assert machine.step(chunk) <= 1.01 * stretch * machine.base_s
        assert chunk >= 0.9 * ideal - 3


def test_where_no_chunk_keeps_to_the_bound_the_least_is_taken() -> None:
    """As behind a long context. It recovers as soon as there is a shorter one."""
    pacer = Pacer(2.0)
    machine = Machine(0.01, 1e-4)
    assert serve(pacer, machine, 60) == pytest.approx(100, abs=2)
    assert serve(pacer, replace(machine, chunk_s=0.02), 60) == MIN_CHUNK_TOKENS
    assert serve(pacer, machine, 60) == pytest.approx(100, abs=2)


def test_follows_a_machine_that_changes() -> None:
    pacer = Pacer(2.0)
    fast, slow = Machine(0.01, 1e-4), Machine(0.01, 1e-3)
    assert serve(pacer, fast, 60) == pytest.approx(100, abs=2)
    assert serve(pacer, slow, 60) == MIN_CHUNK_TOKENS
    assert serve(pacer, fast, 60) == pytest.approx(100, abs=2)


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 64), st.integers(0, 4096), st.floats(1e-6, 100.0)), max_size=30
    ),
    stretch=st.floats(1.001, 10.0),
)
def test_a_prompt_always_gets_on(steps: list[tuple[int, int, float]], stretch: float) -> None:
    """Whatever has been measured, however wildly."""
    pacer = Pacer(stretch)
    for num_streams, num_chunk_tokens, step_s in steps:
        pacer.observe(num_streams, num_chunk_tokens, step_s)
        allowed = pacer.max_chunk_tokens()
        assert allowed is not None
        assert allowed >= MIN_CHUNK_TOKENS


def test_before_anything_is_known() -> None:
    pacer = Pacer(2.0)
    assert pacer.max_chunk_tokens() == FIRST_CHUNK_TOKENS
    pacer.observe(4, 0, 0.01)
    assert pacer.max_chunk_tokens() == FIRST_CHUNK_TOKENS


def test_a_mixed_step_that_comes_first_is_halved_between_both() -> None:
    pacer = Pacer(3.0)
    pacer.observe(4, 100, 0.02)
    # 0.01 s for the streams and 1e-4 s a token: two more steps' worth of tokens.
    assert pacer.max_chunk_tokens() == 200


def test_prompts_alone_are_a_first_guess_only() -> None:
    pacer = Pacer(2.0)
    pacer.observe(0, 1000, 0.1)
    pacer.observe(0, 10, 50.0)
    pacer.observe(8, 0, 0.01)
    assert pacer.max_chunk_tokens() == 100


def test_without_a_stretch_nothing_is_bounded() -> None:
    pacer = Pacer(None)
    pacer.observe(4, 100, 9.0)
    pacer.observe(4, 0, 0.1)
    assert pacer.max_chunk_tokens() is None
