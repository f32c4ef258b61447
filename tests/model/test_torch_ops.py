"""The layer operations in torch against float64, and against torch's own at the same dtype."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import Rotation
from radixserve.model.torch_ops import TorchOps
from tests.kernels.judging import DTYPES, assert_as_close_as_torch, assert_same_bits

EPS = 1e-6
OPS = TorchOps()
SHAPE = HeadShape(num_heads=3, num_kv_heads=2, head_dim=16)


def randn(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_norm(*shape: int, dtype: torch.dtype) -> Norm:
    return Norm((randn(*shape, seed=9, dtype=torch.float32) + 1.0).to(dtype), EPS)


def exact_norm(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    wide = x.double()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
    return wide * scale * norm.weight.double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0], ids=str)
@pytest.mark.parametrize("num_rows", [1, 7])
def test_norm(num_rows: int, size: float, dtype: torch.dtype) -> None:
    """Also of rows so small that ``eps`` decides."""
    x = randn(num_rows, 80, seed=1, dtype=torch.float32).mul(size).to(dtype)
    norm, before = make_norm(80, dtype=dtype), x.clone()
    theirs = F.rms_norm(x, (80,), norm.weight, EPS)
    assert_as_close_as_torch(OPS.rms_norm(x, norm), theirs, exact_norm(x, norm))
    assert_same_bits(x, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_of_a_sum_is_that_of_the_rounded_sum(dtype: torch.dtype) -> None:
    hidden, update = randn(5, 80, seed=1, dtype=dtype), randn(5, 80, seed=2, dtype=dtype)
    norm, total = make_norm(80, dtype=dtype), hidden + update
    assert_same_bits(OPS.add_rms_norm(hidden, update, norm), OPS.rms_norm(total, norm))
    assert_same_bits(hidden, total)


def rotated_and_stored(
    qkv: torch.Tensor, norm: Norm | None, rotation: Rotation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, and the pages of keys and values."""
    keys = torch.zeros(3, 4, SHAPE.num_kv_heads, SHAPE.head_dim, dtype=qkv.dtype)
    values = torch.zeros_like(keys)
    slots = torch.arange(11, 11 - len(qkv), -1)
    query = OPS.rotate_and_store(qkv, SHAPE, norm, rotation, keys, values, slots)
    return query, keys, values


def make_rotation(num_tokens: int, dtype: torch.dtype) -> Rotation:
    angle = randn(num_tokens, 1, SHAPE.head_dim // 2, seed=4, dtype=torch.float32)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return Rotation(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_norm", [True, False])
def test_queries_keys_and_values(has_norm: bool, dtype: torch.dtype) -> None:
    qkv = randn(6, 7 * SHAPE.head_dim, seed=3, dtype=dtype)
    norm = make_norm(5, SHAPE.head_dim, dtype=dtype) if has_norm else None
    rotation, before = make_rotation(6, dtype), qkv.clone()
    query, keys, values = rotated_and_stored(qkv, norm, rotation)
    assert_same_bits(qkv, before)

    heads = qkv.view(6, 7, SHAPE.head_dim)
    wide = heads[:, :5].double() if norm is None else exact_norm(heads[:, :5], norm)
    rolled = wide.roll(SHAPE.head_dim // 2, -1)
    exact = wide * rotation.cos.double() + rolled * rotation.sin.double()
    # Rounded behind the norm, its weight, and each product of the rotation.
    step = 2.0 * torch.finfo(dtype).eps * float(wide.abs().max())
    stored = keys.view(12, SHAPE.num_kv_heads, -1).flip(0)[:6]
    for ours, wanted in ((query, exact[:, :3]), (stored, exact[:, 3:])):
        assert ours.dtype == dtype
        error = (ours.double() - wanted).abs()
        assert bool((error <= step).all())
    assert_same_bits(values.view(12, SHAPE.num_kv_heads, -1).flip(0)[:6], heads[:, 5:])
