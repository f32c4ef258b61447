"""Simulations that plan ahead, for the tests of planning ahead."""

from tests.scheduler.test_scheduler import STOP
from tests.support.simulation import Pace, Simulation, oracle

PROMPT = [1, 2, 3, 4, 5, 6]


def ahead(
    *,
    max_in_flight: int = 2,
    pace: Pace = Pace.AT_LAUNCH,
    num_pages: int = 64,
    max_batch_tokens: int = 64,
    max_running: int = 4,
    enable_prefix_cache: bool = True,
) -> Simulation:
    return Simulation(
        max_in_flight=max_in_flight,
        pace=pace,
        num_pages=num_pages,
        page_size=4,
        max_batch_tokens=max_batch_tokens,
        max_running=max_running,
        enable_prefix_cache=enable_prefix_cache,
    )


def add_stopping(sim: Simulation, name: str, prompt: list[int], position: int) -> list[int]:
    """Add a request whose answer ends by a stop token, its token at ``position`` or, if that comes
    earlier too, there. Returns the answer."""
    stop = oracle(prompt, position, stop=STOP)[-1]
    sim.add(name, prompt, max_tokens=position + 20, stop_token_ids=(stop,))
    return oracle(prompt, position, stop=STOP | {stop})
