"""One step's work on a device, as the launches take it.

Knows tensors and their shapes; neither how work is planned nor how it is launched.
"""

from dataclasses import dataclass, field

import torch

from radixserve_kernels.checks import check_contiguous, check_dtype, check_place, check_shape
from radixserve_kernels.paged_attention.items import ITEM_FIELDS, MERGE_FIELDS

SHORT, TALL, MERGE = 0, 1, 2
"""Indices into ``DeviceWork.counts``."""


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """``work.Work`` on a device, with room for its partial results.

    The item and merge tensors may be longer than ``counts`` says: only so many are read. Layers
    that run one after the other share the room.
    """

    counts: torch.Tensor
    """int32[3]: short items, tall items, merges."""
    short_items: torch.Tensor
    """int32[>= counts[0], ITEM_FIELDS]."""
    tall_items: torch.Tensor
    """int32[>= counts[1], ITEM_FIELDS]; not longer by much unless ``is_static``, since each gets
    programs of its own."""
    merges: torch.Tensor
    """int32[>= counts[2], MERGE_FIELDS]."""
    first_slots: torch.Tensor
    """int32[>= T]: where each token's partial results begin."""
    partials: torch.Tensor
    """float32[slots, num_heads, head_dim]."""
    partial_lse: torch.Tensor
    """float32[slots, num_heads], to the base 2."""
    is_static: bool = field(default=False, kw_only=True)
    """Whether the tensors are those of many steps, long enough for any of them: then programs go
    through tall items as they do through short ones, as many as ``counts`` says."""
    has_levels: bool = field(default=False, kw_only=True)
    """Whether there may be items of levels, whose queries are of several rows."""


def new_partials(
    num_slots: int, num_heads: int, head_dim: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uninitialised room for so many partial results: ``DeviceWork``'s last two tensors."""
    return (
        torch.empty(num_slots, num_heads, head_dim, dtype=torch.float32, device=device),
        torch.empty(num_slots, num_heads, dtype=torch.float32, device=device),
    )


def partial_bytes(num_heads: int, head_dim: int) -> int:
    """Bytes of one partial slot."""
    return 4 * num_heads * (head_dim + 1)


def check_work(work: DeviceWork, query: torch.Tensor) -> None:
    """Whether the tensors' shapes are right for this query. *Raises* ``ValueError``."""
    num_tokens, num_heads, head_dim = query.shape
    items = (work.short_items, work.tall_items)
    check_shape("work.counts", work.counts, (3,))
    check_shape("work.short_items", work.short_items, ("N", ITEM_FIELDS))
    check_shape("work.tall_items", work.tall_items, ("N", ITEM_FIELDS))
    check_shape("work.merges", work.merges, ("N", MERGE_FIELDS))
    check_shape("work.first_slots", work.first_slots, ("T",))
    check_shape("work.partials", work.partials, ("slots", num_heads, head_dim))
    check_shape("work.partial_lse", work.partial_lse, (len(work.partials), num_heads))
    if len(work.first_slots) < num_tokens:
        raise ValueError(
            f"work.first_slots: expected one of each of {num_tokens} tokens, got "
            f"{len(work.first_slots)}"
        )
    for tensor in (work.counts, *items, work.merges, work.first_slots):
        check_dtype("work", tensor, (torch.int32,))
        check_contiguous("work", tensor)
    for tensor in (work.partials, work.partial_lse):
        check_dtype("work's room", tensor, (torch.float32,))
        check_contiguous("work's room", tensor)
    check_place(query=query, work=work.counts, room=work.partials)
