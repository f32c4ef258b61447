"""The processor's kernels of sampling against its meaning, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import torch

from radixserve_kernels.sample.cases import TEST_CASES, SampleCase
from radixserve_kernels.sample.cpu import draw_tokens, scale_rows
from radixserve_kernels.sample.reference import sample_reference

pytestmark = pytest.mark.usefixtures("two_threads")


def choose(case: SampleCase, logits: torch.Tensor, uniforms: torch.Tensor) -> list[int]:
    rows = len(logits)
    scaled = torch.full(logits.shape, torch.nan)
    temperatures = np.full(rows, max(case.temperature, 1e-30), dtype=np.float32)
    places = np.arange(rows) if case.temperature else np.full(rows, -1)
    found = scale_rows(logits, np.arange(rows), temperatures, places, scaled)
    if not case.temperature:
        return [int(token) for token in found]
    drawn = draw_tokens(
        scaled.numpy(),
        scaled.exp().numpy(),
        np.full(rows, case.top_k or case.vocab_size),
        np.full(rows, case.top_p),
        np.full(rows, case.min_p),
        uniforms.numpy(),
    )
    return [int(token) for token in drawn]


@pytest.mark.parametrize("case", TEST_CASES, ids=lambda case: case.name)
def test_equal_to_the_reference(case: SampleCase) -> None:
    torch.manual_seed(0)
    logits = torch.randn(case.rows, case.vocab_size).mul(case.spread).to(torch.bfloat16)
    for uniforms in torch.rand(8, case.rows, dtype=torch.float64):
        token_ids, is_sound = sample_reference(
            logits,
            torch.arange(case.rows),
            torch.full((case.rows,), case.temperature),
            torch.full((case.rows,), case.top_k or case.vocab_size),
            torch.full((case.rows,), case.top_p, dtype=torch.float64),
            torch.full((case.rows,), case.min_p),
            uniforms,
        )
        assert is_sound.all()
        assert choose(case, logits, uniforms) == token_ids.tolist()


@pytest.mark.parametrize("vocab_size", [1, 255, 256, 257, 1000])
def test_every_token_is_found_and_none_without_weight(vocab_size: int) -> None:
    """Weights of whole numbers, and uniform numbers between their sums: exact in float64."""
    rng = np.random.default_rng(vocab_size)
    weights = rng.integers(0, 3, vocab_size).astype(np.float32)
    weights[rng.integers(vocab_size)] = 1.0
    until = np.cumsum(weights, dtype=np.float64)
    wanted = np.flatnonzero(weights)
    uniforms = (until[wanted] - 0.5) / until[-1]
    rows = len(wanted)
    # A copy, for what cannot be written to would be one more kernel to compile.
    many = np.broadcast_to(weights, (rows, vocab_size)).copy()
    everything = np.full(rows, vocab_size)
    drawn = draw_tokens(many, many, everything, np.ones(rows), np.zeros(rows), uniforms)
    assert drawn.tolist() == wanted.tolist()


def test_the_very_end_is_the_last_token_with_weight() -> None:
    weights = np.zeros((2, 1000), dtype=np.float32)
    weights[:, [5, 300, 310]] = 0.1
    scaled = np.log(weights, where=weights > 0, out=np.full_like(weights, -np.inf))
    scaled -= scaled.max(axis=-1, keepdims=True)
    for top_k in ([1000, 1000], [7, 7]):
        drawn = draw_tokens(
            scaled,
            np.exp(scaled),
            np.array(top_k),
            np.ones(2),
            np.zeros(2),
            np.array([1e-300, 1.0]),
        )
        assert drawn.tolist() == [5, 310]


def test_top_p_of_one_drops_nothing_that_rounding_hides() -> None:
    """The others' weights, e^-40, are lost in a sum with the first's; the 21 best are kept."""
    scaled = np.full((1, 22), -40.0, dtype=np.float32)
    scaled[0, 0] = 0.0
    one = np.ones(1)
    drawn = draw_tokens(scaled, np.exp(scaled), np.array([21]), one, np.zeros(1), one)
    assert drawn.tolist() == [20]


def good() -> dict[str, Any]:
    return {
        "scaled": np.zeros((2, 8), dtype=np.float32),
        "weights": np.ones((2, 8), dtype=np.float32),
        "top_k": np.full(2, 8),
        "top_p": np.ones(2),
        "min_p": np.zeros(2),
        "uniforms": np.full(2, 0.5),
    }


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("weights", np.ones((2, 7), dtype=np.float32)),
        ("weights", np.ones((2, 8))),
        ("scaled", np.ones((8, 2), dtype=np.float32).T),
        ("top_k", np.full(2, 8, dtype=np.int32)),
        ("top_p", np.ones(1)),
        ("min_p", np.zeros(4)[::2]),
        ("uniforms", np.ones(2, dtype=np.float32)),
    ],
)
def test_what_does_not_fit_is_refused(name: str, bad: Any) -> None:
    draw_tokens(**good())
    with pytest.raises(ValueError, match=name):
        draw_tokens(**{**good(), name: bad})


def test_logits_that_do_not_fit_are_refused() -> None:
    rows, ones, scaled = np.arange(2), np.ones(2, dtype=np.float32), torch.empty(2, 8)
    for logits, message in (
        (torch.zeros(2, 8, dtype=torch.float64), "logits"),
        (torch.zeros(8, 2).T, "logits"),
        (torch.zeros(2, 9), "scaled"),
    ):
        with pytest.raises(ValueError, match=message):
            scale_rows(logits, rows, ones, rows, scaled)
    with pytest.raises(ValueError, match="temperatures"):
        scale_rows(torch.zeros(2, 8), rows, ones[:1], rows, scaled)
