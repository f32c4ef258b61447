"""What choices with penalties have seen, counted on the device: for the kernels.

One row of a pool per choice, one number per token of the vocabulary, its *tally*: 1 if it is in the
prompt, plus 2 for every time it is in the answer. The prompt is looked at only where it counts, for
the repetition penalty. Each launch adds the tokens that are new: known ones go up with the launch's
other arrays, pending ones are taken from the ids that the previous launch sampled, on the device.
So a step's cost does not grow with the history.

A row of the pool is its choice's from the first launch with penalties until the choice is gone;
whoever has it next finds it cleared, since the device works in the order of launches.

*Cost*: 4 bytes per token of the vocabulary and choice (594 KiB for 151,936 tokens). The pool
doubles when it is full and never shrinks; growing copies it on the device.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from radixserve.sampling.history import news_of
from radixserve.sampling.row import SampleRow, counts_prompt, has_penalties

FIRST_SLOTS = 8
"""How many choices the pool has room for when it is first needed."""


class TallyNews(NamedTuple):
    """What a launch adds, as arrays to be put on the device. An index is ``slot * V + token``."""

    slots: npt.NDArray[np.int32]
    """Of every row, -1 for those without penalties."""
    cleared: npt.NDArray[np.int64]
    """Slots that start over."""
    prompt_index: npt.NDArray[np.int64]
    answer_index: npt.NDArray[np.int64]
    pending_start: npt.NDArray[np.int64]
    """Of pending tokens, ``slot * V``."""
    pending: npt.NDArray[np.int64]
    """Where they are found among the ids sampled before."""


@dataclass(slots=True)
class _Counted:
    slot: int
    num_counted: int | None = None


class TallyPool:
    """The tallies of every living choice with penalties, on one device."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._counted: weakref.WeakKeyDictionary[object, _Counted] = weakref.WeakKeyDictionary()
        self._free: list[int] = []
        self._num_slots = 0
        self._tallies = torch.empty(0, vocab_size, dtype=torch.int32, device=device)

    def __len__(self) -> int:
        """Choices that are kept."""
        return len(self._counted)

    def make_room(self, rows: Sequence[SampleRow]) -> None:
        """Give every new choice its slot, so that the pool grows once for all rows of a step, in
        however many slices they are counted."""
        for row in rows:
            if has_penalties(row) and row.choice not in self._counted:
                self._new(row.choice)

    def collect(self, rows: Sequence[SampleRow]) -> TallyNews:
        """What is new in the rows' histories. To be followed by ``apply``, in the same order."""
        slots = np.full(len(rows), -1, dtype=np.int32)
        cleared: list[int] = []
        prompts: list[npt.NDArray[np.int64]] = []
        answers: list[npt.NDArray[np.int64]] = []
        pending_start: list[int] = []
        pending: list[int] = []
        for number, row in enumerate(rows):
            if not has_penalties(row):
                continue
            counted = self._counted.get(row.choice) or self._new(row.choice)
            slots[number] = counted.slot
            start = counted.slot * self._vocab_size
            news = news_of(row, counted.num_counted)
            if news.starts_over:
                cleared.append(counted.slot)
                if counts_prompt(row):
                    prompts.append(row.prompt_ids + np.int64(start))
            answers.append(news.output_ids + np.int64(start))
            if news.pending is not None:
                pending_start.append(start)
                pending.append(news.pending)
            counted.num_counted = news.num_counted
        return TallyNews(
            slots,
            np.array(cleared, dtype=np.int64),
            _joined(prompts),
            _joined(answers),
            np.array(pending_start, dtype=np.int64),
            np.array(pending, dtype=np.int64),
        )

    def apply(
        self,
        previous: torch.Tensor | None,
        cleared: torch.Tensor,
        prompt_index: torch.Tensor,
        answer_index: torch.Tensor,
        pending_start: torch.Tensor,
        pending: torch.Tensor,
    ) -> torch.Tensor:
        """Count what ``collect`` found, by now on the device. Never waits for it.

        ``previous``: int64[...], where pending tokens are found. Returns all tallies, int32[N, V].
        *Mutates* them.
        """
        if self._num_slots > len(self._tallies):
            num_slots = max(FIRST_SLOTS, 2 * len(self._tallies), self._num_slots)
            grown = self._tallies.new_empty(num_slots, self._vocab_size)
            grown[: len(self._tallies)] = self._tallies
            self._tallies = grown
        if len(cleared):
            self._tallies.index_fill_(0, cleared, 0)
        flat = self._tallies.view(-1)
        if len(prompt_index):
            flat.index_fill_(0, prompt_index, 1)
        if len(pending):
            assert previous is not None, "a pending token is among those sampled before"
            newest = previous.index_select(0, pending) + pending_start
            answer_index = torch.cat((answer_index, newest))
        if len(answer_index):
            twos = torch.full_like(answer_index, 2, dtype=torch.int32)
            flat.scatter_add_(0, answer_index, twos)
        return self._tallies

    def _new(self, choice: object) -> _Counted:
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._num_slots
            self._num_slots += 1
        counted = self._counted[choice] = _Counted(slot)
        weakref.finalize(choice, self._free.append, slot).atexit = False
        return counted


def _joined(arrays: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate((np.empty(0, dtype=np.int64), *arrays))
