"""Which keys meet which queries on a CPU: worked out once per step, so that no layer has to.

The pages that several rows begin with are the batch's cascade (``radixserve/cascade.py``): every
*level* of it is attended by the queries of all its rows, which are a contiguous run of flat tokens
and see all of its keys. What is left of a row is its own.

    row 0  |AAAAAAAAAAAA|BBBBBB|xxx          levels:  A for the tokens of rows 0 1 2, B for rows 0 1
    row 1  |AAAAAAAAAAAA|BBBBBB|xxxx         x, y, z: each row's own
    row 2  |AAAAAAAAAAAA|yy
    row 3  |zzzzzzzzzzzzzzzzzzzz             its last key is its new one, which no level holds

Who computes what:

- *Items* of the compiled kernel (``paged_attention/cpu.py``): rows of one token, and most
  levels. Long runs of keys are cut; how depends on the run's length and nothing else,
  so the result of a row behind no level does not depend on the batch.
- Matrix products: rows of several tokens (*chunks*), one at a time, and levels of very many.

A token behind levels has *partial* results, one of each: those of products in planes, those of
items in slots, and the kernel merges them.

Knows lengths and page tables; knows no keys, no dtype and no model. Everything here is numpy on the
host. *Cost*: a loop over levels and chunks, and some 30 us.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radixserve.attention.base import ForwardBatch
from radixserve_kernels.cpu.attending import MAX_ITEM_KEYS, TOKEN_FIELDS
from radixserve_kernels.paged_attention.cpu import Work
from radixserve_kernels.paged_attention.cpu_kernel import DIRECT, ITEM_FIELDS

IntArray = npt.NDArray[np.int32]

MAX_ITEM_QUERIES = 384
"""A level with up to so many queries a key head is the kernel's, which reads its pages in place.
With more of them the library's products are faster. (2 cores with AVX512-BF16, us a layer behind
1,024 keys, products and the kernel: 48 queries 986/402, 192 1,723/1,311, 384 2,736/2,787, 576
3,797/4,080; when the kernel computed in float32, as it does where there are no pairs.)"""

ITEM_QUERIES = 96
"""So many of them are an item at most: their scores have to stay in a core's cache. (As above, of
384 queries behind 2,048 keys, by 12: 4,742; 48 3,917; 96 3,838; 192 3,702. Chosen for caches
smaller than these.)"""

LONG_LEVEL_KEYS = 2048
"""A shorter level is cut twice as often, so that there is something to do for all threads. Chosen
for machines with more than two cores: on two it costs a tenth."""

MERGED_TOKENS = 8
"""Tokens of which nothing is left to do but to merge their products are as many to an item: chosen,
not measured."""

_NO_TOKENS = np.empty((0, TOKEN_FIELDS), dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Product:
    """Flat tokens ``[first, last)`` and keys ``[first_key, end_key)`` of a row's page table."""

    first: int
    last: int
    row: int
    first_key: int
    end_key: int
    plane: int
    """Which of the tokens' planes the result goes to; ``DIRECT``: it is the tokens' own."""
    is_causal: bool
    """A chunk, whose own new keys come last. Else a level: every query sees every key."""

    @property
    def num_keys(self) -> int:
        return self.end_key - self.first_key


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """One step's work, the same for every layer. Products come first: items merge."""

    products: tuple[Product, ...]
    num_planes: int
    work: Work


class _Items:
    """Collects items as columns."""

    def __init__(self) -> None:
        self._parts: list[IntArray] = []

    def add(
        self,
        row: IntArray | int,
        token: IntArray | int,
        num_tokens: IntArray | int,
        first_key: IntArray | int,
        end_key: IntArray | int,
        nth: IntArray | int,
        *,
        count: int,
    ) -> None:
        part = np.zeros((count, ITEM_FIELDS), dtype=np.int32)
        for field, column in enumerate((row, token, num_tokens, first_key, end_key, nth)):
            part[:, field] = column
        self._parts.append(part)

    def all(self) -> IntArray:
        if len(self._parts) == 1:
            return self._parts[0]
        return np.concatenate([np.empty((0, ITEM_FIELDS), dtype=np.int32), *self._parts])


def plan_attention(  # noqa: PLR0915 (three kinds of work share what they know of rows)
    batch: ForwardBatch, page_size: int, group: int
) -> AttentionPlan:
    """Plan one step. ``batch`` is on the CPU; ``group``: query heads a key head."""
    starts: IntArray = batch.query_start.numpy()
    lengths: IntArray = batch.context_lens.numpy()
    num_new = starts[1:] - starts[:-1]
    items = _Items()
    products: list[Product] = []
    # Of each row: where its own keys begin, and what its tokens have of levels.
    begins, planes, slots = np.zeros((3, len(lengths)), dtype=np.int32)
    max_tokens = 1
    for level in batch.cascade.levels:
        rows = slice(level.first_row, level.end_row)
        first, last = batch.query_start_host[rows.start], batch.query_start_host[rows.stop]
        first_key, end_key = level.first_page * page_size, level.end_page * page_size
        if (last - first) * group <= MAX_ITEM_QUERIES:
            is_long = end_key - first_key >= LONG_LEVEL_KEYS
            step = MAX_ITEM_KEYS if is_long else MAX_ITEM_KEYS // 2
            most = min(last - first, max(1, ITEM_QUERIES // group))
            cuts = np.arange(first_key, end_key, step, dtype=np.int32)
            tiles = np.arange(first, last, most, dtype=np.int32)
            # Those that read the same keys run side by side.
            cut, tile = np.divmod(np.arange(len(cuts) * len(tiles), dtype=np.int32), len(tiles))
            items.add(
                rows.start,
                tiles[tile],
                np.minimum(most, last - tiles[tile]),
                cuts[cut],
                np.minimum(cuts[cut] + step, end_key),
                slots[rows.start] + cut,
                count=len(cut),
            )
            slots[rows] += len(cuts)
            max_tokens = max(max_tokens, most)
        else:
            plane = int(planes[rows.start])
            products.append(Product(first, last, rows.start, first_key, end_key, plane, False))
            planes[rows] += 1
        begins[rows] = end_key
    assert (begins < lengths).all(), "a level holds a row's new key"

    is_single = num_new == 1
    for row in np.flatnonzero(num_new > 1).tolist():
        first, last = batch.query_start_host[row : row + 2]
        plane = DIRECT
        if begins[row]:
            plane = int(planes[row])
            planes[row] += 1
            if not slots[row]:
                # No item is the last to leave something: one has to come for the merge alone.
                firsts = np.arange(first, last, MERGED_TOKENS, dtype=np.int32)
                counts = np.minimum(MERGED_TOKENS, last - firsts)
                items.add(row, firsts, counts, 0, 0, 0, count=len(firsts))
                max_tokens = max(max_tokens, MERGED_TOKENS)
        begin, end = int(begins[row]), int(lengths[row])
        products.append(Product(first, last, row, begin, end, plane, True))
    if is_single.all():
        rows_of_one, tokens = np.arange(len(lengths), dtype=np.int32), starts[:-1]
    else:
        rows_of_one = np.flatnonzero(is_single).astype(np.int32)
        tokens = starts[rows_of_one]
    _add_own(items, rows_of_one, tokens, begins, lengths, slots)
    is_partial = begins > 0
    is_partial |= slots > 0
    table = _NO_TOKENS
    num_slots = 0
    if is_partial.any():
        table, num_slots = _tokens(num_new, planes, slots)
    num_planes = int(planes.max(initial=0))
    return AttentionPlan(
        tuple(products), num_planes, Work(items.all(), table, num_slots, max_tokens)
    )


def _add_own(
    items: _Items,
    rows: IntArray,
    tokens: IntArray,
    begins: IntArray,
    lengths: IntArray,
    slots: IntArray,
) -> None:
    """Items of rows of one token for their own keys. *Mutates* ``slots``: of these rows."""
    if not len(rows):
        return
    begin, end, before = begins[rows], lengths[rows], slots[rows]
    own = end - begin
    # No more of them: cut in two, 64 rows of 160 keys took a fifth longer (486 for 399 us a layer,
    # 2 cores), by their merges, and one alone gained less than a tenth by the second thread.
    num_cuts = -(-own // MAX_ITEM_KEYS)
    # Whole tiles of 16 keys but for the last.
    step = -(-own // (num_cuts * 16)) * 16
    num_cuts = -(-own // step)
    # Who is alone writes the result.
    is_direct = (num_cuts == 1) & (begin == 0)
    slots[rows] = before + num_cuts * ~is_direct
    if int(num_cuts.max()) == 1:
        nth = np.where(is_direct, DIRECT, before)
        items.add(rows, tokens, 1, begin, end, nth, count=len(rows))
        return
    which = np.repeat(np.arange(len(rows)), num_cuts)
    number = np.arange(len(which), dtype=np.int32) - (np.cumsum(num_cuts) - num_cuts)[which]
    first = begin[which] + number * step[which]
    last = np.minimum(first + step[which], end[which])
    nth = np.where(is_direct[which], DIRECT, before[which] + number)
    items.add(rows[which], tokens[which], 1, first, last, nth, count=len(which))


def _tokens(num_new: IntArray, planes: IntArray, slots: IntArray) -> tuple[IntArray, int]:
    """The table of tokens, and how many slots there are."""
    rows = np.repeat(np.arange(len(num_new)), num_new)
    per_token = slots[rows]
    ends = np.cumsum(per_token, dtype=np.int32)
    table = np.empty((len(rows), TOKEN_FIELDS), dtype=np.int32)
    table[:, 0] = planes[rows]
    table[:, 1] = ends - per_token
    table[:, 2] = per_token
    table[:, 3] = np.maximum(per_token, 1)
    return table, int(ends[-1])
