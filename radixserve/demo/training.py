"""A training: from a plan to trained weights, in any number of sessions.

Everything that decides what is learnt is in the plan, and in the weights that it begins with where
they are another training's; this module runs it. A session may end at any
step, by a signal or by force: the next one goes on from the last checkpoint and computes the very
losses that an unbroken training would have (on the CPU; a test compares them).

The directory of a training:

    last.pt           where it stands (checkpoint.py)
    log.jsonl         a line for the plan, one for each session, one for the weights that it begins
                      with, if any; then one for every tenth step and for every examination
    tokenizer.json    and the other files of a checkpoint, written at each examination: they can be
    ...               served while the training goes on
"""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from radixserve.demo.batches import Batch, DialogueMaker
from radixserve.demo.checkpoint import TrainingState, load_state, save_state
from radixserve.demo.exact import Examination, summary
from radixserve.demo.export import export
from radixserve.demo.learner import Learner, Losses
from radixserve.demo.network import Network
from radixserve.demo.optimizer import Optimizer
from radixserve.demo.prefetch import batches
from radixserve.demo.schedule import Plan
from radixserve.demo.start import Start
from radixserve.demo.tokenizer import load_tokenizer, save_tokenizer

LOG = "log.jsonl"
LOG_EVERY = 10
SAVE_EVERY_S = 60.0
NUM_EXAMINATIONS = 10
"""More would take too much of a training on a slow machine."""
PER_CELL = 12
"""Dialogues of each held-out split and length in an examination: 1,500 answers in all, some seconds
or, on two cores without bfloat16, three quarters of a minute."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how it computes. Does not decide what is learnt, beyond rounding."""

    device: str
    dtype: torch.dtype
    is_compiled: bool
    num_workers: int = 1
    description: str = ""
    """For the model card."""


class Training:
    """One training in a directory. Mutable: its network moves."""

    def __init__(
        self,
        directory: Path,
        state: TrainingState | None,
        plan: Plan,
        machine: Machine,
        make_dialogue: DialogueMaker,
        command: str = "",
    ) -> None:
        self.plan = plan
        self.tokenizer = load_tokenizer(directory)
        self.network = Network(plan.shape, seed=plan.seed)
        self.network.compute_dtype = machine.dtype
        self.num_steps_done = 0
        self.elapsed_s = 0.0
        self._num_sessions = 1
        self._directory = directory
        self._machine = machine
        self._make_dialogue = make_dialogue
        if state is not None:
            self.network.load_state_dict(state.weights)
        self.network.to(machine.device)
        self._optimizer = Optimizer(
            self.network,
            matrix_rate=plan.matrix_rate,
            other_rate=plan.other_rate,
            weight_decay=plan.weight_decay,
            dtype=machine.dtype,
        )
        if state is not None:
            self._optimizer.load(state.optimizer)
            self.num_steps_done = state.num_steps_done
            self.elapsed_s = state.elapsed_s
            self._num_sessions = state.num_sessions + 1
        self._learn = Learner(self.network, is_compiled=machine.is_compiled)
        with (directory / LOG).open("ab") as log:
            log.truncate(state.log_bytes if state else 0)
        self._examination: Examination | None = None
        if state is None:
            entry = {"plan": plan.as_dict(), "num_parameters": plan.shape.num_parameters}
            self._write(entry | {"command": command})
        number = {"number": self._num_sessions, "machine": machine.description}
        self._write({"session": number})

    @classmethod
    def begin(
        cls,
        directory: Path,
        plan: Plan,
        tokenizer: Tokenizer,
        machine: Machine,
        make_dialogue: DialogueMaker,
        *,
        command: str,
        start: Start | None = None,
    ) -> "Training":
        """A new one, in a directory that exists. From now on it can be resumed. ``command`` is what
        the model card says it was begun with; ``start``: whose weights to begin with, in place of
        drawn ones; its tokenizer should be ``tokenizer``."""
        save_tokenizer(tokenizer, directory)
        training = cls(directory, None, plan, machine, make_dialogue, command)
        if start is not None:
            training.network.load_state_dict(start.network.state_dict())
            training._write({"begun_with": start.sha256})
        training.save()
        return training

    @classmethod
    def resume(cls, directory: Path, machine: Machine, make_dialogue: DialogueMaker) -> "Training":
        """Go on from the directory's checkpoint. *Raises* ``CheckpointError`` if there is none."""
        state = load_state(directory)
        return cls(directory, state, state.plan, machine, make_dialogue)

    @property
    def is_done(self) -> bool:
        return self.num_steps_done == self.plan.num_steps

    def run(
        self,
        *,
        max_session_s: float = float("inf"),
        max_steps: int | None = None,
        progress: bool = True,
    ) -> None:
        """Train until it is done, the session's time is up or a signal asks for the end; in each
        case the checkpoint says so. *Mutates* the directory."""
        begun_s = saved_s = time.monotonic()
        elapsed_before_s = self.elapsed_s
        left = self.plan.num_steps - self.num_steps_done
        last_step = self.num_steps_done + min(left, max_steps if max_steps is not None else left)
        every = max(1, self.plan.num_steps // NUM_EXAMINATIONS)
        made = batches(
            self.plan,
            self.tokenizer,
            self._make_dialogue,
            first_step=self.num_steps_done,
            num_workers=self._machine.num_workers,
        )
        bar = tqdm(
            total=self.plan.num_steps,
            initial=self.num_steps_done,
            bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} steps{postfix}",
            disable=not progress,
            dynamic_ncols=True,
        )
        clock = _Clock(self.plan, self.num_steps_done)
        with closing(made), bar, _asked_to_end() as is_asked:
            while self.num_steps_done < last_step and not is_asked():
                batch = next(made)
                losses = self._step(batch)
                now_s = time.monotonic()
                self.elapsed_s = elapsed_before_s + now_s - begun_s
                self._report(bar, clock, batch, losses)
                if self.num_steps_done % every == 0 or self.is_done:
                    self._examine(bar)
                if self.is_done or now_s - saved_s > SAVE_EVERY_S:
                    self.save()
                    saved_s = now_s
                if now_s - begun_s > max_session_s:
                    break
            self.elapsed_s = elapsed_before_s + time.monotonic() - begun_s
        self.save()

    def save(self) -> None:
        """Replace the checkpoint by where the training is now."""
        state = TrainingState(
            plan=self.plan,
            num_steps_done=self.num_steps_done,
            elapsed_s=self.elapsed_s,
            num_sessions=self._num_sessions,
            log_bytes=(self._directory / LOG).stat().st_size,
            weights=self.network.state_dict(),
            optimizer=self._optimizer.state(),
        )
        save_state(state, self._directory)

    def _step(self, batch: Batch) -> Losses:
        losses = self._learn(batch, self._machine.device)
        self._optimizer.step(self.plan.rate(self.num_steps_done))
        self.num_steps_done += 1
        return losses

    def _report(self, bar: "tqdm[Any]", clock: "_Clock", batch: Batch, losses: Losses) -> None:
        bar.update()
        clock.tick()
        if self.num_steps_done % LOG_EVERY and not self.is_done:
            return
        answers, text = float(losses.answers), float(losses.text)
        speed = self.plan.tokens_per_step / clock.step_s
        bar.set_postfix_str(
            f"rows of {batch.ids.shape[1]:,}, loss {answers:.3f} (text {text:.3f}), "
            f"{speed / 1e3:.1f}k tokens/s, {timedelta(seconds=int(clock.left_s()))} left"
        )
        self._write(
            {
                "step": self.num_steps_done,
                "length": batch.ids.shape[1],
                "answer_loss": answers,
                "text_loss": text,
                "rate": self.plan.rate(self.num_steps_done - 1),
                "tokens": self.num_steps_done * self.plan.tokens_per_step,
                "elapsed_s": round(self.elapsed_s, 1),
            }
        )

    def _examine(self, bar: "tqdm[Any]") -> None:
        if self._examination is None:
            self._examination = Examination(
                self.plan, self.tokenizer, self._make_dialogue, per_cell=PER_CELL
            )
        found = summary(self._examination.run(self.network))
        export(self.network, self.tokenizer, self._directory)
        for split, shares in found.items():
            lengths = ", ".join(
                f"{shares[str(length)]:.0%} at {length:,}" for length in self.plan.exam_lengths
            )
            step = f"step {self.num_steps_done:,}, held-out {split}"
            bar.write(f"{step}: {shares['all']:.1%} right, {lengths}")
        self._write({"step": self.num_steps_done, "right": found})

    def _write(self, entry: dict[str, Any]) -> None:
        with (self._directory / LOG).open("ab") as log:
            log.write(json.dumps(entry).encode() + b"\n")


class _Clock:
    """How fast a session is, and how long it would take to the training's end. Mutable."""

    def __init__(self, plan: Plan, num_steps_done: int) -> None:
        self._plan = plan
        self._step = num_steps_done
        self._left = sum(map(plan.relative_time, range(num_steps_done, plan.num_steps)))
        self._work = self._work_s = 0.0
        self._last_s = time.monotonic()
        self.step_s = 1.0
        """Of the last step."""

    def tick(self) -> None:
        """A step is done."""
        now_s = time.monotonic()
        self.step_s, self._last_s = now_s - self._last_s, now_s
        work = self._plan.relative_time(self._step)
        # What was long ago counts less: the first step compiles.
        self._work = 0.99 * self._work + work
        self._work_s = 0.99 * self._work_s + self.step_s
        self._left -= work
        self._step += 1

    def left_s(self) -> float:
        """Until the training's end, at the speed of the last hundred steps or so."""
        return self._left * self._work_s / self._work


@contextmanager
def _asked_to_end() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came; a second one does what it always does."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, was in before.items():
            signal.signal(number, was)
