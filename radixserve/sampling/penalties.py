"""Changes to single logits: penalties, then bias, then bans.

The meaning is transformers' and vLLM's: the repetition penalty looks at prompt and answer and
divides positive logits, multiplies negative ones; presence and frequency penalties look at the
answer only and are subtracted, once and once per occurrence; a bias is added; a banned token gets
minus infinity. Applied in this order, before temperature.

Each is a handful of (row, token) entries; all rows' entries are applied in one indexed operation.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from radixserve.ids import TokenArray
from radixserve.sampling.row import SampleRow


def adjust_logits(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    """Apply every row's penalties, bias and bans. ``logits``: float32[len(rows), V].

    *Mutates* ``logits``. *Cost* of order n log n in the tokens of rows with penalties.
    """
    _penalize_repetition(logits, rows)
    _penalize_answer(logits, rows)
    _add_bias(logits, rows)
    _ban(logits, rows)


class _Entries:
    """(row, token, value...) entries collected over the rows."""

    def __init__(self, num_values: int) -> None:
        self._tokens: list[npt.NDArray[np.int64]] = []
        self._rows: list[npt.NDArray[np.int64]] = []
        self._values: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(num_values)]

    def add(self, row: int, tokens: npt.ArrayLike, *values: npt.ArrayLike) -> None:
        token_array = np.asarray(tokens, dtype=np.int64)
        self._tokens.append(token_array)
        self._rows.append(np.full(len(token_array), row, dtype=np.int64))
        for collected, value in zip(self._values, values, strict=True):
            array = np.asarray(value, dtype=np.float32)
            collected.append(np.broadcast_to(array, token_array.shape))

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def index(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return _gathered(self._rows, device), _gathered(self._tokens, device)

    def values(self, device: torch.device) -> list[torch.Tensor]:
        return [_gathered(collected, device) for collected in self._values]


def _gathered(arrays: Iterable[npt.NDArray[np.generic]], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(list(arrays))).to(device)


def _penalize_repetition(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    entries = _Entries(1)
    for number, row in enumerate(rows):
        penalty = row.params.repetition_penalty
        if penalty is not None and penalty != 1.0:
            seen = np.unique(np.concatenate((row.prompt_ids, row.output_ids)))
            entries.add(number, seen, penalty)
    if entries:
        index = entries.index(logits.device)
        (penalties,) = entries.values(logits.device)
        old = logits[index]
        logits[index] = torch.where(old > 0, old / penalties, old * penalties)


def _penalize_answer(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    entries = _Entries(1)
    for number, row in enumerate(rows):
        presence, frequency = row.params.presence_penalty, row.params.frequency_penalty
        if presence or frequency:
            tokens, counts = _counted(row.output_ids)
            entries.add(number, tokens, presence + frequency * counts)
    if entries:
        (amounts,) = entries.values(logits.device)
        logits[entries.index(logits.device)] -= amounts


def _counted(token_ids: TokenArray) -> tuple[TokenArray, npt.NDArray[np.int64]]:
    tokens, counts = np.unique(token_ids, return_counts=True)
    return tokens, counts.astype(np.int64)


def _add_bias(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    entries = _Entries(1)
    for number, row in enumerate(rows):
        bias = row.params.logit_bias
        if bias:
            entries.add(number, list(bias), list(bias.values()))
    if entries:
        (amounts,) = entries.values(logits.device)
        logits[entries.index(logits.device)] += amounts


def _ban(logits: torch.Tensor, rows: Sequence[SampleRow]) -> None:
    entries = _Entries(0)
    for number, row in enumerate(rows):
        if row.banned_ids:
            entries.add(number, list(row.banned_ids))
    if entries:
        logits[entries.index(logits.device)] = -torch.inf
