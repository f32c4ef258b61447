"""The sampler as a whole: greedy, distributions, seeds, log-probabilities, broken rows."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from radixserve.sampling import greatest, host_chooser
from radixserve.types import SampledToken
from tests.sampling.making import kept_tokens, make_row, make_sampler, sample

VOCAB = 1000


def logits_of(num_rows: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, VOCAB, generator=generator) * 3).to(dtype)


def ids(sampled: list[SampledToken | None]) -> list[int]:
    return [token.token_id for token in sampled if token is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_is_the_lowest_id_of_the_greatest_logit(dtype: torch.dtype) -> None:
    logits = logits_of(8, dtype=dtype)
    logits[3, 500] = logits[3, 20] = 100.0
    before = logits.clone()
    sampled = sample(VOCAB, logits, [make_row(n, temperature=0) for n in range(8)])
    expected = [int((row == row.max()).nonzero()[0]) for row in logits]
    assert expected[3] == 20
    assert ids(sampled) == expected
    assert torch.equal(logits, before)
    # The same through the general path, and from chosen rows of the logits.
    processed = [make_row(n, temperature=0, logprobs=0) for n in (5, 3)]
    assert ids(sample(VOCAB, logits, processed)) == [expected[5], 20]
    chosen = [make_row(n, temperature=0) for n in (5, 3)]
    assert ids(sample(VOCAB, logits, chosen)) == [expected[5], 20]
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_over_several_slices(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse logits: every row has its greatest several times."""
    monkeypatch.setattr(greatest, "MAX_WIDENED_LOGITS", 3 * VOCAB)
    logits = logits_of(8, dtype=dtype).round()
    logits[4, 700] = torch.nan
    sampled = sample(VOCAB, logits, [make_row(n, temperature=0) for n in range(8)])
    assert sampled[4] is None
    sound = [row for row in logits if not row.isnan().any()]
    assert ids(sampled) == [int((row == row.max()).nonzero()[0]) for row in sound]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "min_p": 0.02},
        {"temperature": 1.3, "top_k": 20},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 2.0, "top_k": 50, "top_p": 0.95, "min_p": 0.01},
    ],
)
def test_tokens_are_drawn_with_their_probabilities(params: dict[str, Any]) -> None:
    """Chi-square over 10,000 seeds, rare tokens pooled; the seeds are fixed, so is the outcome."""
    count, logits = 10_000, logits_of(1)
    rows = [make_row(seed=seed, position=3, **params) for seed in range(count)]
    observed = np.bincount(ids(sample(VOCAB, logits, rows)), minlength=VOCAB)
    kept = kept_tokens(logits[0], rows[0].params)
    total = sum(weight for _, weight in kept)
    expected = np.zeros(VOCAB)
    for token, weight in kept:
        expected[token] = count * weight / total
    assert (observed[expected == 0] == 0).all()
    common = expected >= 20
    chi_square = ((observed[common] - expected[common]) ** 2 / expected[common]).sum()
    rest = expected[~common].sum()
    if rest > 0:
        chi_square += (observed[~common].sum() - rest) ** 2 / max(rest, 1.0)
    degrees = int(common.sum())
    # Beyond this with a probability of about 1e-4.
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5 + 10


def test_a_token_never_depends_on_its_company() -> None:
    logits = logits_of(40)
    choices = random.Random(1)
    rows = [
        make_row(
            n,
            seed=n * 7,
            position=n,
            temperature=choices.choice((0.0, 0.5, 1.0)),
            top_k=choices.choice((0, 5, 100)),
            top_p=choices.choice((0.5, 1.0)),
            min_p=choices.choice((0.0, 0.1)),
            presence_penalty=choices.choice((0.0, 1.0)),
            logprobs=choices.choice((None, 0, 2)),
            output=[n, n + 1],
            banned=(n,) if n % 3 == 0 else (),
        )
        for n in range(40)
    ]
    sampler = make_sampler(VOCAB)
    together = sampler.launch(logits, rows).wait()
    assert [sampler.launch(logits, [row]).wait()[0] for row in rows] == together
    order = list(range(40))
    choices.shuffle(order)
    assert sampler.launch(logits, [rows[n] for n in order]).wait() == [together[n] for n in order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_chooser, "MAX_PROCESSED_LOGITS", 3 * VOCAB)
        assert sampler.launch(logits, rows).wait() == together


def test_choices_of_one_prompt_share_its_logits() -> None:
    rows = [make_row(0, seed=seed, temperature=1.0) for seed in range(30)]
    tokens = ids(sample(VOCAB, logits_of(1), rows))
    assert len(tokens) == 30
    assert len(set(tokens)) > 1


def test_logprobs_are_the_raw_log_softmax() -> None:
    logits = logits_of(3, dtype=torch.bfloat16)
    rows = [
        make_row(0, temperature=0, logprobs=5, logit_bias={17: 100.0}, presence_penalty=2.0),
        make_row(1, temperature=0.1, logprobs=0, top_k=2),
        make_row(2, temperature=0),
    ]
    first, second, third = sample(VOCAB, logits, rows)
    expected = logits.float().log_softmax(dim=-1)
    assert first is not None
    assert first.token_id == 17
    assert first.logprob is not None
    assert first.logprob.token_id == 17
    assert first.logprob.logprob == pytest.approx(float(expected[0, 17]), abs=1e-5)
    values, best = expected[0].topk(5)
    assert [token for token, _ in first.logprob.top] == best.tolist()
    assert [logprob for _, logprob in first.logprob.top] == pytest.approx(values.tolist(), abs=1e-5)
    assert second is not None
    assert second.logprob is not None
    assert second.logprob.top == []
    assert second.logprob.logprob == pytest.approx(float(expected[1, second.token_id]), abs=1e-5)
    assert third is not None
    assert third.logprob is None


def test_all_alternatives_sum_to_one() -> None:
    logits = logits_of(1)[:, :15]
    (token,) = sample(15, logits, [make_row(temperature=1.0, logprobs=20)])
    assert token is not None
    assert token.logprob is not None
    assert len(token.logprob.top) == 15
    assert sum(np.exp([logprob for _, logprob in token.logprob.top])) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "logprobs": 1},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.5},
    ],
)
def test_a_broken_row_is_marked_and_disturbs_nobody(bad: float, params: dict[str, Any]) -> None:
    logits = logits_of(3)
    rows = [make_row(n, seed=n, **params) for n in range(3)]
    sampler = make_sampler(VOCAB)
    sound = sampler.launch(logits, rows).wait()
    logits[1, 700] = bad
    assert sampler.launch(logits, rows).wait() == [sound[0], None, sound[2]]
    logits[1] = -torch.inf
    assert sampler.launch(logits, rows).wait() == [sound[0], None, sound[2]]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_all_tokens_banned_but_one(temperature: float, top_p: float) -> None:
    banned = set(range(VOCAB)) - {123}
    row = make_row(temperature=temperature, top_p=top_p, banned=banned)
    assert ids(sample(VOCAB, logits_of(1), [row])) == [123]
    everything = make_row(temperature=temperature, top_p=top_p, banned=range(VOCAB))
    assert sample(VOCAB, logits_of(1), [everything]) == [None]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6])
@pytest.mark.parametrize("top_k", [0, 3])
def test_freezing_is_greedy(temperature: float, top_k: int) -> None:
    logits = logits_of(5)
    rows = [make_row(n, seed=n, temperature=temperature, top_k=top_k) for n in range(5)]
    assert ids(sample(VOCAB, logits, rows)) == logits.argmax(dim=-1).tolist()


def test_nothing_to_do() -> None:
    assert sample(VOCAB, logits_of(1)[:0], []) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_greedy_in_two_bytes_where_their_bits_mislead(dtype: torch.dtype) -> None:
    """No logit above zero, zeros of both signs, infinities, and NaN of both signs."""
    negative = logits_of(1).abs().neg().sub(1.0)
    logits = negative.repeat(8, 1).to(dtype)
    logits[1, [40, 30]] = torch.tensor([0.0, -0.0], dtype=dtype)
    logits[2, [70, 60]] = 5.0
    logits[3, :] = -torch.inf
    logits[3, 99] = -3.0
    logits[4, 10] = torch.inf
    logits[5, [10, 20]] = torch.tensor([4.0, torch.nan], dtype=dtype)
    # The NaN that processors make by default has its sign set.
    signed = torch.tensor([-1], dtype=torch.int16).view(dtype)
    assert signed.isnan().all()
    logits[6, 20], logits[6, 10] = signed[0], 4.0
    logits[7, :] = -torch.inf
    sampled = sample(VOCAB, logits, [make_row(n, temperature=0) for n in range(8)])
    assert [token and token.token_id for token in sampled[4:]] == [None] * 4
    lowest = int((logits[0] == logits[0].max()).nonzero()[0])
    assert ids(sampled[:4]) == [lowest, 30, 60, 99]
