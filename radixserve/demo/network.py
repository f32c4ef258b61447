"""The demo model as it is trained: a Qwen3 in plain torch, with its products joined.

Computes what transformers' ``Qwen3ForCausalLM`` computes (a test compares the logits);
``export.py`` gives the weights their usual names. It differs in what training does not need and in
what makes it faster: query, key and value are one product, gate and up another, the output product
takes only the positions that somebody asks for, and there is no KV cache.

Weights are kept in float32 and products are computed in the type of ``Network.compute_dtype``.
Knows no text, no loss and no optimizer.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from radixserve.demo.attention import causal_attention


@dataclass(frozen=True, slots=True)
class Shape:
    """What makes one network differ from another. *Raises* ``ValueError`` for what cannot be."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 640
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 64
    rope_theta: float = 1_000_000.0
    """Qwen3's own: nearly half of a head's pairs hardly turn within 2,048 positions, and look
    things up by what they are, not by where. At 10,000 a sixth of them would."""
    max_positions: int = 2048
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} heads cannot share {self.num_kv_heads} KV heads evenly; "
                "give a divisor"
            )

    @property
    def num_parameters(self) -> int:
        """All weights; the embedding counts once, as the output product shares it."""
        attention = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.hidden_size
        mlp = 3 * self.intermediate_size * self.hidden_size
        norms = 2 * self.hidden_size + 2 * self.head_dim
        layers = self.num_layers * (attention + mlp + norms)
        return self.vocab_size * self.hidden_size + layers + self.hidden_size

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rms_norm(values: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale the last axis to a root mean square of 1, then by ``weight``; in ``values``' type."""
    wide = values.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (scaled * weight).to(values.dtype)


def rotation(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary embeddings, float32[length, head_dim] each."""
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.arange(length, dtype=torch.float32)[:, None] / shape.rope_theta**half
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of ``values`` [B, heads, T, head_dim], pairs half a head apart."""
    low, high = values.float().chunk(2, -1)
    turned = torch.cat((-high, low), -1)
    return (values * cos + turned * sin).to(values.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of scaled queries, [B, heads, T, head_dim], with fewer KV heads or not."""
    if query.device.type != "cpu":
        gqa = query.shape[1] != key.shape[1]
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=1.0, enable_gqa=gqa
        )
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    flat = (part.reshape(-1, *part.shape[2:]) for part in (query, key, value))
    return causal_attention(*flat).view(query.shape)


class Layer(nn.Module):
    """Attention and gated MLP, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.head_dim * shape.num_heads
        kv_width = shape.head_dim * shape.num_kv_heads
        self.attention_norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.qkv = nn.Parameter(torch.empty(width + 2 * kv_width, shape.hidden_size))
        self.q_norm = nn.Parameter(torch.ones(shape.head_dim))
        self.k_norm = nn.Parameter(torch.ones(shape.head_dim))
        self.output = nn.Parameter(torch.empty(shape.hidden_size, width))
        self.mlp_norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.gate_up = nn.Parameter(torch.empty(2 * shape.intermediate_size, shape.hidden_size))
        self.down = nn.Parameter(torch.empty(shape.hidden_size, shape.intermediate_size))

    def forward(self, stream: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The stream [B, T, hidden_size] behind this layer."""
        shape = self.shape
        rows, length, _ = stream.shape
        dtype = stream.dtype
        normed = rms_norm(stream, self.attention_norm, shape.norm_eps)
        joined = functional.linear(normed, self.qkv.to(dtype))
        # [B, T, heads, head_dim] -> [B, heads, T, head_dim]
        heads = joined.view(rows, length, -1, shape.head_dim).transpose(1, 2)
        counts = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
        query, key, value = torch.split(heads, counts, dim=1)
        # The scale goes into the query's norm: a power of two for heads of 64.
        scale = self.q_norm * shape.head_dim**-0.5
        query = rotate(rms_norm(query, scale, shape.norm_eps), cos, sin)
        key = rotate(rms_norm(key, self.k_norm, shape.norm_eps), cos, sin)
        attended = attend(query, key, value)
        # [B, heads, T, head_dim] -> [B, T, heads * head_dim]
        attended = attended.transpose(1, 2).reshape(rows, length, -1)
        stream = stream + functional.linear(attended, self.output.to(dtype))
        normed = rms_norm(stream, self.mlp_norm, shape.norm_eps)
        gate, up = functional.linear(normed, self.gate_up.to(dtype)).chunk(2, -1)
        return stream + functional.linear(functional.silu(gate) * up, self.down.to(dtype))


LayerCall = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From a stream, cosines and sines to the stream behind a layer."""


class Network(nn.Module):
    """The whole model. ``compute_dtype`` may be changed at any time."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.compute_dtype = torch.float32
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.hidden_size))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        cos, sin = rotation(shape, shape.max_positions)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Draw the weights. What adds to the stream begins at zero: every layer is the identity."""
        random = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.embedding, std=0.02, generator=random)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            for weight in (layer.qkv, layer.gate_up):
                std = 1 / math.sqrt(weight.shape[1])
                nn.init.normal_(weight, std=std, generator=random)
            for weight in (layer.output, layer.down):
                nn.init.zeros_(weight)

    def hidden(self, ids: Tensor, layers: Iterable[LayerCall] | None = None) -> Tensor:
        """The stream behind the last norm, [B, T, hidden_size]; ``ids``: int64[B, T].

        ``layers``: what to call in place of the layers, such as their compiled forms.
        """
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        stream = functional.embedding(ids, self.embedding).to(self.compute_dtype)
        for layer in self.layers if layers is None else layers:
            stream = layer(stream, cos, sin)
        return rms_norm(stream, self.norm, self.shape.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token, [..., vocab_size], of such streams."""
        return functional.linear(hidden, self.embedding.to(hidden.dtype))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, T, vocab_size] of every position. *Cost*: use ``hidden`` for some of them."""
        return self.logits(self.hidden(ids))
