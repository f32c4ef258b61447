"""Requests that ran before, in an engine that has died since: they go on where they were.

Here with steps in flight, and under every pressure that the scheduler knows; the simulated runner
says if a single token of the past is in the wrong place.
"""

import random
from dataclasses import replace

import pytest

from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.types import EngineRequest, ResumedChoice
from tests.support.simulation import Simulation

PROMPTS = [[*range(1, 11)], [*range(1, 9), 30, 31], [7], [*range(1, 11)]]


def request_of(number: int, n: int = 1, max_tokens: int = 12) -> EngineRequest:
    return EngineRequest(
        request_id=RequestId(f"r{number}"),
        prompt_ids=PROMPTS[number % len(PROMPTS)],
        params=SamplingParams(n=n, seed=number, max_tokens=max_tokens),
        end_token_ids=[0],
    )


def after(sim: Simulation, request: EngineRequest) -> EngineRequest | None:
    """The request as it is to be sent to the next engine; None if it has ended."""
    name = str(request.request_id)
    living = [
        ResumedChoice(index=index, token_ids=sim.answers[name, index])
        for index in range(request.params.n)
        if (name, index) not in sim.ends and (name, index) in sim.answers
    ]
    if not living and any((name, index) in sim.ends for index in range(request.params.n)):
        return None
    return replace(request, resumed=living)


@pytest.mark.parametrize("num_pages", [14, 64])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_as_if_no_engine_had_died(depth: int, num_pages: int, seed: int) -> None:
    requests = [request_of(number, n=1 + number % 3) for number in range(6)]
    whole = Simulation(num_pages=num_pages)
    for request in requests:
        whole.scheduler.add(request)
    whole.run()
    rng = random.Random(seed)
    sim = Simulation(num_pages=num_pages, max_in_flight=depth)
    for request in requests:
        sim.scheduler.add(request)
    for _ in range(3):
        for _ in range(rng.randrange(1, 9)):
            sim.step()
        following = Simulation(num_pages=num_pages, max_in_flight=depth)
        following.answers = {key: list(tokens) for key, tokens in sim.answers.items()}
        following.ends = dict(sim.ends)
        for request in requests:
            resumed = after(sim, request)
            if resumed is not None:
                following.scheduler.add(resumed)
        sim = following
    sim.run()
    assert sim.answers == whole.answers
    reasons = {key: end.finish_reason for key, end in sim.ends.items()}
    assert reasons == {key: end.finish_reason for key, end in whole.ends.items()}
    sim.assert_no_leaks()


def test_a_resumed_choice_can_be_aborted_and_the_others_go_on() -> None:
    request = request_of(0, n=3)
    resumed = [ResumedChoice(index=index, token_ids=[5, 6 + index]) for index in (2, 0)]
    sim = Simulation()
    sim.scheduler.add(replace(request, resumed=resumed))
    sim.abort("r0", 1)
    assert sim.ends == {}, "that one has ended in another life"
    sim.abort("r0", 0)
    assert sim.ends["r0", 0].finish_reason == "abort"
    sim.run()
    assert len(sim.answers["r0", 2]) == 12 - 2
    assert ("r0", 1) not in sim.answers
    sim.assert_no_leaks()


def test_a_resumed_request_is_not_told_of_or_counted_again() -> None:
    sim = Simulation()
    resumed = [ResumedChoice(index=0, token_ids=[5, 6])]
    sim.scheduler.add(replace(request_of(0), resumed=resumed))
    sim.run()
    end = sim.ends["r0", 0]
    assert (end.num_cached_tokens, end.cache_report) == (0, None)
    stats = sim.scheduler.stats()
    assert (stats.prompt_tokens, stats.cached_tokens, dict(stats.admissions)) == (0, 0, {})
    assert stats.generated_tokens == 10


@pytest.mark.parametrize("token_ids", [[], [5] * 12, [5, 0]])
def test_what_cannot_go_on_is_not_taken(token_ids: list[int]) -> None:
    """Nothing said, all said, or ended."""
    resumed = [ResumedChoice(index=0, token_ids=token_ids)]
    with pytest.raises(AssertionError):
        Simulation().scheduler.add(replace(request_of(0), resumed=resumed))


def test_an_index_that_the_request_does_not_have_is_not_taken() -> None:
    resumed = [ResumedChoice(index=1, token_ids=[5])]
    with pytest.raises(AssertionError):
        Simulation().scheduler.add(replace(request_of(0), resumed=resumed))
