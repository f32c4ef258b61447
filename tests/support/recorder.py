"""A recorder of decode steps that needs no GPU: its replay runs the recorded function again."""

from collections.abc import Callable

import torch


class RunAgain:
    """On the same static inputs, as a CUDA graph would. Keeps which sizes ran."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def record(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        size = len(run())

        def replay() -> torch.Tensor:
            self.runs.append(size)
            return run()

        return replay
