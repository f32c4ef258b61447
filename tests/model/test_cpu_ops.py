"""The compiled layer operations, against torch's: one by one, and through whole tiny models."""

from pathlib import Path

import numba
import pytest
import torch

from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.cpu_ops import CpuOps, TableRotation
from radixserve.model.loading import load_model
from radixserve.model.ops import HeadShape, LayerOps, Norm
from radixserve.model.rope import RopeTable
from radixserve.model.rope_parameters import RopeParameters
from radixserve.model.torch_ops import TorchOps
from radixserve_kernels.cpu import compiling
from tests.support.batches import DenseAttention, make_batch, make_kv
from tests.support.checkpoints import load_reference, make_checkpoint

CPU = torch.device("cpu")
PAGE_SIZE = 4
LENGTHS = (1, 5, 33)
SHAPE = HeadShape(num_heads=3, num_kv_heads=1, head_dim=16)


def token_ids() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 320, (n,), generator=generator).tolist() for n in LENGTHS]


def make_model(directory: Path, dtype: torch.dtype) -> CausalLM:
    return load_model(directory, ModelConfig.from_dir(directory), dtype=dtype, device=CPU)


@torch.inference_mode()
def forward(model: CausalLM, ops: LayerOps) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the keys and values of all layers in one tensor."""
    batch, num_pages = make_batch(token_ids(), page_size=PAGE_SIZE)
    shape = model.attention_shape(PAGE_SIZE)
    kv = make_kv(model.config.num_layers, num_pages, shape, dtype=model.dtype)
    logits = model.forward(batch, kv, DenseAttention(shape), ops)
    return logits, torch.stack([tensor for layer in kv for tensor in layer])


@pytest.mark.parametrize("kind", ["llama", "qwen3", "llama_yarn"])
def test_logits_equal_transformers(kind: str, tmp_path: Path) -> None:
    """With and without norms of the heads, and with scaled rotations."""
    directory = make_checkpoint(kind, tmp_path, seed=6)
    ours, _ = forward(make_model(directory, torch.float32), CpuOps())
    reference = load_reference(directory)
    with torch.inference_mode():
        theirs = torch.cat([reference(torch.tensor([ids])).logits[0] for ids in token_ids()])
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_model_computes_the_same_in_float32(kind: str, tmp_path: Path) -> None:
    model = make_model(make_checkpoint(kind, tmp_path, seed=6), torch.float32)
    logits, kv = forward(model, CpuOps())
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_in_half_precision_is_as_close_to_float32_as_with_torch(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    directory = make_checkpoint("qwen3", tmp_path, seed=6)
    exact, _ = forward(make_model(directory, torch.float32), TorchOps())
    model = make_model(directory, dtype)
    ours, theirs = forward(model, CpuOps())[0], forward(model, TorchOps())[0]
    assert ours.dtype == dtype
    assert float((ours.float() - exact).norm()) <= 2 * float((theirs.float() - exact).norm())


@torch.inference_mode()
def test_positions_choose_the_angles_of_the_models_own_table() -> None:
    """Far apart and not in order, so that no position can be taken for a token's number."""
    table = RopeTable(
        RopeParameters(rope_type="default", theta=100.0),
        SHAPE.head_dim,
        1000,
        dtype=torch.float32,
        device=CPU,
    )
    generator = torch.Generator().manual_seed(8)
    layers = [torch.randn(4, 5 * 16, generator=generator) for _ in range(2)]
    norms = [Norm(torch.randn(4, 16, generator=generator) + 1.0, 1e-6) for _ in range(2)]
    positions, slots = torch.tensor([999, 0, 512, 37]), torch.tensor([2, 7, 0, 5])
    found = []
    both: tuple[LayerOps, ...] = (TorchOps(), CpuOps())
    for ops in both:
        rotation = ops.rotation(table, positions)
        pages = torch.zeros(2, 2, 2, 4, 1, 16)
        # Two layers with their own weights and pages; the second is not checked again.
        queries = [
            ops.rotate_and_store(qkv, SHAPE, norm, rotation, keys, values, slots)
            for qkv, norm, (keys, values) in zip(layers, norms, pages, strict=True)
        ]
        found.append((torch.stack(queries), pages))
    (expected_query, expected_pages), (query, pages) = found
    torch.testing.assert_close(query, expected_query, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pages, expected_pages, rtol=1e-5, atol=1e-5)


def test_the_first_layer_of_a_step_is_checked() -> None:
    rotation = TableRotation(torch.zeros(9, 16), torch.zeros(4).long())
    keys, values = torch.zeros(2, 2, 4, 1, 16)
    arguments = (SHAPE, None, rotation, keys, values)
    ops = CpuOps()
    for _try in range(2):
        with pytest.raises(ValueError, match=r"slots: expected shape \[4\], got \[3\]"):
            ops.rotate_and_store(torch.zeros(4, 80), *arguments, torch.arange(3))
    assert rotation.step is None
    query = ops.rotate_and_store(torch.zeros(4, 80), *arguments, torch.arange(4))
    assert query.shape == (4, 3, 16)
    assert rotation.step is not None


def test_the_first_norm_of_a_step_is_checked() -> None:
    with pytest.raises(ValueError, match=r"weight: expected shape \[8\], got \[7\]"):
        CpuOps().rms_norm(torch.zeros(4, 8), Norm(torch.ones(7), 1e-6))


def test_kernels_use_as_many_threads_as_torch() -> None:
    table = RopeTable(
        RopeParameters(rope_type="default", theta=100.0), 16, 8, dtype=torch.float32, device=CPU
    )
    before = torch.get_num_threads()
    try:
        for wanted in (1, 2):
            torch.set_num_threads(wanted)
            CpuOps().rotation(table, torch.zeros(1).long())
            assert numba.get_num_threads() == min(wanted, numba.config.NUMBA_NUM_THREADS)
    finally:
        torch.set_num_threads(before)
        compiling.match_threads()
