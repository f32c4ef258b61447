"""Arithmetic of the suite: bytes and operations of a workload, floors, shares, idle time.

Pure functions of plain numbers: no torch, no device, nothing measured here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Interval = tuple[float, float]
"""Begin and end of a kernel, in microseconds."""


def kv_token_bytes(*, num_layers: int, num_kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Bytes of the keys and values of one token."""
    return num_layers * 2 * num_kv_heads * head_dim * itemsize


def decode_attention_bytes(
    context_lens: Sequence[int], *, num_heads: int, num_kv_heads: int, head_dim: int, itemsize: int
) -> int:
    """Bytes that one layer's decode attention must move: keys, values, queries, results."""
    kv = sum(context_lens) * 2 * num_kv_heads * head_dim
    return (kv + 2 * len(context_lens) * num_heads * head_dim) * itemsize


def causal_pairs(num_new: int, num_context: int) -> int:
    """Pairs of a query and a key that it sees: the last ``num_new`` of ``num_context`` tokens."""
    return num_new * (num_context - num_new) + num_new * (num_new + 1) // 2


def attention_flops(pairs: int, *, num_heads: int, head_dim: int) -> int:
    """Two products of ``head_dim`` multiply-adds for every pair and head."""
    return 4 * pairs * num_heads * head_dim


def decode_floor_s(
    *, weight_bytes: float, context_tokens: float, token_bytes: int, bytes_per_s: float
) -> float:
    """The least time of a decode step: the weights and all contexts, read once."""
    return (weight_bytes + context_tokens * token_bytes) / bytes_per_s


@dataclass(frozen=True, slots=True)
class Idle:
    """How much of a window no kernel ran."""

    window_us: float
    idle_us: float
    long_idle_us: float
    """The part of it in gaps longer than ``long_gap_us``: the host's doing, not the hardware's."""
    num_kernels: int

    @property
    def share(self) -> float:
        return self.idle_us / self.window_us

    @property
    def long_share(self) -> float:
        return self.long_idle_us / self.window_us


def idle_time(intervals: Iterable[Interval], *, long_gap_us: float = 5.0) -> Idle:
    """Gaps between kernels from the first one's begin to the last one's end.

    Kernels may overlap. *Raises* ``ValueError`` if there is no kernel.
    """
    ordered = sorted(intervals)
    if not ordered:
        raise ValueError("expected at least one kernel, got none")
    begin, reached = ordered[0][0], ordered[0][1]
    idle = long_idle = 0.0
    for start, end in ordered:
        gap = start - reached
        if gap > 0:
            idle += gap
            if gap > long_gap_us:
                long_idle += gap
        reached = max(reached, end)
    return Idle(reached - begin, idle, long_idle, len(ordered))


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Index of the first place where two answers differ, a missing token included; None: equal."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))
