"""Decode steps of few rows as one call: every layer's kernels, carried out without Python between.

    a step's tokens ──embedding──▶ | norm | qkv, rotate and store, attend, o, add and norm,
                                   |      | gate_up, silu, down, add and norm     (every layer)
                                                          ──▶ hidden states, normed ──▶ logits

The kernels are those of ``CpuOps``, ``CpuAttention`` and the compiled products, and what they are
given is noted from the very functions that launch them (``radixserve_kernels/cpu/calls.py``): what
a step computes is what the layers compute one by one, to the bit. A list is noted for each number
of rows when it first comes, over buffers that all lists share; from step to step only what
attention's plan says changes in it.

Not thread-safe. Imports numba.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from radixserve.attention.base import ForwardBatch
from radixserve.attention.cpu_backend import PreparedStep
from radixserve.model.layers import DecoderLayer
from radixserve.model.linear import KernelLinear, Linear
from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import RopeTable
from radixserve_kernels.cpu.calls import FIRST_ARGUMENT, Calls
from radixserve_kernels.cpu.compiling import Call, noting
from radixserve_kernels.kv_store.cpu import prepare_kv_store
from radixserve_kernels.rms_norm.cpu import launch_add_rms_norm, launch_rms_norm
from radixserve_kernels.silu_mul.cpu import launch_silu_mul

KVTensors = Sequence[tuple[torch.Tensor, torch.Tensor]]

_LAYERS_FROM = 1
"""The first of the layers' calls."""
_PER_LAYER = 9
_ATTENTION = 2
"""Which of a layer's calls it is."""


def max_decode_rows(layers: Sequence[DecoderLayer]) -> int:
    """Up to how many rows all products of these layers are compiled kernels'."""
    return min(
        linear.kernel_rows if isinstance(linear, KernelLinear) else 0
        for layer in layers
        for linear in (layer.attention.qkv, layer.attention.o, layer.mlp.gate_up, layer.mlp.down)
    )


class DecodeCalls:
    """The decode steps of one model over its KV tensors, of few rows."""

    def __init__(
        self,
        embed_tokens: torch.Tensor,
        layers: Sequence[DecoderLayer],
        norm: Norm,
        lm_head: Linear,
        rope: RopeTable,
        kv: KVTensors,
        *,
        max_rows: int,
        inner_size: int,
    ) -> None:
        """``kv``: as ``CausalLM.forward`` takes them, kept and always the same; ``max_rows``: more
        never come, and no more than ``max_decode_rows`` are taken; ``inner_size``: of the layers'
        feed-forward. *Cost*: buffers for so many rows and their logits."""
        assert len(layers) == len(kv) > 0
        self._layers = layers
        self._norm = norm
        self._lm_head = lm_head
        self._rope = rope
        self._kv = kv
        self._max_rows = rows = min(max_rows, max_decode_rows(layers))
        has_logits = isinstance(lm_head, KernelLinear) and lm_head.kernel_rows >= rows
        # Written to within and without inference mode.
        with torch.inference_mode(False):
            self._buffers = _Buffers(embed_tokens, layers[0].attention.shape, inner_size, rows)
            self._logits = embed_tokens.new_zeros(rows, len(embed_tokens)) if has_logits else None
        # By their bits, since numpy has no bfloat16.
        self._table = embed_tokens.view(torch.int16).numpy()
        self._lists: dict[tuple[int, int], _Noted] = {}

    def run(
        self, batch: ForwardBatch, plan: PreparedStep
    ) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """Hidden states [B, hidden_size] behind the last norm, and logits [B, vocab_size], of a
        batch of one-token rows that all want logits; None if it is another or too large. Logits
        are None where their product is no compiled kernel.

        ``plan``: what ``CpuAttention`` made of the batch. *Mutates* the KV tensors. The result is
        valid until the next call. *Cost*: the kernels' and 20 us; with a number of rows that is new
        some milliseconds more.
        """
        rows = batch.num_rows
        if rows > self._max_rows or batch.num_tokens != rows or len(batch.logits_indices) != rows:
            return None
        if plan.plan.products:
            return None
        at = self._buffers
        at.hidden_bits[:rows] = self._table[batch.input_ids.numpy()]
        at.positions.numpy()[:rows] = batch.positions.numpy()
        at.slots.numpy()[:rows] = batch.slots.numpy()
        # A thread's share is among what was noted.
        key = rows, torch.get_num_threads()
        noted = self._lists.get(key)
        if noted is None:
            noted = self._lists[key] = _Noted(self._note(rows, plan))
        else:
            keys, values = self._kv[0]
            with noting() as calls:
                plan.items.run(at.query[:rows], keys, values, at.attended[:rows])
            noted.attend(calls[0])
        noted.calls.run()
        return at.normed[:rows], None if self._logits is None else self._logits[:rows]

    def _note(self, rows: int, plan: PreparedStep) -> list[Call]:
        """All launches of a step of so many rows, in order."""
        at = self._buffers
        hidden, normed, qkv, update = (
            each[:rows] for each in (at.hidden, at.normed, at.qkv, at.update)
        )
        query, attended, gate_up, gated = (
            each[:rows] for each in (at.query, at.attended, at.gate_up, at.gated)
        )
        layers = self._layers
        following = [*(layer.input_norm for layer in layers[1:]), self._norm]
        with noting() as calls:
            first = layers[0].input_norm
            launch_rms_norm(hidden, first.weight, first.eps, normed)
            for layer, next_norm, (keys, values) in zip(layers, following, self._kv, strict=True):
                attention, mlp = layer.attention, layer.mlp
                _multiply(attention.qkv, normed, qkv)
                head = attention.head_norm
                weight = None if head is None else head.weight
                store = prepare_kv_store(
                    qkv,
                    weight,
                    0.0 if head is None else head.eps,
                    self._rope.angles,
                    at.positions[:rows],
                    keys,
                    values,
                    at.slots[:rows],
                )
                store.store(qkv, weight, keys, values, query)
                plan.items.run(query, keys, values, attended)
                _multiply(attention.o, attended.view(rows, -1), update)
                norm = layer.post_attention_norm
                launch_add_rms_norm(hidden, update, norm.weight, norm.eps, normed)
                _multiply(mlp.gate_up, normed, gate_up)
                launch_silu_mul(gate_up, gated)
                _multiply(mlp.down, gated, update)
                launch_add_rms_norm(hidden, update, next_norm.weight, next_norm.eps, normed)
            assert len(calls) == _LAYERS_FROM + _PER_LAYER * len(layers), len(calls)
            if self._logits is not None:
                _multiply(self._lm_head, normed, self._logits[:rows])
        return calls


class _Buffers:
    """What steps of up to so many rows are computed in."""

    def __init__(
        self, embed_tokens: torch.Tensor, shape: HeadShape, inner_size: int, rows: int
    ) -> None:
        dtype, hidden_size = embed_tokens.dtype, embed_tokens.shape[1]
        num_heads, head_dim = shape.num_heads, shape.head_dim

        def make(*sizes: int) -> torch.Tensor:
            return torch.zeros(rows, *sizes, dtype=dtype)

        self.hidden, self.normed, self.update = (make(hidden_size) for _ in range(3))
        self.hidden_bits = self.hidden.view(torch.int16).numpy()
        self.qkv = make((num_heads + 2 * shape.num_kv_heads) * head_dim)
        self.query, self.attended = (make(num_heads, head_dim) for _ in range(2))
        self.gate_up, self.gated = make(2 * inner_size), make(inner_size)
        self.positions, self.slots = (torch.zeros(rows, dtype=torch.int64) for _ in range(2))


class _Noted:
    """A list of launches, and where in it attention is told of the step."""

    __slots__ = ("_columns", "_integers", "_kernel", "_table", "calls")

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = Calls(calls)
        attention = calls[_LAYERS_FROM + _ATTENTION :: _PER_LAYER]
        self._kernel = attention[0].kernel
        assert all(call.kernel is self._kernel for call in attention)
        table = self.calls.table[_LAYERS_FROM + _ATTENTION :: _PER_LAYER]
        self._integers = int(table[0, 1])
        self._table = table[:, FIRST_ARGUMENT : FIRST_ARGUMENT + self._integers]
        # The layers differ in their keys and values, steps in all else that ever changes.
        is_shared = (self._table == self._table[0]).all(axis=0)
        self._columns: npt.NDArray[np.intp] = np.flatnonzero(is_shared)

    def attend(self, call: Call) -> None:
        """Have every layer attend as the first does in ``call``, to its own keys and values."""
        assert call.kernel is self._kernel
        arguments = np.array(call.arguments[: self._integers], dtype=np.int64)
        self._table[:, self._columns] = arguments[self._columns]


def _multiply(linear: Linear, x: torch.Tensor, out: torch.Tensor) -> None:
    assert isinstance(linear, KernelLinear)
    linear.by_kernel(x, out)
