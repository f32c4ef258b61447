"""Whoever ends the engine is found, alone, in few deaths; nobody else is ever condemned."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.engine.trials import Trials
from radixserve.ids import RequestId


def ids(count: int) -> list[RequestId]:
    return [RequestId(f"r{number}") for number in range(count)]


class Simulation:
    """Engines in which some requests are deadly: as soon as they have got on by one step."""

    def __init__(self, deadly: set[RequestId]) -> None:
        self.trials = Trials()
        self.deadly = deadly
        self.alive: set[RequestId] = set()
        self.inside: dict[RequestId, int] = {}
        self.num_deaths = 0
        self.condemned: list[RequestId] = []
        self.deaths: list[set[RequestId]] = []
        self.let_in(self.trials.begin())

    def let_in(self, some: list[RequestId]) -> None:
        for one in some:
            assert one in self.alive
            assert one not in self.inside
            self.inside[one] = 0
        self.trials.check_invariants()
        assert self.trials.num_inside == len(self.inside)
        assert self.trials.num_held == len(self.alive) - len(self.inside)

    def arrive(self, one: RequestId) -> None:
        self.alive.add(one)
        self.let_in(self.trials.arrive(one))

    def leave(self, one: RequestId) -> None:
        self.alive.discard(one)
        self.inside.pop(one, None)
        self.let_in(self.trials.leave(one))

    def die(self, *, counts: bool = True) -> None:
        self.num_deaths += 1
        self.deaths.append(set(self.inside))
        self.inside.clear()
        condemned = self.trials.die(counts=counts)
        if condemned is not None:
            self.condemned.append(condemned)
            self.leave(condemned)
        self.trials.check_invariants()
        self.let_in(self.trials.begin())

    def step(self) -> None:
        """Everybody inside gets on, or the engine dies."""
        if self.deadly & self.inside.keys():
            self.die()
            return
        for one in list(self.inside):
            if one in self.inside and not self.trials.has_settled(one):
                self.let_in(self.trials.settle(one))

    def run(self, num_steps: int = 1000) -> None:
        for _ in range(num_steps):
            if not self.deadly & self.alive and not self.trials.is_trial:
                assert self.inside.keys() == self.alive
                return
            self.step()
        raise AssertionError(f"not at rest: {self.deadly & self.alive}, {self.trials.num_held}")


@given(st.integers(1, 70), st.data())
def test_one_deadly_request_is_found(count: int, data: st.DataObject) -> None:
    requests = ids(count)
    deadly = data.draw(st.sampled_from(requests))
    simulation = Simulation({deadly})
    held_back = data.draw(st.booleans())
    for one in requests:
        if one != deadly or not held_back:
            simulation.arrive(one)
    if held_back:
        # It comes when the others have settled.
        simulation.step()
        simulation.arrive(deadly)
    simulation.run()
    assert simulation.condemned == [deadly]
    assert simulation.inside.keys() == set(requests) - {deadly}
    assert simulation.num_deaths <= math.ceil(math.log2(count)) + 4
    # It had died alone, twice.
    assert simulation.deaths[-2:] == [{deadly}, {deadly}]
    assert not simulation.trials.is_trial


@given(st.integers(2, 40), st.sets(st.integers(0, 39), max_size=5))
def test_several_deadly_requests_are_found_one_after_the_other(
    count: int, numbers: set[int]
) -> None:
    requests = ids(count)
    deadly = {requests[number] for number in numbers if number < count}
    simulation = Simulation(deadly)
    for one in requests:
        simulation.arrive(one)
    simulation.run()
    assert set(simulation.condemned) == deadly
    assert simulation.inside.keys() == set(requests) - deadly


@given(st.lists(st.sampled_from(["arrive", "deadly", "leave", "step", "kill", "die"]), max_size=60))
def test_whatever_happens_the_innocent_live(events: list[str]) -> None:
    """Deaths by chance included, if no request meets two of them alone."""
    simulation = Simulation(set())
    number = 0
    for event in events:
        match event:
            case "arrive" | "deadly":
                one = RequestId(f"r{number}")
                number += 1
                if event == "deadly":
                    simulation.deadly.add(one)
                simulation.arrive(one)
            case "leave" if simulation.alive:
                simulation.leave(min(simulation.alive))
            case "step":
                simulation.step()
            case "kill":
                simulation.die(counts=False)
            case "die" if len(simulation.inside) > 1:
                simulation.die()
    simulation.run()
    assert set(simulation.condemned) <= simulation.deadly
    assert not simulation.alive & simulation.deadly


def test_a_kill_from_outside_suspects_nobody() -> None:
    simulation = Simulation(set())
    for one in ids(5):
        simulation.arrive(one)
    for _ in range(20):
        simulation.die(counts=False)
        assert list(simulation.inside) == ids(5)
        assert not simulation.trials.is_trial


def test_a_kill_from_outside_leaves_a_trial_where_it_was() -> None:
    simulation = Simulation(set())
    for one in ids(4):
        simulation.arrive(one)
    simulation.die()
    assert list(simulation.inside) == ids(2)
    simulation.die(counts=False)
    assert list(simulation.inside) == ids(2)
    simulation.step()
    assert list(simulation.inside) == ids(4)
    simulation.die(counts=False)
    # Those that had settled come first, and are believed for now.
    assert list(simulation.inside) == ids(2)


def test_the_first_division_is_by_what_they_had_done() -> None:
    simulation = Simulation(set())
    for one in ids(3):
        simulation.arrive(one)
    simulation.step()
    for one in ids(5)[3:]:
        simulation.arrive(one)
    simulation.die()
    assert list(simulation.inside) == ids(3)
    newcomer = RequestId("new")
    simulation.arrive(newcomer)
    assert newcomer not in simulation.inside
    simulation.step()
    assert list(simulation.inside) == ids(5)
    simulation.step()
    assert list(simulation.inside) == [*ids(5), newcomer]


def test_one_that_settles_alone_is_cleared() -> None:
    """Two deaths alone are not the same as two in a row."""
    simulation = Simulation(set())
    (one,) = ids(1)
    simulation.arrive(one)
    for _ in range(4):
        simulation.die()
        simulation.step()
    assert simulation.condemned == []
    simulation.die()
    simulation.die()
    assert simulation.condemned == [one]


@pytest.mark.parametrize("who", ["inside", "in a group", "new"])
def test_whoever_leaves_while_the_engine_is_down_does_not_come_back(who: str) -> None:
    trials = Trials()
    trials.begin()
    for one in ids(4):
        trials.arrive(one)
    trials.die(counts=True)
    newcomer = RequestId("new")
    assert trials.arrive(newcomer) == []
    gone = {"inside": ids(4)[0], "in a group": ids(4)[3], "new": newcomer}[who]
    assert trials.leave(gone) == []
    seen = trials.begin()
    while trials.is_trial:
        for one in tuple(trials._on_trial):
            seen += trials.settle(one)
    assert set(seen) == {*ids(4), newcomer} - {gone}
