"""Penalties against transformers' processors and OpenAI's formula; bias and bans."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from radixserve.device.transfer import make_transfer
from radixserve.sampling.kernel_penalties import KernelPenalties
from radixserve.sampling.penalties import adjust_logits
from radixserve.sampling.row import SampleRow
from radixserve.sampling.seen_tokens import SeenTokens
from tests.kernels.judging import DEVICE
from tests.sampling.making import make_row, sample

VOCAB = 50
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=30)


def adjusted(logits: torch.Tensor, *rows: SampleRow) -> torch.Tensor:
    """By the host, and by the kernels, which must say the same."""
    changed = logits.clone()
    adjust_logits(changed, rows, SeenTokens())
    there = logits.to(DEVICE, copy=True)
    by_kernels = KernelPenalties(logits.shape[1], make_transfer(DEVICE))
    torch.testing.assert_close(by_kernels.adjust(there, rows, None).cpu(), changed)
    assert torch.equal(there.cpu(), logits)
    return changed


@settings(max_examples=100, deadline=None)
@given(
    prompt=TOKENS.filter(bool),
    output=TOKENS,
    penalty=st.sampled_from((0.5, 1.0, 1.3, 5.0)),
    seed=st.integers(0, 99),
)
def test_repetition_is_transformers(
    prompt: list[int], output: list[int], penalty: float, seed: int
) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed))
    row = make_row(prompt=prompt, output=output, repetition_penalty=penalty)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([prompt + output]), logits.clone())
    torch.testing.assert_close(adjusted(logits, row), expected)


@settings(max_examples=100, deadline=None)
@given(
    prompt=TOKENS,
    output=TOKENS,
    presence=st.sampled_from((-2.0, 0.0, 0.5)),
    frequency=st.sampled_from((-0.25, 0.0, 2.0)),
)
def test_presence_and_frequency_count_the_answer_only(
    prompt: list[int], output: list[int], presence: float, frequency: float
) -> None:
    logits = torch.linspace(-3, 3, VOCAB)[None]
    expected = logits.clone()
    for token in range(VOCAB):
        count = output.count(token)
        expected[0, token] -= frequency * count + presence * (count > 0)
    row = make_row(
        prompt=prompt, output=output, presence_penalty=presence, frequency_penalty=frequency
    )
    torch.testing.assert_close(adjusted(logits, row), expected)


def test_order_and_rows_are_kept_apart() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, 4.0]] * 3)
    everything = make_row(
        0,
        prompt=[1],
        output=[0, 0],
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={0: 10.0, 2: -100.0},
        banned=frozenset({3}),
    )
    changed = adjusted(logits, everything, make_row(1), make_row(2, logit_bias={1: 1.0}))
    assert changed[0].tolist() == [2.0 / 2 - 0.5 - 2 * 0.25 + 10, -4.0, -99.0, -torch.inf]
    assert changed[1].tolist() == logits[1].tolist()
    assert changed[2].tolist() == [2.0, -1.0, 1.0, 4.0]


@pytest.mark.parametrize("use_kernel", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bias_forces_and_forbids(temperature: float, use_kernel: bool) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0))
    best = int(logits.argmax())
    rows = [
        make_row(seed=seed, temperature=temperature, logit_bias={7: 100.0}) for seed in range(20)
    ]
    rows += [
        make_row(seed=seed, temperature=temperature, logit_bias={best: -100.0})
        for seed in range(20)
    ]
    sampled = sample(VOCAB, logits, rows, use_kernel=use_kernel)
    tokens = [token.token_id for token in sampled if token]
    assert tokens[:20] == [7] * 20
    assert best not in tokens[20:]
