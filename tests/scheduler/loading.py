"""Engines whose prompts lie in a tier, for the tests of loading."""

import numpy as np
import numpy.typing as npt

from radixserve.scheduler.plan import StepPlan
from radixserve.tiers.page_names import PageKey
from tests.support.simulation import Simulation, oracle, written

STOP = frozenset({0})
PROMPT = [1 + position % 7 for position in range(43)]
"""Of the 42 tokens that it may take from a cache ten pages of 4 can be loaded."""
OTHER = [9 + position % 5 for position in range(30)]
FLOOD = [20 + position % 11 for position in range(48)]


def tiered(prompts: tuple[list[int], ...] = (PROMPT,), **settings: object) -> Simulation:
    """An idle engine that has served these prompts and evicted everything: all of it is below."""
    sim = Simulation(**{"num_slots": 64, "max_batch_tokens": 64, **settings})  # type: ignore[arg-type]  # any of its own
    for number, prompt in enumerate(prompts):
        sim.add(f"before {number}", prompt)
    sim.run()
    sim.cache.evict(sim.cache.total_pages)
    sim.rest()
    assert sim.cache.cached_pages == 0
    return sim


def from_files(
    prompts: tuple[list[int], ...] = (PROMPT,), *, num_slots: int = 64, **settings: object
) -> Simulation:
    """An engine that has just started, over the files of one that has served these prompts."""
    files: dict[PageKey, npt.NDArray[np.uint8]] = written(list(prompts), 4)
    return Simulation(num_slots=num_slots, has_disk=True, files=files, **settings)  # type: ignore[arg-type]  # any of its own


def check_answer(
    sim: Simulation, name: str, prompt: list[int], count: int = 4, *, index: int = 0
) -> None:
    expected = oracle(prompt, count, seed=index, stop=STOP)
    assert sim.answers[name, index] == expected, (sim.answers[name, index], expected)


def loaded(plan: StepPlan) -> dict[str, int]:
    """Tokens that a plan loads, by request."""
    return {str(load.request.request_id): load.num_tokens for load in plan.loads}


def planned(plan: StepPlan) -> dict[str, int]:
    """Tokens that it runs."""
    return {str(row.request.request_id): row.num_scheduled_tokens for row in plan.rows}


def steps(sim: Simulation, count: int, *, max_moved_pages: int) -> None:
    for _ in range(count):
        sim.step(max_moved_pages=max_moved_pages)
