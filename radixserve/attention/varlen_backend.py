"""torch's own paged attention (``torch.nn.attention.varlen``): a second opinion, and a yardstick.

As thin as can be: the interface's tensors are handed on as they are. What torch asks for is checked
when the backend is made: a version whose ``varlen_attn`` takes a ``block_table`` (2.12 and later),
a CUDA device, and, with the FlashAttention 2 that torch brings, pages of a multiple of 256 tokens
(FlashAttention 3, where it was activated, takes any). Decode steps are not captured in graphs:
torch chooses its splits by the longest row of the step.
"""

import inspect
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn import attention as torch_attention

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.cascade import CascadeCosts
from radixserve.errors import ConfigError

PAGE_MULTIPLE = 256
"""Tokens. FlashAttention 2 reads its keys in tiles that must not straddle pages."""

DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class VarlenPlan:
    """One step's sizes."""

    key_start: torch.Tensor
    """int32[B+1]: the sums of the rows' keys before each row."""
    max_new: int
    max_keys: int


class VarlenAttention:
    """``AttentionBackend`` by ``varlen_attn``."""

    name = "varlen"
    cascade_costs: CascadeCosts | None = None

    def __init__(self, shape: AttentionShape, device: torch.device) -> None:
        """*Raises* ``ConfigError`` where torch, the device or the page size does not allow it."""
        if device.type != "cuda":
            raise ConfigError(
                f"attention 'varlen' runs on CUDA GPUs only, got device {device.type!r}; use 'auto'"
            )
        try:
            from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(_too_old()) from error
        if "block_table" not in inspect.signature(varlen_attn).parameters:
            raise ConfigError(_too_old())
        if shape.page_size % PAGE_MULTIPLE != 0 and not has_custom_flash_attention():
            raise ConfigError(
                f"attention 'varlen' needs a page_size that is a multiple of {PAGE_MULTIPLE}, got "
                f"{shape.page_size}; set page_size to {PAGE_MULTIPLE} or use attention 'triton'"
            )
        self._attend = varlen_attn
        self._scale = shape.scale

    def plan(self, batch: ForwardBatch) -> VarlenPlan:
        """*Cost*: two small launches."""
        key_start = torch.zeros_like(batch.query_start)
        torch.cumsum(batch.context_lens, 0, out=key_start[1:])
        starts = batch.query_start_host
        max_new = max((last - first for first, last in pairwise(starts)), default=0)
        return VarlenPlan(key_start, max_new, max(batch.context_lens_host, default=0))

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        batch: ForwardBatch,
        plan: VarlenPlan,
    ) -> torch.Tensor:
        """See ``AttentionBackend.forward``. *Raises* ``ConfigError`` for float32."""
        if query.dtype not in DTYPES:
            raise ConfigError(
                f"attention 'varlen' computes in float16 or bfloat16, got {query.dtype}; set dtype "
                "or use attention 'triton'"
            )
        out = self._attend(
            query,
            keys,
            values,
            batch.query_start,
            plan.key_start,
            plan.max_new,
            plan.max_keys,
            scale=self._scale,
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=batch.context_lens,
            block_table=batch.page_table,
        )
        assert isinstance(out, torch.Tensor), "no auxiliary output was asked for"
        return out.flatten(1)


def has_custom_flash_attention() -> bool:
    """Whether another FlashAttention than torch's own was activated in this process."""
    current = getattr(torch_attention, "current_flash_attention_impl", None)
    return current is not None and current() is not None


def _too_old() -> str:
    return (
        "attention 'varlen' needs a torch whose varlen_attn takes a block_table (2.12 or later), "
        f"got torch {torch.__version__}; use 'triton'"
    )
