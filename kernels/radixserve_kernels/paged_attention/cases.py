"""Shapes and inputs that the tests and the benches of paged attention share.

Inputs are as a step has them: a query that is a view of a fused projection, random pages of which
rows may share their first ones, and NaN in every slot that no row of the batch uses.
"""

from dataclasses import dataclass

import numpy as np
import torch

from radixserve_kernels.paged_attention.device_work import DeviceWork, new_partials
from radixserve_kernels.paged_attention.items import tile_shape
from radixserve_kernels.paged_attention.level_work import LEVEL_FIELDS
from radixserve_kernels.paged_attention.splits import SPLIT_TOKENS
from radixserve_kernels.paged_attention.work import plan_work


@dataclass(frozen=True, slots=True)
class Case:
    """One batch."""

    name: str
    rows: tuple[tuple[int, int], ...]
    """(new tokens, keys) of every row."""
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    page_size: int = 16
    dtype: torch.dtype = torch.bfloat16
    shared_tokens: int = 0
    """Rows whose cached keys reach so far share the whole pages below it."""
    levels: tuple[tuple[int, int, int, int], ...] = ()
    """(first row, end row, first key, end key), outer ones first: whole pages that these rows
    share, and that are read once."""
    soft_cap: float | None = None
    window: int | None = None

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)


HEAD_DIMS = (64, 80, 96, 128, 192, 256)
PAGE_SIZES = (16, 32, 64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _pairwise() -> tuple[Case, ...]:
    """Every pair of head size and page size, of head size and dtype, of page size and dtype."""
    rows = ((1, 37), (1, 290), (20, 75))
    return tuple(
        Case(
            f"head_dim {head_dim}, page_size {page_size}",
            rows,
            num_heads=2,
            num_kv_heads=1,
            head_dim=head_dim,
            page_size=page_size,
            dtype=DTYPES[(i + j) % len(DTYPES)],
        )
        for i, head_dim in enumerate(HEAD_DIMS)
        for j, page_size in enumerate(PAGE_SIZES)
    )


PAIRWISE = _pairwise()

_MIXED = ((1, 1), (5, 900), (1, 256), (70, 70), (1, 257), (2, 18), (1, 600))

CASES = (
    Case("no row", ()),
    Case("rows without new tokens", ((0, 0), (1, 5), (0, 40))),
    Case("one token", ((1, 1),)),
    Case("ragged", _MIXED),
    Case("ragged in float32", _MIXED, head_dim=80, dtype=torch.float32),
    Case("page border", ((1, 16), (1, 17), (16, 16), (17, 33), (3, 17)), dtype=torch.float32),
    Case("pages of 3", ((1, 7), (4, 300), (1, 290)), page_size=3, dtype=torch.float16),
    Case("long decode", ((1, 2_600), (1, 1_030)), num_heads=8, num_kv_heads=1),
    Case("chunk", ((150, 150),), num_heads=2, num_kv_heads=2, page_size=64),
    Case("chunk behind a prefix", ((90, 430),), num_heads=6, num_kv_heads=2),
    Case("suffixes behind a prefix", ((20, 1_100), (64, 700)), num_heads=2, num_kv_heads=1),
    Case("four drafted tokens", ((5, 700), (5, 260), (5, 64)), num_heads=8, num_kv_heads=2),
    Case("shared pages", ((1, 700), (1, 650), (4, 640), (1, 30)), shared_tokens=608),
    Case("group of 7", ((1, 300), (3, 40), (25, 90)), num_heads=14, num_kv_heads=2),
    Case("group of 20", ((1, 300), (3, 40)), num_heads=20, num_kv_heads=1),
    Case("soft cap", _MIXED, soft_cap=2.0),
    Case("soft cap in float32", _MIXED, soft_cap=50.0, dtype=torch.float32),
    Case("window", _MIXED, window=100, dtype=torch.float16),
    Case("window of 1", ((1, 600), (20, 300)), window=1, head_dim=96),
    Case("a level of short tiles", ((1, 300), (2, 290), (1, 259)), levels=((0, 3, 0, 256),)),
    Case(
        "nested levels, an odd head size",
        ((1, 700), (1, 600), (5, 900), (1, 300), (1, 40), (1, 530), (2, 520), (1, 300)),
        head_dim=80,
        dtype=torch.float32,
        levels=((0, 4, 0, 256), (0, 3, 256, 512), (5, 8, 0, 272), (5, 7, 272, 512)),
    ),
    Case(
        "a level of two tall tiles",
        tuple((1, 530 + 3 * row) for row in range(35)),
        num_kv_heads=1,
        levels=((0, 35, 0, 528),),
    ),
    Case(
        "a chunk amid a level",
        ((1, 300), (1, 260), (40, 330), (1, 270), (1, 280), (40, 300), (1, 290)),
        soft_cap=5.0,
        levels=((0, 7, 0, 256),),
    ),
    Case("window and soft cap", _MIXED, window=33, soft_cap=5.0, page_size=64, dtype=torch.float32),
)
"""Small enough for the interpreter."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """A case's tensors."""

    case: Case
    query: torch.Tensor
    """[T, num_heads, head_dim], a view of [T, num_heads + 2 * num_kv_heads, head_dim]."""
    keys: torch.Tensor
    values: torch.Tensor
    page_table: torch.Tensor
    """int32[B, max_pages]; entries past a row's last page name a page of NaN."""
    query_start: torch.Tensor
    context_lens: torch.Tensor

    def work(self, split_tokens: int = SPLIT_TOKENS, *, by_levels: bool = True) -> DeviceWork:
        """The case's work on the device, its room for partial results full of NaN.

        Without ``by_levels`` every row reads its own keys, shared or not.
        """
        case, device = self.case, self.query.device
        levels = np.array(case.levels if by_levels else (), dtype=np.int32)
        work = plan_work(
            self.query_start.cpu().numpy(),
            self.context_lens.cpu().numpy(),
            tile_shape(case.num_heads // case.num_kv_heads),
            split_tokens,
            levels.reshape(-1, LEVEL_FIELDS),
        )
        room = new_partials(work.num_partials, case.num_heads, case.head_dim, device)
        return DeviceWork(
            *(torch.from_numpy(array).to(device) for array in work.arrays),
            *(tensor.fill_(torch.nan) for tensor in room),
            has_levels=work.has_levels,
        )


def make_inputs(case: Case, device: torch.device, seed: int = 0) -> Inputs:
    """Random tensors for a case, the same for the same seed and kind of device."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device).manual_seed(seed)
    num_new = np.array([row[0] for row in case.rows], dtype=np.int32)
    lengths = np.array([row[1] for row in case.rows], dtype=np.int32)
    table, num_pages = _page_table(case, num_new, lengths, rng)

    used = [
        table[row, positions // case.page_size] * case.page_size + positions % case.page_size
        for row, positions in enumerate(map(np.arange, lengths))
    ]
    slots = torch.from_numpy(np.unique(np.concatenate([*used, np.empty(0, np.int64)])))
    slots = slots.to(device, torch.int64)
    heads = (case.num_kv_heads, case.head_dim)
    pool = []
    for _ in range(2):
        flat = torch.full((num_pages * case.page_size, *heads), torch.nan, device=device)
        flat[slots] = torch.randn(len(slots), *heads, device=device, generator=generator)
        pool.append(flat.to(case.dtype).view(num_pages, case.page_size, *heads))
    projected = torch.randn(
        int(num_new.sum()),
        case.num_heads + 2 * case.num_kv_heads,
        case.head_dim,
        device=device,
        generator=generator,
    )
    starts = np.concatenate([[0], np.cumsum(num_new)]).astype(np.int32)
    return Inputs(
        case,
        projected.to(case.dtype)[:, : case.num_heads],
        pool[0],
        pool[1],
        torch.from_numpy(table).to(device),
        torch.from_numpy(starts).to(device),
        torch.from_numpy(lengths).to(device),
    )


def _page_table(
    case: Case,
    num_new: np.typing.NDArray[np.int32],
    lengths: np.typing.NDArray[np.int32],
    rng: np.random.Generator,
) -> tuple[np.typing.NDArray[np.int32], int]:
    """Random pages; page 0 is nobody's."""
    needed = -(-lengths // case.page_size)
    shared = np.minimum(case.shared_tokens, lengths - num_new) // case.page_size
    num_pages = 1 + int(needed.sum())
    ids = iter(1 + rng.permutation(num_pages - 1))
    common = [next(ids) for _ in range(max(shared, default=0))]
    table = np.zeros((len(lengths), max(needed, default=0) + 1), dtype=np.int32)
    for row, (need, keep) in enumerate(zip(needed, shared, strict=True)):
        table[row, :keep] = common[:keep]
        table[row, keep:need] = [next(ids) for _ in range(need - keep)]
    for first_row, end_row, first_key, end_key in case.levels:
        pages = slice(first_key // case.page_size, end_key // case.page_size)
        table[first_row:end_row, pages] = table[first_row, pages]
    return table, num_pages
