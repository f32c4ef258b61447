"""Sampling by kernels, against the same by sorting.

Arguments are made on the host, where the reference sorts; the kernels get copies on the device. On
a GPU a kernel compiles anew for a tiling, a dtype, and a vocabulary that is 1, a multiple of 16 or
neither: sizes here are of few such kinds.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve_kernels.sample.cases import TEST_CASES, SampleCase
from radixserve_kernels.sample.kernel import DEFAULT_TILING, Tiling, sample_tokens
from radixserve_kernels.sample.reference import sample_reference
from tests.kernels.placing import on_device

SMALL = Tiling(block=16, grid_blocks=4, tile_blocks=4, first_blocks=2, candidates=16)
"""Cuts a few hundred tokens as the default cuts a whole vocabulary: every way is gone."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Arguments = list[torch.Tensor]


def arguments(case: SampleCase, seed: int = 0, dtype: torch.dtype = torch.float32) -> Arguments:
    """Twice as many logits rows as rows, taken in disorder."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2 * case.rows, case.vocab_size, generator=generator) * case.spread
    return [
        logits.to(dtype),
        torch.randperm(2 * case.rows, generator=generator)[: case.rows].int(),
        torch.full((case.rows,), case.temperature),
        torch.full((case.rows,), case.top_k or case.vocab_size, dtype=torch.int32),
        torch.full((case.rows,), case.top_p, dtype=torch.float64),
        torch.full((case.rows,), case.min_p),
        torch.rand(case.rows, generator=generator, dtype=torch.float64),
    ]


def sample(
    *given: torch.Tensor, tiling: Tiling = DEFAULT_TILING
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernels' token ids and verdicts, on the host."""
    token_ids, is_sound = sample_tokens(*(on_device(tensor) for tensor in given), tiling=tiling)
    return token_ids.cpu(), is_sound.cpu()


def check(given: Arguments, tiling: Tiling = DEFAULT_TILING) -> None:
    """The token is the reference's, or one that it gives a hair's breadth to the side."""
    token_ids, is_sound = sample(*given, tiling=tiling)
    expected, expected_sound = sample_reference(*given)
    assert torch.equal(is_sound, expected_sound)
    for row in (token_ids != expected).nonzero()[:, 0].tolist():
        one = [given[0], *(tensor[row : row + 1] for tensor in given[1:])]
        nearby = set()
        for share in (-1e-6, 0.0, 1e-6):
            for way in (-1e-6, 0.0, 1e-6):
                moved = [*one[:4], one[4] * (1 + share), one[5], (one[6] + way).clamp(1e-9)]
                nearby.add(int(sample_reference(*moved)[0]))
        assert int(token_ids[row]) in nearby, f"row {row}: {nearby}"


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, DTYPES[(number + shift) % 3], id=f"{case.name} {shift}")
        for number, case in enumerate(TEST_CASES)
        for shift in ((0, 1) if case.vocab_size > 1 else (0,))
    ],
)
def test_cases(case: SampleCase, dtype: torch.dtype) -> None:
    check(arguments(case, dtype=dtype))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    vocab_size=st.sampled_from((1, 2, 16, 17, 250)),
    coarse=st.booleans(),
    spread=st.sampled_from((0.0, 0.3, 2.0, 8.0)),
    temperature=st.sampled_from((0.0, 0.2, 1.0, 3.0)),
    top_k=st.sampled_from((0, 0, 1, 3, 14, 100, 249)),
    top_p=st.sampled_from((1e-9, 0.3, 0.9, 0.999, 1.0)),
    min_p=st.sampled_from((0.0, 0.05, 0.7, 1.0)),
    masked=st.sampled_from((0.0, 0.3, 0.95)),
)
def test_equal_to_sorting(
    seed: int,
    vocab_size: int,
    coarse: bool,
    spread: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    masked: float,
) -> None:
    """With ties, with tokens that cannot be chosen, through every way the kernel has."""
    case = SampleCase("", 2, vocab_size, spread, temperature, min(top_k, vocab_size), top_p, min_p)
    logits, *rest = arguments(case, seed)
    if coarse:
        logits = logits.round()
    generator = torch.Generator().manual_seed(seed)
    logits[torch.rand(logits.shape, generator=generator) < masked] = -torch.inf
    check([logits, *rest], SMALL)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    ("spread", "top_k", "top_p"),
    [
        (0.3, 0, 0.95),
        (1.0, 0, 0.6),
        (8.0, 0, 0.9),
        (1.0, 3, 1.0),
        (0.3, 14, 0.9),
        (1.0, 100, 1.0),
        (0.3, 100, 0.9),
        (1.0, 240, 0.1),
    ],
)
def test_every_way_to_a_threshold(spread: float, top_k: int, top_p: float, coarse: bool) -> None:
    """Few blocks or all; candidates that fit at once or after narrowing; one search or two."""
    given = arguments(SampleCase("", 4, 250, spread, 1.0, top_k, top_p), seed=top_k)
    if coarse:
        given[0] = (given[0] * 4).round() / 4
    check(given, SMALL)


def test_every_rows_parameters_are_its_own() -> None:
    """Unlike rows in one launch, alone and in another order: the very same tokens."""
    parts = [arguments(case) for case in TEST_CASES if case.vocab_size == 1000]
    logits = torch.cat([part[0] for part in parts])
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])
    for part, start in zip(parts, starts[:-1].tolist(), strict=True):
        part[1] = part[1] + start
    rest = [torch.cat([part[n][:1] for part in parts]) for n in range(1, 7)]
    together, _ = sample(logits, *rest)
    order = torch.arange(len(together)).flip(0)
    turned, _ = sample(logits, *(tensor[order] for tensor in rest))
    assert torch.equal(turned[order], together)
    for row in range(0, len(together), 3):
        alone, _ = sample(logits, *(tensor[row : row + 1] for tensor in rest))
        assert alone[0] == together[row]
    check([logits, *rest])


@pytest.mark.parametrize("tiling", [SMALL, DEFAULT_TILING], ids=["small", "default"])
@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.1), (60, 0.5), (199, 0.9)])
def test_of_equals_the_lowest_ids_are_kept(top_k: int, top_p: float, tiling: Tiling) -> None:
    """All tokens are as likely: what is kept is the first few, and each of them can be drawn."""
    vocab_size, count = 200, 4
    case = SampleCase("", count, vocab_size, 0.0, 1.0, top_k, top_p)
    rest = arguments(case)
    rest[0] = torch.full_like(rest[0], -3.0)
    rest[6] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    token_ids, is_sound = sample(*rest, tiling=tiling)
    kept = round((top_k or vocab_size) * top_p)
    if top_k == 199:
        kept = 180
    assert is_sound.all()
    expected = ((rest[6] * kept).floor()).long()
    assert torch.equal(token_ids, expected)


def test_broken_rows_are_marked_and_disturb_nobody() -> None:
    case = SampleCase("", 6, 600, top_k=20, top_p=0.9)
    given = arguments(case)
    given[1] = torch.arange(6, dtype=torch.int32)
    given[2][:3] = 0.0
    expected, _ = sample(*given)
    logits = given[0]
    logits[0, 599], logits[1, 3], logits[4] = torch.nan, torch.inf, -torch.inf
    token_ids, is_sound = sample(*given)
    assert is_sound.tolist() == [False, False, True, True, False, True]
    assert token_ids[~is_sound].tolist() == [0, 0, 0]
    assert torch.equal(token_ids[is_sound], expected[is_sound])
    # Minus infinity is no broken logit.
    logits[2, :599] = -torch.inf
    logits[3, 1:] = -torch.inf
    assert sample(*given)[0][2:4].tolist() == [599, 0]


@pytest.mark.parametrize("uniform", [2.0**-53, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("top_k", [0, 100])
def test_the_ends_of_the_noise_draw_tokens_with_a_weight(uniform: float, top_k: int) -> None:
    given = arguments(SampleCase("", 1, 300, top_k=top_k))
    given[0][:] = -torch.inf
    given[0][:, [7, 210]] = 0.0
    given[6][:] = uniform
    assert sample(*given)[0].tolist() == [7 if uniform < 0.5 else 210]


def test_no_rows_and_strided_logits() -> None:
    case = SampleCase("", 3, 300, top_p=0.8)
    logits, *rest = arguments(case)
    token_ids, is_sound = sample(logits, *(tensor[:0] for tensor in rest))
    assert token_ids.shape == is_sound.shape == (0,)
    wide = torch.full((len(logits), 333), torch.nan)
    wide[:, :300] = logits
    expected, _ = sample(logits, *rest)
    assert torch.equal(sample(wide[:, :300], *rest)[0], expected)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, torch.zeros(4, 50, dtype=torch.float64), "logits: expected float16 or bfloat16"),
        (0, torch.zeros(50), r"logits: expected shape \[S, V\], got \[50\]"),
        (0, torch.zeros(50, 4).t(), "a row of the logits: expected a contiguous tensor"),
        (1, torch.zeros(2, dtype=torch.int64), "logits_rows: expected int32, got int64"),
        (2, torch.zeros(3), r"temperatures: expected shape \[2\], got \[3\]"),
        (6, torch.zeros(4, dtype=torch.float64)[::2], "uniforms: expected a contiguous tensor"),
    ],
)
def test_wrong_arguments_are_named(place: int, wrong: torch.Tensor, message: str) -> None:
    given = arguments(SampleCase("", 2, 50))
    given[place] = wrong
    with pytest.raises(ValueError, match=message):
        sample(*given)
