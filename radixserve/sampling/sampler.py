"""From logits to tokens, for a whole batch at once: queued on the device now, known later.

A row's token is a function of its own logits, parameters, history and (seed, position); never of
the rows beside it. Logits are processed in float32, in this order: penalties, bias, bans
(``penalties.py``); masks (``token_mask.py``); temperature; top-k, top-p, min-p
(``truncation.py``); then the one uniform number of (seed, position) picks a token, in the order of
ids (``noise.py``, ``draw.py``). Temperature 0 takes the greatest processed logit, the lowest id
among equals.

Reported log-probabilities are the model's own: the log-softmax of the raw logits.

There are two ways to the same tokens: torch on a CPU (``host_chooser.py``), kernels on a GPU
(``kernel_chooser.py``). They differ where rounding decides: an exponential in float32 or float64.

Knows neither requests nor the scheduler. From step to step it keeps what the choices with penalties
have seen, for as long as they live. Ids are within the vocabulary: intake has seen to that.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from radixserve.device.transfer import Fetch, Transfer
from radixserve.sampling.chooser import Chooser
from radixserve.sampling.host_chooser import HostChooser, RowChooser
from radixserve.sampling.logprobs import LogprobTensors, launch_logprobs, told, wants_logprobs
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.sampling.row import SampleRow
from radixserve.types import SampledToken

_NOTHING = -1
"""Fetched in place of the token id of a row that had nothing to choose from."""


class Sampler:
    """Chooses tokens."""

    def __init__(
        self, vocab_size: int, transfer: Transfer, *, use_kernel: bool, is_compiled: bool = False
    ) -> None:
        """``use_kernel``: whether kernels choose, which needs Triton. On a GPU they must; on a CPU
        they run under Triton's interpreter only, and slowly. ``is_compiled``: whether, without
        them, kernels compiled for the processor choose, which needs numba."""
        self._transfer = transfer
        self._chooser: Chooser
        if use_kernel:
            # Imported here: where there is no GPU there need be no Triton.
            from radixserve.sampling.kernel_chooser import KernelChooser  # noqa: PLC0415

            self._chooser = KernelChooser(vocab_size, transfer)
        else:
            assert transfer.device.type == "cpu", "without kernels tokens are chosen on the host"
            row_chooser: RowChooser | None = None
            if is_compiled:
                # Imported here: it imports numba.
                from radixserve.sampling.compiled_rows import CompiledRows  # noqa: PLC0415

                row_chooser = CompiledRows()
            self._chooser = HostChooser(vocab_size, row_chooser)

    def launch(
        self,
        logits: torch.Tensor,
        rows: Sequence[SampleRow],
        previous: torch.Tensor | None = None,
    ) -> "Samples":
        """Begin to choose one token per row.

        ``logits``: fp16, bf16 or fp32 [S, V], contiguous rows, not changed. ``previous``:
        int64[...], on the device, the token ids that rows' ``pending`` index. Launches see the
        steps of a choice in their order. Never waits for a GPU.

        *Cost*: that of the chooser; and of log-probabilities, where they are wanted.
        """
        with torch.inference_mode():
            token_ids, is_sound = self._chooser.choose(logits, rows, previous)
            numbers = wants_logprobs(rows)
            logprobs: tuple[torch.Tensor, ...] = ()
            if numbers:
                logprobs = launch_logprobs(logits, token_ids, rows, numbers, self._transfer)
            # One tensor to fetch where two would be two copies.
            told_ids = torch.where(is_sound, token_ids, _NOTHING)
            fetch = self._transfer.fetch(told_ids, *logprobs)
        counts = [rows[number].params.logprobs or 0 for number in numbers]
        return Samples(token_ids, fetch, numbers, counts)

    def warm_up(self, logits: torch.Tensor) -> None:
        """Choose tokens, drawn and greedy, with and without penalties, so that the first request
        finds kernels built.

        ``logits``: [S, V], of the dtype that the model gives. *Cost*: on a GPU the first time some
        ten seconds of compiling.
        """
        for penalty, temperature in product((1.0, 2.0), (1.0, 0.0)):
            params = SamplingParams(repetition_penalty=penalty, temperature=temperature)
            nothing = np.empty(0, dtype=np.int32)
            row = SampleRow(
                logits_row=0,
                params=params.resolve(SamplingDefaults(), max_tokens=1, seed=0),
                seed=0,
                position=0,
                choice=_Nobody(),
                prompt_ids=nothing,
                output_ids=nothing,
                pending=None,
                banned_ids=(),
            )
            self.launch(logits, [row]).wait()


class _Nobody:
    """The choice of nobody."""


class Samples:
    """The tokens of one launch: on the device at once, on the host when waited for."""

    def __init__(
        self,
        token_ids: torch.Tensor,
        fetch: Fetch,
        numbers: Sequence[int],
        counts: Sequence[int],
    ) -> None:
        self.token_ids = token_ids
        """int64[R], on the device, not to be changed. Valid ids, also where there was nothing to
        choose from."""
        self._fetch = fetch
        self._numbers = numbers
        self._counts = counts

    def wait(self) -> list[SampledToken | None]:
        """The tokens, one per row, with log-probabilities where they were wanted.

        An entry is None where there was nothing to choose from: the row's processed logits hold a
        NaN or plus infinity (a broken model), or no token was left. Other rows are unaffected.
        """
        ids, *logprobs = self._fetch.wait()
        token_ids = ids.tolist()
        sampled = [None if token == _NOTHING else SampledToken(token) for token in token_ids]
        if self._numbers:
            chosen = [token_ids[number] for number in self._numbers]
            entries = told(LogprobTensors(*logprobs), chosen, self._counts)
            for number, entry in zip(self._numbers, entries, strict=True):
                if sampled[number] is not None:
                    sampled[number] = SampledToken(token_ids[number], entry)
        return sampled
