"""Rows to sample from, as the bench of the sampling kernel and its check need them."""

from dataclasses import replace
from typing import Any

import torch

from radixserve_kernels.sample.kernel import sample_tokens
from radixserve_kernels.sample.reference import kept_reference, sample_reference

NEAR = 1e-5
"""Of the whole weight: what float32 exponentials, and so where the cut falls, may move a border."""


class SampleData:
    """Random logits and the same parameters for every row of a case."""

    def __init__(
        self, case: Any, dtype: torch.dtype, device: torch.device, *, seed: int = 0
    ) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        self._case, self._seed, self._dtype = case, seed, dtype
        logits = torch.empty(case.rows, case.vocab_size, dtype=dtype, device=device)
        self.logits = logits.normal_(0.0, case.spread, generator=generator)
        rows = case.rows

        def full(value: float, kind: torch.dtype) -> torch.Tensor:
            return torch.full((rows,), value, dtype=kind, device=device)

        self._logits_rows = torch.arange(rows, dtype=torch.int32, device=device)
        self._temperatures = full(case.temperature, torch.float32)
        self._top_k = full(case.top_k or case.vocab_size, torch.int32)
        self._top_p = full(case.top_p, torch.float64)
        self._min_p = full(case.min_p, torch.float32)
        uniforms = torch.rand(rows, dtype=torch.float64, device=device, generator=generator)
        self._uniforms = uniforms.clamp_(1e-9, 1 - 1e-9)

    def copies(self, count: int) -> list["SampleData"]:
        """So many sets, this one included."""
        others = [
            SampleData(replace(self._case), self._dtype, self.logits.device, seed=seed)
            for seed in range(self._seed + 1, self._seed + count)
        ]
        return [self, *others]

    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The kernel: token ids and whether each row was sound."""
        return sample_tokens(self.logits, *self._arguments())

    def run_torch(self) -> torch.Tensor:
        """Torch's way to do it: greedy by argmax; else softmax, a sort where top-k or top-p wants
        one, and a search in the running sum."""
        if self._case.temperature == 0:
            return self.logits.argmax(dim=-1)
        scaled = self.logits.float().div_(self._temperatures.unsqueeze(-1))
        weights = scaled.softmax(dim=-1)
        if self._case.min_p:
            weights = weights * (weights >= self._case.min_p * weights.amax(-1, keepdim=True))
        order = None
        if self._case.top_k or self._case.top_p < 1.0:
            weights, order = weights.sort(dim=-1, descending=True)
            if self._case.top_k:
                weights[:, self._case.top_k :] = 0.0
            before = weights.cumsum(-1) - weights
            total = weights.sum(-1, keepdim=True)
            weights = weights * (before < self._case.top_p * total)
        sums = weights.cumsum(-1)
        aim = (self._uniforms.float().unsqueeze(-1) * sums[:, -1:]).contiguous()
        place = torch.searchsorted(sums, aim).clamp_(max=self._case.vocab_size - 1)
        return place if order is None else order.gather(-1, place)

    def check(self) -> tuple[bool, str]:
        """The reference's tokens, row by row. A draw may differ where the rounding of float32
        exponentials decides: then the token is kept, too, and lies beside the place drawn."""
        token_ids, is_sound = self.run()
        logits, *rest = (tensor.cpu() for tensor in (self.logits, *self._arguments()))
        expected, sound = sample_reference(logits, *rest)
        got = token_ids.cpu()
        different = (got != expected).nonzero().flatten().tolist()
        is_greedy = self._case.temperature == 0
        wrong = [row for row in different if is_greedy or not self._is_near(row, int(got[row]))]
        detail = f"{self._case.rows - len(different)} of {self._case.rows} tokens equal"
        if different:
            detail += f", {len(different) - len(wrong)} beside it"
        return not wrong and torch.equal(is_sound.cpu(), sound), detail

    def _is_near(self, row: int, token_id: int) -> bool:
        """Whether the row's place in the sum of weights is the token's, but for rounding."""
        weights, is_kept = kept_reference(
            self.logits[row].float().cpu(),
            self._case.temperature,
            int(self._top_k[row]),
            float(self._top_p[row]),
            float(self._min_p[row]),
        )
        until = (weights * is_kept).cumsum(0)
        place, slack = float(self._uniforms[row] * until[-1]), NEAR * float(until[-1])
        before = float(until[token_id] - weights[token_id])
        is_beside = before - slack <= place <= float(until[token_id]) + slack
        return bool(is_kept[token_id]) and is_beside

    def _arguments(self) -> tuple[torch.Tensor, ...]:
        return (
            self._logits_rows, self._temperatures, self._top_k, self._top_p, self._min_p,
            self._uniforms,
        )  # fmt: skip
