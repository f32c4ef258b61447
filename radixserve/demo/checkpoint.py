"""Where a training stands, on disk: whole or not at all.

One file, replaced in one step: whoever is killed while writing leaves the one before. It holds the
plan, the weights, the optimizer's moments, how many steps are done, how long they took and how long
the log was; the data need nothing, being a function of the plan and the step.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from radixserve.demo.schedule import Plan, plan_from_dict
from radixserve.errors import CheckpointError

NAME = "last.pt"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that a training goes on from. Tensors may be the running ones, not copies."""

    plan: Plan
    num_steps_done: int
    elapsed_s: float
    """Spent on these steps, in all sessions together."""
    num_sessions: int
    log_bytes: int
    """How much of the log belongs to these steps."""
    weights: dict[str, Any]
    optimizer: dict[str, Any]


def save_state(state: TrainingState, directory: Path) -> None:
    """Replace the directory's checkpoint. *Cost*: twelve bytes a parameter, and an fsync."""
    entries = {
        "format": _FORMAT,
        "plan": state.plan.as_dict(),
        "num_steps_done": state.num_steps_done,
        "elapsed_s": state.elapsed_s,
        "num_sessions": state.num_sessions,
        "log_bytes": state.log_bytes,
        "weights": state.weights,
        "optimizer": state.optimizer,
    }
    building = directory / f"{NAME}.new"
    with building.open("wb") as file:
        torch.save(entries, file)
        file.flush()
        os.fsync(file.fileno())
    building.replace(directory / NAME)


def load_state(directory: Path) -> TrainingState:
    """The directory's checkpoint, its tensors on the CPU. *Raises* ``CheckpointError`` if there is
    none, or it cannot be read."""
    path = directory / NAME
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: no training has left a checkpoint to resume")
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error}; begin again elsewhere") from error
    if entries.pop("format") != _FORMAT:
        raise CheckpointError(f"{path} was written by another version; begin again elsewhere")
    plan = plan_from_dict(entries.pop("plan"))
    return TrainingState(plan=plan, **entries)
