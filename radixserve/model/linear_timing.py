"""How long products take on this machine, compared fairly.

Alternatives take turns, so that what else the machine does meets all of them, and of each the least
time counts: such things can only add. No clock but this process's own; nothing is kept.
"""

import time
from collections.abc import Callable, Sequence

_TURNS = 4
"""The first also makes kernels, which later turns find."""
_ENOUGH_S = 0.05
"""After two turns and this, no more: what takes so long is measured well by then."""


def race(*alternatives: Sequence[Callable[[], object]]) -> list[float]:
    """The least seconds that each alternative took for one of its runs, on average over a turn.

    An alternative is some runs of equal work; to have them read from memory and not from a cache,
    give each a weight of its own. *Cost*: four runs of everything, fewer if that takes 0.05 s.
    """
    begun_s = time.perf_counter()
    best = [float("inf")] * len(alternatives)
    for turn in range(_TURNS):
        if turn >= 2 and time.perf_counter() - begun_s > _ENOUGH_S:
            break
        for index, runs in enumerate(alternatives):
            start_s = time.perf_counter()
            for run in runs:
                run()
            best[index] = min(best[index], (time.perf_counter() - start_s) / len(runs))
    return best
