"""A training of the demo model that takes a second or two."""

import json
from pathlib import Path
from typing import Any

import torch

from radixserve.demo.network import Shape
from radixserve.demo.schedule import Plan, Stage
from radixserve.demo.start import Start
from radixserve.demo.training import LOG, Machine, Training
from tests.support.tiny_dialogues import make_dialogue, tiny_tokenizer

PLAN = Plan(
    Shape(320, 64, 128, 2, 2, 1, 32),
    num_steps=30,
    seed=3,
    tokens_per_step=768,
    stages=(Stage(256, 0.5, 1.0), Stage(384, 0.5, 1.0)),
    characters_per_token=1.4,
    exam_lengths=(96,),
)
MACHINE = Machine("cpu", torch.float32, is_compiled=False, num_workers=0, description="a test")


def begin(
    directory: Path,
    plan: Plan = PLAN,
    machine: Machine = MACHINE,
    start: Start | None = None,
) -> Training:
    directory.mkdir()
    return Training.begin(
        directory,
        plan,
        tiny_tokenizer(),
        machine,
        make_dialogue,
        command="train --seed 3",
        start=start,
    )


def entries(directory: Path) -> list[dict[str, Any]]:
    """The log, without what depends on the clock and on the sessions."""
    found = [json.loads(line) for line in (directory / LOG).read_text().splitlines()]
    for entry in found:
        entry.pop("elapsed_s", None)
    return [entry for entry in found if "session" not in entry]
