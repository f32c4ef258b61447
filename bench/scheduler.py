"""What a plan costs: ``schedule()`` with 1,000 waiting and 64 running requests, no model.

    python bench/scheduler.py [--steps 400] [--in-flight 2] [--cascade]

Half of the waiting requests share long prefixes with each other or with running ones; requests end
and others are admitted all the time, so admission, deferral and aging are all in the figure. The
runner is a stand-in that samples a constant. With ``--in-flight 2`` each step is planned before the
one ahead of it is updated, as on a GPU. With ``--cascade`` plans say what their rows share, too
(``cascade_plan.py`` measures that alone).
"""

import argparse
import json
import statistics
import time
from collections import deque
from itertools import count

import numpy as np
from tqdm import tqdm

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cascade import CascadeCosts
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineRequest, SampledToken
from support.machine import print_machine

NUM_WAITING = 1000
NUM_RUNNING = 64
WANTED_MS = 1.0


def sample(plan: StepPlan) -> StepResult:
    return StepResult(tuple((SampledToken(7),) * row.num_samples for row in plan.rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="measured steps (default: 400)")
    parser.add_argument(
        "--in-flight", type=int, default=1, help="steps launched and not updated (default: 1)"
    )
    parser.add_argument("--cascade", action="store_true", help="plan cascades (default: not)")
    arguments = parser.parse_args()
    num_steps, max_in_flight = arguments.steps, arguments.in_flight
    facts = print_machine()
    rng = np.random.default_rng(0)
    stems = [rng.integers(0, 30_000, 2048).tolist() for _ in range(8)]
    scheduler = Scheduler(
        PrefixCache(num_pages=65536, page_size=16),
        max_batch_tokens=2048,
        max_running=NUM_RUNNING,
        cascade_costs=CascadeCosts(256, 8) if arguments.cascade else None,
    )
    serial = count()

    def submit() -> None:
        own = rng.integers(0, 30_000, 200).tolist()
        prompt = stems[int(rng.integers(8))] + own if rng.random() < 0.5 else own
        scheduler.add(
            EngineRequest(
                request_id=RequestId(str(next(serial))),
                prompt_ids=prompt,
                params=SamplingParams(max_tokens=int(rng.integers(16, 256))),
                end_token_ids=[],
            )
        )

    def refill() -> None:
        while scheduler.stats().num_waiting < NUM_WAITING:
            submit()

    refill()
    while len(scheduler.running) < NUM_RUNNING:
        plan = scheduler.schedule()
        scheduler.update(plan, sample(plan))
        refill()
    in_flight = deque([scheduler.schedule() for _ in range(max_in_flight - 1)])
    schedule_ms, update_ms = [], []
    for _ in tqdm(range(num_steps), unit="step"):
        refill()
        begun = time.perf_counter()
        in_flight.append(scheduler.schedule())
        planned = time.perf_counter()
        plan = in_flight.popleft()
        result = sample(plan)
        sampled = time.perf_counter()
        scheduler.update(plan, result)
        schedule_ms.append((planned - begun) * 1e3)
        update_ms.append((time.perf_counter() - sampled) * 1e3)
    results = {}
    for name, values in (("schedule", schedule_ms), ("update", update_ms)):
        ordered = sorted(values)
        results[name] = {
            "median_ms": round(statistics.median(ordered), 3),
            "p95_ms": round(ordered[int(0.95 * len(ordered))], 3),
            "max_ms": round(ordered[-1], 3),
        }
    print(
        f"{NUM_WAITING} waiting, {NUM_RUNNING} running, {num_steps} steps, "
        f"{max_in_flight} in flight, cascade {'on' if arguments.cascade else 'off'}"
    )
    for name, row in results.items():
        print(f"  {name:<9}" + "  ".join(f"{key[:-3]} {value} ms" for key, value in row.items()))
    print(f"  wanted: schedule() under {WANTED_MS} ms")
    print(
        json.dumps(
            {
                "bench": "scheduler",
                "machine": facts,
                "in_flight": max_in_flight,
                "cascade": arguments.cascade,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
