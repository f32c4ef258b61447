"""The kernel for processors, item by item, against the reference."""

import pytest
import torch

from radixserve_kernels.cpu import compiling
from radixserve_kernels.cpu.attending import MAX_ITEM_KEYS
from radixserve_kernels.paged_attention.cpu import PagedAttention, Work
from radixserve_kernels.paged_attention.cpu_gather import gather_by_head
from tests.kernels.decode_rows import (
    Decode,
    decode,
    error,
    items,
    make_room,
    tokens,
    whole_rows,
)

pytestmark = pytest.mark.usefixtures("two_threads")

LIMITS = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
"""In lower precisions: what rounding the result costs, and nothing else."""


@pytest.mark.parametrize(
    ("dtype", "group", "head_dim"),
    [
        (torch.float32, 2, 40),
        (torch.float16, 5, 20),
        (torch.bfloat16, 4, 80),
        (torch.bfloat16, 7, 128),
    ],
)
@pytest.mark.parametrize("page_size", [1, 3, 16, 24])
def test_ragged_rows(dtype: torch.dtype, group: int, head_dim: int, page_size: int) -> None:
    lengths = [1, 15, 16, 17, 300, 2, 33, 256, 700]
    case = decode(lengths, dtype=dtype, group=group, head_dim=head_dim, page_size=page_size)
    assert error(case.run(), case.expected()) < LIMITS[dtype]


@pytest.mark.parametrize("num_kv_heads", [1, 3, 8])
def test_heads(num_kv_heads: int) -> None:
    case = decode([40, 90], num_kv_heads=num_kv_heads)
    assert error(case.run(), case.expected()) < 2e-6


def test_a_row_gets_the_same_bits_in_any_batch_by_any_threads() -> None:
    lengths = [700, 33, 256, 1, 513, 90]
    case = decode(lengths, dtype=torch.bfloat16, group=4, head_dim=80)
    together = case.run()
    for num_threads in (1, 2):
        assert torch.equal(case.run(num_threads=num_threads), together)
    for row, length in enumerate(lengths):
        mine = slice(row, row + 1)
        alone = Decode(case.query[mine], case.keys, case.values, case.table[mine], [length])
        assert torch.equal(alone.run(), together[mine])


def test_an_item_of_several_tokens_is_read_once_for_all() -> None:
    """Rows 0 to 2 share 96 keys; what else they have is in items of their own."""
    lengths = [100, 130, 97]
    case = decode(lengths, num_shared=6)
    shared = [(0, 0, 3, 0, 64, 0), (0, 0, 3, 64, 96, 1)]
    own = [(row, row, 1, 96, length, 2) for row, length in enumerate(lengths)]
    table = tokens((0, 0, 3, 3), (0, 3, 3, 3), (0, 6, 3, 3))
    out = case.run(Work(items(*shared, *own), table, 9, 3))
    assert error(out, case.expected()) < 2e-6
    # Nobody else's table is looked at.
    case.table[1:, :6] = 0
    work = Work(items(*shared, *own), table, 9, 3)
    assert torch.equal(case.run(work, num_threads=1), out)


@pytest.mark.parametrize(
    ("dtype", "group", "head_dim"), [(torch.float32, 2, 40), (torch.bfloat16, 7, 128)]
)
def test_an_item_of_many_tokens(dtype: torch.dtype, group: int, head_dim: int) -> None:
    """Enough for a block of queries, or several, and for a piece of one."""
    lengths = [260 + 3 * row for row in range(11)]
    case = decode(lengths, dtype=dtype, group=group, head_dim=head_dim, num_shared=16)
    shared = [(0, 0, 11, 0, 101, 0), (0, 0, 11, 101, 256, 1)]
    own = [(row, row, 1, 256, length, 2) for row, length in enumerate(lengths)]
    table = [(0, 3 * row, 3, 3) for row in range(11)]
    work = Work(items(*shared, *own), tokens(*table), 33, 11)
    out = case.run(work)
    assert error(out, case.expected()) < LIMITS[dtype]
    # One's NaN is nobody else's, nor are its scores.
    case.query[3] = torch.nan
    case.query[5] = 1e8 if dtype == torch.float32 else 1e4
    broken = case.run(work, num_threads=1)
    assert broken[3].isnan().all()
    assert broken[5].isfinite().all()
    others = [row for row in range(11) if row not in (3, 5)]
    assert torch.equal(broken[others], out[others])


@pytest.mark.parametrize("num_tokens", [5, 6, 11])
def test_the_largest_item_fits_into_a_threads_scratch(num_tokens: int) -> None:
    """``run`` looks behind it; of 12 queries a key head, 6 tokens', an item is of many."""
    case = decode([260] * num_tokens, num_shared=16)
    own = [(row, row, 1, 256, 260, 1) for row in range(num_tokens)]
    table = [(0, 2 * row, 2, 2) for row in range(num_tokens)]
    shared = (0, 0, num_tokens, 0, MAX_ITEM_KEYS, 0)
    work = Work(items(shared, *own), tokens(*table), 2 * num_tokens, num_tokens)
    assert error(case.run(work, num_threads=1), case.expected()) < 2e-6


def test_planes_are_merged_with_slots_and_alone() -> None:
    """Token 0 has two planes and a slot; of token 1 somebody else has done everything."""
    case = decode([30, 20])
    whole = case.expected()
    made = items((0, 0, 1, 0, 30, 0), (1, 1, 1, 0, 0, 0))
    work = Work(made, tokens((2, 0, 1, 1), (1, 1, 0, 1)), 1, 1)
    room = make_room(work, 4, 2, 40, 2)
    generator = torch.Generator().manual_seed(1)
    partial = torch.randn(room.planes.shape, generator=generator)
    lse = 5 * torch.randn(room.planes_lse.shape, generator=generator)
    room.planes[0], room.planes_lse[0] = partial[0], lse[0]
    room.planes[1, 0], room.planes_lse[1, 0] = partial[1, 0], lse[1, 0]
    compiling.match_threads()
    attention = PagedAttention(work, case.table, room, 16, 0.2)
    for _ in range(2):
        # The next layer's, too.
        out = torch.full(case.query.shape, torch.nan)
        attention.run(case.query, case.keys, case.values, out)
    assert error(out[1], partial[0, 1].double()) < 1e-6
    k = case.keys[case.table[0, :2].long()].flatten(0, 1)[:30].repeat_interleave(2, 1)
    own_lse = (0.2 * torch.einsum("hd,lhd->hl", case.query[0], k)).logsumexp(-1)
    weights = torch.stack([lse[0, 0], lse[1, 0], own_lse]).softmax(0).double()
    parts = torch.stack([partial[0, 0].double(), partial[1, 0].double(), whole[0]])
    assert error(out[0], (weights.unsqueeze(-1) * parts).sum(0)) < 1e-6


@pytest.mark.parametrize("name", ["query", "keys", "values"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(name: str, bad: float) -> None:
    lengths = [40, 300, 17]
    case = decode(lengths, dtype=torch.bfloat16, group=4, head_dim=80)
    sound = case.run()
    if name == "query":
        case.query[1] = bad
    else:
        pages = case.table[1, :2].long()
        getattr(case, name)[pages, 3] = bad
    out = case.run()
    assert not out[1].isfinite().any()
    if name != "values":
        assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], sound[[0, 2]])


@pytest.mark.parametrize("size", [1e3, 1e8, 1e18])
def test_huge_scores_do_not_overflow(size: float) -> None:
    case = decode([300, 40, 513])
    case.query.mul_(size)
    assert error(case.run(), case.expected()) < 1e-2


@pytest.mark.parametrize("group", [2, 14])
def test_keys_without_any_weight_beside_others(group: int) -> None:
    """All scores of the first item are -inf: what it leaves is not looked at."""
    case = decode([300], group=group)
    pages = case.table[0, : MAX_ITEM_KEYS // 16].long()
    case.query[0] = case.query[0].abs()
    case.keys[pages] = -torch.inf
    k = case.keys[case.table[0, :19].long()].flatten(0, 1)[:300]
    v = case.values[case.table[0, :19].long()].flatten(0, 1)[256:300]
    scores = 0.2 * torch.einsum("hd,lhd->hl", case.query[0], k.repeat_interleave(group, 1))
    assert scores[:, :256].isneginf().all()
    weights = scores[:, 256:].softmax(-1)
    expected = torch.einsum("hl,lhd->hd", weights, v.repeat_interleave(group, 1))
    assert error(case.run()[0], expected.double()) < 2e-6


def test_no_row_no_harm() -> None:
    assert decode([]).run(Work(items(), tokens(), 0, 1)).shape == (0, 4, 40)


def test_launchers_say_what_is_wrong() -> None:
    case = decode([20])
    with pytest.raises(ValueError, match="heads side by side"):
        Decode(case.query.transpose(1, 2), *case_rest(case)).run()
    with pytest.raises(TypeError, match=r"dtype torch.float16, got torch.float32"):
        Decode(case.query.half(), *case_rest(case)).run()
    with pytest.raises(ValueError, match="keys: expected a contiguous tensor"):
        Decode(case.query, case.keys.transpose(0, 1), *case_rest(case)[1:]).run()
    with pytest.raises(ValueError, match="page_table: expected int32"):
        Decode(case.query, case.keys, case.values, case.table.long(), case.lengths).run()
    # What would be read or written behind its end.
    for keys, values in (
        (case.keys, case.values[:1]),
        (case.keys[..., :20].contiguous(), case.values[..., :20].contiguous()),
        (case.keys[:, :, :1].expand(-1, -1, 3, -1).contiguous(),) * 2,
    ):
        with pytest.raises(ValueError, match=r"of shape \[num_pages, 16, Hkv, 40\]"):
            Decode(case.query, keys, values, case.table, case.lengths).run()
    work = whole_rows(case.lengths)
    for page_size, num_tokens, message in ((8, 1, r"\[num_pages, 8,"), (16, 0, "out: expected")):
        attention = PagedAttention(work, case.table, make_room(work, 4, 2, 40, 1), page_size, 0.2)
        out = torch.empty(num_tokens, 4, 40)
        with pytest.raises(ValueError, match=message):
            attention.run(case.query, case.keys, case.values, out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("values", "values: expected shape"),
        ("values", "values: expected float32, got float16"),
        ("pages", "pages: expected those of 97 keys, got 6 of 16"),
        ("out_keys", "out_keys: expected shape"),
        ("out_values", "out_values: expected shape"),
    ],
)
def test_what_would_be_gathered_beyond_an_end_is_refused(name: str, message: str) -> None:
    case = decode([101])
    given = {"keys": case.keys, "values": case.values, "pages": case.table[0, :7]}
    given |= {"out_keys": torch.empty(2, 90, 42), "out_values": torch.empty(2, 90, 40)}
    given[name] = given[name].half() if message.endswith("float16") else given[name][:-1]
    with pytest.raises(ValueError, match=message):
        gather_by_head(**given, first=7)


def case_rest(case: Decode) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    return case.keys, case.values, case.table, case.lengths


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("width", [40, 42, 82])
def test_gathered_by_head(page_size: int, width: int) -> None:
    case = decode([101], page_size=page_size)
    first, count = 7, 90
    keys, values = torch.full((2, count, width), torch.nan), torch.full((2, count, 40), torch.nan)
    keys[..., width // 40 * 40 :] = 1.0
    gather_by_head(case.keys, case.values, case.table[0], first, keys, values)
    positions = torch.arange(first, first + count)
    where = case.table[0, positions // page_size].long(), positions % page_size
    for copy in range(width // 40):
        assert torch.equal(keys[..., copy * 40 : copy * 40 + 40], case.keys[where].transpose(0, 1))
    assert (keys[..., width // 40 * 40 :] == 1.0).all()
    assert torch.equal(values, case.values[where].transpose(0, 1))
