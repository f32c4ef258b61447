"""Top-k, top-p, min-p and the draw, against the same by the book."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.sampling import truncation
from radixserve.sampling.draw import draw_from_candidates, draw_from_vocabulary
from tests.sampling.making import draw, kept_tokens, make_row, sample


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    vocab_size=st.sampled_from((2, 5, 40, 300)),
    coarse=st.booleans(),
    spread=st.sampled_from((0.3, 2.0, 8.0)),
    temperature=st.sampled_from((0.2, 1.0, 3.0)),
    top_k=st.sampled_from((0, 1, 3, 4, 7, 30, 299, 300, 1000)),
    top_p=st.sampled_from((1e-6, 0.3, 0.9, 0.999, 1.0)),
    min_p=st.sampled_from((0.0, 0.05, 0.7, 1.0)),
)
def test_equal_to_the_book(
    seed: int,
    vocab_size: int,
    coarse: bool,
    spread: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab_size, generator=generator) * spread
    if coarse:
        # Many ties, as bfloat16 makes them.
        logits = logits.round()
    rows = [
        make_row(n, seed=seed + n, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        for n in range(3)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncation, "NUM_CANDIDATES", (4, 32))
        sampled = sample(vocab_size, logits, rows)
    for token, row in zip(sampled, rows, strict=True):
        kept = kept_tokens(logits[row.logits_row], row.params)
        assert token is not None
        assert token.token_id == draw(kept, row)


def test_candidates_do_not_change_the_outcome() -> None:
    """However many candidates are looked at first, the token is the same."""
    logits = torch.randn(200, 2000, generator=torch.Generator().manual_seed(3)).mul(4).round()
    rows = [make_row(n, seed=n, temperature=1.5, top_k=n % 90, top_p=0.8) for n in range(200)]
    outcomes = []
    for candidates in ((), (1,), (64, 1024), (2, 500)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(truncation, "NUM_CANDIDATES", candidates)
            outcomes.append(sample(2000, logits, rows))
    assert all(outcome == outcomes[0] for outcome in outcomes)


@pytest.mark.parametrize("vocab_size", [1, 255, 256, 257, 3000])
def test_draw_finds_every_token_and_no_weightless_one(vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    weights = rng.random(vocab_size) * (rng.random(vocab_size) < 0.5)
    weights[-1] = 0.25
    until = weights.cumsum()
    uniforms = np.concatenate((rng.random(500), [1e-300, np.nextafter(1.0, 0.0)]))
    expected = np.searchsorted(until, uniforms * until[-1], side="right")
    rows = torch.from_numpy(weights).expand(len(uniforms), -1)
    for drawn in (
        draw_from_vocabulary(rows.float(), torch.from_numpy(uniforms)),
        draw_from_candidates(rows, torch.from_numpy(uniforms)),
    ):
        assert (weights[drawn.numpy()] > 0).all()
        assert (drawn.numpy() == expected).mean() > 0.99, "float32 weights may move a border"


def test_draw_at_the_very_end_lands_on_the_last_token_with_weight() -> None:
    weights = torch.zeros(1, 600)
    weights[0, 5], weights[0, 300] = 1.0, 1e-30
    uniforms = torch.tensor([1.0], dtype=torch.float64)
    assert draw_from_vocabulary(weights, uniforms).tolist() in ([5], [300])
    assert draw_from_candidates(weights.double(), uniforms).tolist() in ([5], [300])
