"""The layer operations as kernels, against torch's: one by one, and through whole tiny models."""

from pathlib import Path

import pytest
import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.loading import load_model
from radixserve.model.ops import HeadShape, LayerOps, Norm
from radixserve.model.rope import RopeTable
from radixserve.model.rope_parameters import RopeParameters
from radixserve.model.torch_ops import TorchOps
from radixserve.model.triton_ops import TableRotation, TritonOps
from radixserve_kernels import target
from tests.support.batches import DenseAttention, make_batch, make_kv
from tests.support.checkpoints import make_checkpoint

DEVICE = torch.device("cpu" if target.INTERPRETED else "cuda")
PAGE_SIZE = 4
LENGTHS = (1, 5, 9)


def make_model(kind: str, directory: Path, dtype: torch.dtype) -> CausalLM:
    path = make_checkpoint(kind, directory, seed=6, num_hidden_layers=2)
    return load_model(path, ModelConfig.from_dir(path), dtype=dtype, device=DEVICE)


def batch_of(model: CausalLM) -> tuple[ForwardBatch, int, AttentionShape]:
    generator = torch.Generator().manual_seed(7)
    ids = [torch.randint(0, 320, (n,), generator=generator).tolist() for n in LENGTHS]
    batch, num_pages = make_batch(ids, page_size=PAGE_SIZE)
    return batch, num_pages, model.attention_shape(PAGE_SIZE)


@torch.inference_mode()
def forward(model: CausalLM, ops: LayerOps) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the keys and values of all layers in one tensor."""
    # Whatever the test's own attention makes is made where the kernels run.
    with torch.device(DEVICE):
        batch, num_pages, shape = batch_of(model)
        kv = make_kv(model.config.num_layers, num_pages, shape, dtype=model.dtype)
        logits = model.forward(batch, kv, DenseAttention(shape), ops)
    return logits, torch.stack([tensor for layer in kv for tensor in layer])


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_model_computes_the_same_in_float32(kind: str, tmp_path: Path) -> None:
    model = make_model(kind, tmp_path, torch.float32)
    logits, kv = forward(model, TritonOps())
    expected, expected_kv = forward(model, TorchOps())
    assert logits.shape == (sum(LENGTHS), 320)
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5
    # Both wrote the same slots, and left the rest NaN.
    written = ~expected_kv.isnan()
    assert torch.equal(written, ~kv.isnan())
    assert written.any()
    assert not written.all()
    difference = (kv - expected_kv)[written].abs().max()
    assert float(difference / expected_kv[written].abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_model_in_bfloat16_is_as_close_to_float32_as_with_torch(
    kind: str, tmp_path: Path
) -> None:
    exact, _ = forward(make_model(kind, tmp_path / "exact", torch.float32), TorchOps())
    model = make_model(kind, tmp_path / "rounded", torch.bfloat16)
    ours, theirs = forward(model, TritonOps())[0], forward(model, TorchOps())[0]
    assert ours.dtype == torch.bfloat16
    assert float((ours.float() - exact).norm()) <= 2 * float((theirs.float() - exact).norm())


@torch.inference_mode()
def test_positions_choose_the_angles_of_the_models_own_table() -> None:
    """Far apart and not in order, so that no position can be taken for a token's number."""
    shape = HeadShape(num_heads=3, num_kv_heads=1, head_dim=16)
    table = RopeTable(
        RopeParameters(rope_type="default", theta=100.0),
        shape.head_dim,
        1000,
        dtype=torch.float32,
        device=DEVICE,
    )
    generator = torch.Generator().manual_seed(8)
    qkv = torch.randn(4, 5 * 16, generator=generator).to(DEVICE)
    norm = Norm((torch.randn(4, 16, generator=generator) + 1.0).to(DEVICE), 1e-6)
    positions = torch.tensor([999, 0, 512, 37], device=DEVICE)
    slots = torch.tensor([2, 7, 0, 5], device=DEVICE)
    found = []
    both: tuple[LayerOps, ...] = (TorchOps(), TritonOps())
    for ops in both:
        rotation = ops.rotation(table, positions)
        pages = torch.zeros(2, 2, 4, 1, 16, device=DEVICE)
        keys, values = pages
        query = ops.rotate_and_store(qkv, shape, norm, rotation, keys, values, slots)
        # The next layer, which is not checked again.
        again = ops.rotate_and_store(qkv, shape, norm, rotation, keys, values, slots)
        assert torch.equal(again, query)
        found.append((query, pages))
    (expected_query, expected_pages), (query, pages) = found
    torch.testing.assert_close(query, expected_query, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pages, expected_pages, rtol=1e-5, atol=1e-5)


def test_the_first_layer_of_a_step_is_checked() -> None:
    shape = HeadShape(num_heads=3, num_kv_heads=1, head_dim=16)
    rotation = TableRotation(
        torch.zeros(9, 16, device=DEVICE), torch.zeros(4, device=DEVICE).long()
    )
    keys, values = torch.zeros(2, 2, 4, 1, 16, device=DEVICE)
    slots = torch.arange(4, device=DEVICE)
    arguments = (shape, None, rotation, keys, values)
    ops = TritonOps()
    for _try in range(2):
        with pytest.raises(ValueError, match=r"slots: expected shape \[4\], got \[3\]"):
            ops.rotate_and_store(torch.zeros(4, 80, device=DEVICE), *arguments, slots[:3])
    assert not rotation.is_checked
    ops.rotate_and_store(torch.zeros(4, 80, device=DEVICE), *arguments, slots)
    assert rotation.is_checked
