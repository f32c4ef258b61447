"""An engine process for tests, on which a token is deadly: it aborts when it is to compute one.

Run in place of ``radixserve.engine.process``, with the same arguments. What it does wrong is in no
way part of the engine: a runner around the real one looks at each plan first.

    POISON_TOKEN    the process aborts, as a failed assertion in a library would
    HANG_TOKEN      it stops for good, as a kernel that never ends would
"""

import os
import signal
import sys
from typing import Any

from radixserve.config import EngineConfig
from radixserve.engine import process
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore, Launched, Runner
from radixserve.scheduler.plan import StepPlan


class PoisonedRunner:
    """Does what the runner does, unless a plan has one of the two tokens in it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._poison = int(os.environ.get("POISON_TOKEN", "-1"))
        self._hang = int(os.environ.get("HANG_TOKEN", "-1"))

    @property
    def max_in_flight(self) -> int:
        return self._runner.max_in_flight

    def launch(self, plan: StepPlan) -> Launched:
        for row in plan.rows:
            tokens = row.request.token_ids[row.start : row.start + row.num_scheduled_tokens]
            if self._poison in tokens:
                os.abort()
            if self._hang in tokens:
                signal.pause()
        return self._runner.launch(plan)


def build_poisoned_core(config: EngineConfig, **more: Any) -> EngineCore:
    core = build_core(config, **more)
    core._runner = PoisonedRunner(core._runner)
    return core


if __name__ == "__main__":
    setattr(process, "build_core", build_poisoned_core)  # noqa: B010  # nothing says it may be set
    sys.exit(process.main())
