"""What each step of a training is: how long its rows are, and how large its learning rate.

A plan is made once, kept in every checkpoint, and decides everything that the data and the
optimizer do: step ``s`` of a plan is the same whenever and wherever it runs. Time appears only
where a plan is made from minutes.

    length     192 |  320  |   512    |     1,024      |        2,048
    time       0% 15%     30%        50%              75%           100%
    rate      /\\______________________________________
               warm-up, then linear to nearly zero
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

from radixserve.demo.network import Shape


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training, by the length of its rows."""

    length: int
    share_of_time: float
    relative_speed: float
    """Tokens a second, next to rows of 512: an estimate for two cores. It turns the share of time
    into a number of steps, so a plan depends on it and not on the machine's own ratio."""


STAGES = (
    Stage(192, 0.15, 1.10),
    Stage(320, 0.15, 1.06),
    Stage(512, 0.20, 1.00),
    Stage(1024, 0.25, 0.75),
    Stage(2048, 0.25, 0.55),
)
"""Long rows come early enough for the model to learn to look far back."""

EXAM_LENGTHS = (128, 512, 1024, 1500)
"""Tokens of a document, about."""

WARM_UP = 0.01
DECAY = 0.99
"""Of all steps, the last: high rates are faster in the beginning and too high soon after."""
LEAST_RATE = 0.02
SHORTER = 0.2
"""So many of a stage's steps have the rows of an earlier one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole training. *Raises* ``ValueError`` for what cannot be."""

    shape: Shape
    num_steps: int
    seed: int = 0
    tokens_per_step: int = 8192
    """Positions, padding included; a row longer than that is not possible."""
    text_share: float = 1 / 3
    """Of what is not an answer, how much is learnt from."""
    text_weight: float = 1.0
    """How much such a token counts, next to an answer's."""
    matrix_rate: float = 0.02
    other_rate: float = 0.003
    weight_decay: float = 0.01
    characters_per_token: float = 3.0
    """Of the tokenizer, on dialogues: what a row of so many tokens is asked for with."""
    corpus: str = ""
    """Which version of the generator the text comes from: its fingerprint."""
    stages: tuple[Stage, ...] = STAGES
    exam_lengths: tuple[int, ...] = EXAM_LENGTHS
    """Of the documents of an examination."""

    def __post_init__(self) -> None:
        longest = max(stage.length for stage in self.stages)
        if self.num_steps < 1:
            raise ValueError(f"{self.num_steps} steps; a plan has at least one")
        if longest > min(self.tokens_per_step, self.shape.max_positions):
            raise ValueError(
                f"rows of {longest} tokens do not fit a step of {self.tokens_per_step} or a model "
                f"of {self.shape.max_positions} positions; raise these"
            )

    def length(self, step: int) -> int:
        """Tokens in each row of this step."""
        chance = random.Random(f"{self.seed}/length/{step}")
        index = self.stage_index(step)
        if index > 0 and chance.random() < SHORTER:
            index = chance.randrange(index)
        return self.stages[index].length

    def stage_index(self, step: int) -> int:
        """Which stage this step is part of."""
        begun = step / self.num_steps * sum(map(_weight, self.stages))
        for index, stage in enumerate(self.stages):
            begun -= _weight(stage)
            if begun < 0:
                return index
        return len(self.stages) - 1

    def rows(self, step: int) -> int:
        """How many rows this step has."""
        return self.tokens_per_step // self.length(step)

    def relative_time(self, step: int) -> float:
        """How long this step takes, next to one with rows of 512; about."""
        length = self.length(step)
        return next(1 / stage.relative_speed for stage in self.stages if stage.length == length)

    def rate(self, step: int) -> float:
        """What the learning rates are multiplied with, in (0, 1]."""
        warm_up = max(1, round(WARM_UP * self.num_steps))
        left = (self.num_steps - step) / max(1.0, DECAY * self.num_steps)
        falling = LEAST_RATE + (1 - LEAST_RATE) * min(1.0, left)
        return min((step + 1) / warm_up, falling)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_from_dict(entries: dict[str, Any]) -> Plan:
    """The plan that ``Plan.as_dict`` has written."""
    shape = Shape(**entries["shape"])
    stages = tuple(Stage(**stage) for stage in entries["stages"])
    exam_lengths = tuple(entries["exam_lengths"])
    return Plan(**{**entries, "shape": shape, "stages": stages, "exam_lengths": exam_lengths})


def stages_from(shortest: int) -> tuple[Stage, ...]:
    """The stages whose rows are so long or longer, in the same proportions. *Raises* ``ValueError``
    if there is none."""
    stages = tuple(stage for stage in STAGES if stage.length >= shortest)
    if not stages:
        raise ValueError(
            f"no rows are as long as {shortest:,} tokens; {STAGES[-1].length:,} at most"
        )
    return stages


def steps_in(time_s: float, *, step_s: float, stages: tuple[Stage, ...] = STAGES) -> int:
    """How many steps a training of so long has, where one with rows of 512 takes ``step_s``."""
    in_order = [_relative_step(stages, index) for index in range(len(stages))]
    total = sum(map(_weight, stages))
    mean = sum(
        _weight(stage) / total * relative for stage, relative in zip(stages, in_order, strict=True)
    )
    return max(1, int(time_s / (step_s * mean)))


def _weight(stage: Stage) -> float:
    """A stage's number of steps, in some unit: each has the same number of tokens."""
    return stage.share_of_time * stage.relative_speed


def _relative_step(stages: tuple[Stage, ...], index: int) -> float:
    """How long a step of a stage takes on average, next to one with rows of 512."""
    own = 1 / stages[index].relative_speed
    if index == 0:
        return own
    shorter = sum(1 / stage.relative_speed for stage in stages[:index]) / index
    return (1 - SHORTER) * own + SHORTER * shorter
