"""Our logits against transformers', on tiny random checkpoints, in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch

from radixserve.attention.cpu_backend import CpuAttention
from radixserve.model.config import ModelConfig
from radixserve.model.layout import count_parameters, weight_bytes
from radixserve.model.loading import load_model
from radixserve.model.torch_ops import TorchOps
from tests.support.batches import DenseAttention, make_batch, make_kv
from tests.support.checkpoints import KINDS, load_reference, make_checkpoint

RELATIVE_ERROR = 1e-4
LENGTHS = (1, 7, 16, 33, 120)
CPU = torch.device("cpu")

# name: kind and what the checkpoint has that the kind has not
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in KINDS},
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("llama", {"head_dim": 24}),
    "llama-no-groups": ("llama", {"num_key_value_heads": 4}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama-one-layer": ("llama", {"num_hidden_layers": 1}),
    "mistral-derived-head-dim": ("mistral", {"head_dim": None}),
    "mistral-window": ("mistral", {"sliding_window": 4096}),
    "qwen2-untied": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3-biases": ("qwen3", {"attention_bias": True, "tie_word_embeddings": False}),
    "yarn-attention-factor": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 1024,
                "attention_factor": 0.9,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            }
        },
    ),
    "yarn-mscale": (
        "qwen3",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 1024,
                "mscale": 1.0,
                "mscale_all_dim": 0.5,
                "truncate": False,
            }
        },
    ),
}


def prompts(seed: int, lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 320, (n,), generator=generator).tolist() for n in lengths]


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.inference_mode()
def our_logits(directory: Path, token_ids: list[list[int]], page_size: int = 8) -> torch.Tensor:
    model = load_model(directory, ModelConfig.from_dir(directory), dtype=torch.float32, device=CPU)
    shape = model.attention_shape(page_size)
    batch, num_pages = make_batch(token_ids, page_size=page_size)
    attention = DenseAttention(shape)
    logits = model.forward(
        batch, make_kv(model.config.num_layers, num_pages, shape), attention, TorchOps()
    )
    assert attention.num_plans == 1
    return logits


@torch.inference_mode()
def their_logits(directory: Path, token_ids: list[list[int]]) -> torch.Tensor:
    reference = load_reference(directory)
    return torch.cat([reference(torch.tensor([ids])).logits[0] for ids in token_ids])


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, tmp_path: Path) -> None:
    kind, overrides = CASES[case]
    directory = make_checkpoint(kind, tmp_path, seed=3, **overrides)
    token_ids = prompts(4)
    ours, theirs = our_logits(directory, token_ids), their_logits(directory, token_ids)
    assert ours.shape == (sum(LENGTHS), 320)
    assert relative_error(ours, theirs) < RELATIVE_ERROR
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("kind", ["llama3_rope", "llama_yarn", "llama_linear", "llama_dynamic"])
def test_scaled_rope_matters_and_holds_to_the_end_of_the_context(kind: str, tmp_path: Path) -> None:
    directory = make_checkpoint(
        kind, tmp_path / kind, max_position_embeddings=1024, num_hidden_layers=1
    )
    plain = make_checkpoint(
        "llama", tmp_path / "plain", max_position_embeddings=1024, num_hidden_layers=1
    )
    token_ids = prompts(5, (1024,))
    ours, theirs = our_logits(directory, token_ids), their_logits(directory, token_ids)
    assert relative_error(ours, theirs) < RELATIVE_ERROR
    unscaled = our_logits(plain, token_ids)
    # Within its length dynamic scaling changes nothing; the others change everything.
    assert (relative_error(ours, unscaled) < RELATIVE_ERROR) == (kind == "llama_dynamic")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_sharded_checkpoint_equals_single_file(kind: str, tmp_path: Path) -> None:
    token_ids = prompts(6, (20,))
    single = make_checkpoint(kind, tmp_path / "single", seed=1)
    sharded = make_checkpoint(kind, tmp_path / "sharded", seed=1, max_shard_size="50KB")
    assert (single / "model.safetensors").is_file()
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert torch.equal(our_logits(single, token_ids), our_logits(sharded, token_ids))


@torch.inference_mode()
@pytest.mark.parametrize("case", ["llama", "llama-one-kv-head", "mistral", "qwen2", "qwen3"])
def test_logits_equal_transformers_with_the_cpu_backend(case: str, tmp_path: Path) -> None:
    kind, overrides = CASES[case]
    directory = make_checkpoint(kind, tmp_path, seed=3, **overrides)
    model = load_model(directory, ModelConfig.from_dir(directory), dtype=torch.float32, device=CPU)
    shape = model.attention_shape(16)
    token_ids = prompts(4)
    batch, num_pages = make_batch(token_ids, page_size=16)
    kv = make_kv(model.config.num_layers, num_pages, shape)
    ours = model.forward(batch, kv, CpuAttention(shape), TorchOps())
    assert relative_error(ours, their_logits(directory, token_ids)) < RELATIVE_ERROR


@torch.inference_mode()
def test_chunks_and_decode_steps_equal_one_pass(tmp_path: Path) -> None:
    directory = make_checkpoint("qwen3", tmp_path, seed=2)
    model = load_model(directory, ModelConfig.from_dir(directory), dtype=torch.float32, device=CPU)
    shape = model.attention_shape(4)
    attention = DenseAttention(shape)
    long, short = prompts(7, (50, 9))
    pages = [[9, 2, 11, 5, 1, 13, 3, 8, 6, 15, 4, 14, 10], [12, 16, 7]]
    whole, num_pages = make_batch([long, short], page_size=4, pages=pages)
    expected = model.forward(whole, make_kv(3, num_pages, shape), attention, TorchOps())

    kv = make_kv(3, num_pages, shape)
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    # Which tokens of which row each step runs: chunks, then one token, then one row alone.
    for step in ({0: (0, 17), 1: (0, 5)}, {0: (17, 18), 1: (5, 9)}, {0: (18, 50)}):
        batch, _ = make_batch(
            [(long, short)[row][begin:end] for row, (begin, end) in step.items()],
            page_size=4,
            starts=[begin for begin, _ in step.values()],
            pages=[pages[row] for row in step],
        )
        logits = model.forward(batch, kv, attention, TorchOps())
        for index, row in enumerate(step):
            begin, end = batch.query_start_host[index : index + 2]
            found[row].append(logits[begin:end])
    assert relative_error(torch.cat(found[0] + found[1]), expected) < 1e-5


@torch.inference_mode()
def test_only_the_wanted_rows_get_logits(tmp_path: Path) -> None:
    directory = make_checkpoint("llama", tmp_path)
    model = load_model(directory, ModelConfig.from_dir(directory), dtype=torch.float32, device=CPU)
    shape = model.attention_shape(8)
    token_ids = prompts(8, (5, 12, 3))
    attention = DenseAttention(shape)
    everything, num_pages = make_batch(token_ids, page_size=8)
    all_logits = model.forward(everything, make_kv(2, num_pages, shape), attention, TorchOps())
    last_only, _ = make_batch(token_ids, page_size=8, all_logits=False)
    last_logits = model.forward(last_only, make_kv(2, num_pages, shape), attention, TorchOps())
    assert last_logits.shape == (3, 320)
    assert relative_error(last_logits, all_logits[[4, 16, 19]]) < 1e-5


@torch.inference_mode()
def test_a_step_inside_a_prompt_wants_no_logits_but_fills_every_page(tmp_path: Path) -> None:
    directory = make_checkpoint("llama", tmp_path)
    model = load_model(directory, ModelConfig.from_dir(directory), dtype=torch.float32, device=CPU)
    shape = model.attention_shape(8)
    batch, num_pages = make_batch(prompts(8, (16,)), page_size=8)
    none = torch.empty(0, dtype=torch.int64)
    silent = type(batch)(
        **{name: getattr(batch, name) for name in batch.__slots__} | {"logits_indices": none}
    )
    kv = make_kv(2, num_pages, shape)
    assert model.forward(silent, kv, DenseAttention(shape), TorchOps()).shape == (0, 320)
    for keys, values in kv:
        assert not keys[1:].isnan().any()
        assert not values[1:].isnan().any()


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_bfloat16_is_as_close_as_transformers_bfloat16(kind: str, tmp_path: Path) -> None:
    directory = make_checkpoint(kind, tmp_path, seed=5)
    token_ids = prompts(9, (64,))
    exact = their_logits(directory, token_ids)
    theirs = load_reference(directory).bfloat16()(torch.tensor(token_ids)).logits[0].float()
    model = load_model(directory, ModelConfig.from_dir(directory), dtype=torch.bfloat16, device=CPU)
    assert model.dtype == torch.bfloat16
    shape = model.attention_shape(16)
    batch, num_pages = make_batch(token_ids, page_size=16)
    kv = make_kv(model.config.num_layers, num_pages, shape, dtype=torch.bfloat16)
    ours = model.forward(batch, kv, DenseAttention(shape), TorchOps())
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - exact).norm() <= 2 * (theirs - exact).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_as_transformers_counts_them(kind: str, tmp_path: Path) -> None:
    directory = make_checkpoint(kind, tmp_path)
    config = ModelConfig.from_dir(directory)
    assert count_parameters(config) == load_reference(directory).num_parameters()
    assert weight_bytes(config, 2) == 2 * count_parameters(config)
