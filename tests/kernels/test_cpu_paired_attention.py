"""Items of many queries multiplied in pairs of bfloat16, before they are merged, in float32."""

from dataclasses import dataclass

import pytest
import torch

from radixserve_kernels.cpu import attending_pairs, compiling
from radixserve_kernels.cpu.attending import MAX_ITEM_KEYS
from radixserve_kernels.cpu.attending_pairs import are_paired
from radixserve_kernels.cpu.machine import Machine, machine
from radixserve_kernels.cpu.numbers import BFLOAT16, FLOAT16, FLOAT32
from radixserve_kernels.paged_attention import cpu
from radixserve_kernels.paged_attention.cpu import PagedAttention, Work
from tests.kernels.decode_rows import Decode, decode, end_of, items, make_room, tokens

pytestmark = pytest.mark.usefixtures("two_threads")

SCALE = 0.2

needs_pairs = pytest.mark.skipif(
    not machine().has_dots, reason="this processor multiplies no pairs of bfloat16"
)


@dataclass(frozen=True, slots=True)
class Partial:
    """What all tokens of one item have of its keys."""

    out: torch.Tensor
    """float32[T, H, D]."""
    lse: torch.Tensor
    """float32[T, H]."""


def item_of(
    num_tokens: int, num_keys: int, *, group: int = 3, head_dim: int = 64, page_size: int = 16
) -> Decode:
    """Behind the last key the pages are NaN."""
    return decode(
        [num_keys] * num_tokens,
        dtype=torch.bfloat16,
        group=group,
        head_dim=head_dim,
        page_size=page_size,
        num_shared=-(-num_keys // page_size),
    )


def attend(case: Decode, first: int = 0, count: int | None = None) -> Partial:
    """An item of tokens [first, first + count) and of the first row's keys, by one thread."""
    num_tokens, num_heads, head_dim = case.query.shape
    count = num_tokens if count is None else count
    work = Work(
        items((0, first, count, 0, case.lengths[0], 0)),
        tokens(*((0, token, 1, 1) for token in range(num_tokens))),
        num_tokens,
        count,
    )
    compiling.match_threads()
    room = make_room(work, num_heads, case.keys.shape[2], head_dim, 1)
    attention = PagedAttention(work, case.table, room, case.keys.shape[1], SCALE)
    attention.run(case.query, case.keys, case.values, torch.empty(case.query.shape).bfloat16())
    assert (end_of(room.scratch) == 255).all(), "written behind the thread's scratch"
    mine = slice(first, first + count)
    return Partial(room.slots[mine].clone(), room.slots_lse[mine].clone())


def item_keys(case: Decode) -> tuple[torch.Tensor, torch.Tensor]:
    """float64[H, keys, D] of keys and of values."""
    length, page_size = case.lengths[0], case.keys.shape[1]
    pages = case.table[0, : -(-length // page_size)].long()
    group = case.query.shape[1] // case.keys.shape[2]
    keys, values = (
        pool[pages].flatten(0, 1)[:length].double().transpose(0, 1).repeat_interleave(group, 0)
        for pool in (case.keys, case.values)
    )
    return keys, values


def check(case: Decode, found: Partial) -> None:
    """A weight is off by 2^-8 of itself at most: w' = w (1 + e). With out = sum w v / sum w,

        sum w' v / sum w' - out = sum w e (v - out) / sum w'

    which is at most 2^-8 sum w |v - out| / sum w', and lse is off by 2^-8. Sums in float32 and a
    polynomial that is off by 3e-6 add their parts.
    """
    keys, values = item_keys(case)
    scores = SCALE * torch.einsum("thd,hkd->thk", case.query.double(), keys)
    weights = scores.softmax(-1)
    out = torch.einsum("thk,hkd->thd", weights, values)
    spread = torch.stack(
        [
            torch.einsum("thk,thkd->thd", weights[one], (values - out[one].unsqueeze(2)).abs())
            for one in (slice(token, token + 1) for token in range(len(out)))
        ]
    ).squeeze(1)
    limit = 2.0**-8 * (1 + 2.0**-7) * spread
    limit += 2e-5 * torch.einsum("thk,hkd->thd", weights, values.abs())
    assert ((found.out - out).abs() <= limit).all()
    assert (found.lse - scores.logsumexp(-1)).abs().max() < 2.0**-8 + 1e-5


@needs_pairs
@pytest.mark.parametrize(
    ("group", "head_dim"), [(3, 64), (7, 128), (4, 80), (2, 32), (6, 96), (5, 20)]
)
@pytest.mark.parametrize("num_keys", [1, 16, 33, 250])
def test_any_head(group: int, head_dim: int, num_keys: int) -> None:
    """One to three vectors of columns at a time, whole and narrow; pairs with and without a
    partner."""
    case = item_of(11, num_keys, group=group, head_dim=head_dim)
    check(case, attend(case))


@needs_pairs
@pytest.mark.parametrize("num_tokens", [4, 5, 6, 11, 16, 22, 27, 32])
def test_any_number_of_queries(num_tokens: int) -> None:
    """One block of them to six, in tiles of one, two and three, the last one whole or not."""
    case = item_of(num_tokens, 47, page_size=3)
    check(case, attend(case))


@needs_pairs
@pytest.mark.parametrize("num_keys", [1, 2, 3, 15, 17, 31, 32, 255, 256])
def test_any_number_of_keys(num_keys: int) -> None:
    case = item_of(6, num_keys, page_size=1)
    check(case, attend(case))


@needs_pairs
def test_a_query_has_the_same_bits_in_any_item() -> None:
    """Whatever block, lane and tile it is in, and whoever else is there."""
    case = item_of(32, MAX_ITEM_KEYS - 3)
    together = attend(case)
    for first, count in ((0, 4), (3, 5), (7, 6), (13, 12), (1, 16), (10, 22)):
        mine = attend(case, first, count)
        assert torch.equal(mine.out, together.out[first : first + count])
        assert torch.equal(mine.lse, together.lse[first : first + count])


@needs_pairs
def test_an_average_of_equal_values_is_that_value() -> None:
    """The weights' sum is that of the rounded ones."""
    case = item_of(16, 37)
    case.values[~case.values.isnan()] = 1.5
    assert (attend(case).out - 1.5).abs().max() < 1e-6


@needs_pairs
def test_weights_are_rounded_to_nearest_even() -> None:
    """Of two keys the second has weight exp(-x): some x for each of 96 queries."""
    case = item_of(32, 2)
    case.query.zero_()
    case.query[..., 5] = torch.linspace(0.01, 40.0, 32 * 6).view(32, 6).bfloat16()
    pages = case.table[0, 0].long()
    case.keys[pages, :2] = 0.0
    case.keys[pages, 1, :, 5] = -1.0
    case.values[pages, :2] = torch.tensor([0.0, 1.0], dtype=torch.bfloat16).view(2, 1, 1)
    weights = (-SCALE * case.query[..., 5].double()).exp()
    rounded = weights.bfloat16().double()
    # Those whose rounding hangs on the exponential's last bits are left out.
    is_clear = (weights * (1 + 1e-5)).bfloat16() == (weights * (1 - 1e-5)).bfloat16()
    assert is_clear.sum() > 180
    expected = (rounded / (1 + rounded)).unsqueeze(-1)
    found = attend(case)
    assert ((found.out - expected).abs() / expected)[is_clear].max() < 1e-6
    assert (found.lse - rounded.log1p())[is_clear].abs().max() < 1e-6


@needs_pairs
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["query", "keys", "values"])
@pytest.mark.parametrize("num_keys", [20, 21])
def test_what_is_not_finite_comes_out_as_without_pairs(
    bad: float, name: str, num_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one query or one key's column: the last key's, whose partner has none in odd numbers."""
    case = item_of(6, num_keys)
    if name == "query":
        case.query[3, 2, 7] = bad
    else:
        last = num_keys - 1
        getattr(case, name)[case.table[0, last // 16].long(), last % 16, 0, 7] = bad
    found = attend(case)
    monkeypatch.setattr(cpu, "are_paired", lambda *_: False)
    expected = attend(case)
    assert not expected.out.isfinite().all()
    for mine, others in ((found.out, expected.out), (found.lse, expected.lse)):
        assert torch.equal(mine.isnan(), others.isnan())
        assert torch.equal(mine.isposinf(), others.isposinf())
        assert torch.equal(mine.isneginf(), others.isneginf())


@needs_pairs
def test_scores_of_minus_infinity_have_no_weight() -> None:
    case = item_of(6, 40)
    case.query.abs_()
    case.keys[case.table[0, 1].long()] = -torch.inf
    keys, values = item_keys(case)
    left = [*range(16), *range(32, 40)]
    scores = SCALE * torch.einsum("thd,hkd->thk", case.query.double(), keys[:, left])
    out = torch.einsum("thk,hkd->thd", scores.softmax(-1), values[:, left])
    assert (attend(case).out - out).abs().max() < 2.0**-7


@needs_pairs
@pytest.mark.parametrize("size", [1e3, 1e8, 1e18])
def test_huge_scores_overflow_no_sooner(size: float) -> None:
    case = item_of(6, 40)
    case.query.mul_(size)
    keys, values = item_keys(case)
    scores = SCALE * torch.einsum("thd,hkd->thk", case.query.double(), keys)
    out = torch.einsum("thk,hkd->thd", scores.softmax(-1), values)
    assert (attend(case).out - out).abs().max() < 2e-2


def test_who_multiplies_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending_pairs, "machine", lambda: Machine(16, True))
    assert are_paired(BFLOAT16, 64)
    assert not are_paired(BFLOAT16, 63), "the last number's partner is the next head's"
    assert not are_paired(FLOAT16, 64)
    assert not are_paired(FLOAT32, 64)
    monkeypatch.setattr(attending_pairs, "machine", lambda: Machine(16, False))
    assert not are_paired(BFLOAT16, 64)
