"""How the demo model's weights are computed, moved, kept and handed out."""

import json
from pathlib import Path
from typing import IO

import pytest
import torch
import transformers
from torch.nn import functional

from radixserve.demo import checkpoint
from radixserve.demo.attention import PIECE, causal_attention
from radixserve.demo.checkpoint import TrainingState, load_state, save_state
from radixserve.demo.export import export
from radixserve.demo.network import Network, Shape
from radixserve.demo.optimizer import BETAS, MOMENTUM, Optimizer, orthogonal
from radixserve.demo.schedule import Plan
from radixserve.errors import CheckpointError
from radixserve.llm import LLM
from radixserve.sampling.params import SamplingParams
from tests.support.tiny_dialogues import tiny_tokenizer

SHAPE = Shape(320, 64, 128, 2, 4, 2, 32)


def randomised(shape: Shape = SHAPE) -> Network:
    """A network none of whose weights is zero or one."""
    network = Network(shape, seed=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=random))
    return network


@pytest.mark.parametrize("length", [1, PIECE, PIECE + 1, 2 * PIECE + 44])
def test_attention_and_its_gradient_are_those_of_torch(length: int) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(3, length, 16, requires_grad=True) for _ in range(3)]
    query, key, value = parts
    wanted = torch.randn(3, length, 16)
    ours = causal_attention(query * 0.25, key, value)
    theirs = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours, parts, wanted),
        torch.autograd.grad(theirs, parts, wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_every_layer_begins_as_the_identity() -> None:
    network = Network(SHAPE)
    ids = torch.arange(20).view(2, 10)
    embedded = network.embedding[ids]
    normed = functional.rms_norm(embedded, (64,), eps=SHAPE.norm_eps)
    torch.testing.assert_close(network.hidden(ids), normed)


def test_the_number_of_parameters_is_counted_right() -> None:
    weights = list(Network(SHAPE).parameters())
    assert sum(weight.numel() for weight in weights) == SHAPE.num_parameters
    # The lead's: 3.9 million.
    assert Shape(2048).num_parameters == 5_050_368


def test_the_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    network = randomised()
    with torch.no_grad():
        for weight in network.parameters():
            # What bfloat16 can hold: then the file loses nothing.
            weight.copy_(weight.bfloat16())
    export(network, tiny_tokenizer(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * SHAPE.num_parameters
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    ids = torch.randint(4, 320, (2, 200), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours = network(ids)
        torch.testing.assert_close(model(ids).logits, ours, atol=1e-4, rtol=1e-4)
    with LLM(str(tmp_path), dtype="float32", num_pages=64) as llm:
        assert llm.info.max_model_len == SHAPE.max_positions
        assert llm.info.sampling_defaults.top_k == 1
        [output] = llm.generate(
            [ids[0].tolist()],
            SamplingParams(temperature=0.0, max_tokens=1, logprobs=5, ignore_eos=True),
        )
    logprobs = ours[0, -1].log_softmax(-1)
    assert output.token_ids == [int(logprobs.argmax())]
    assert output.logprobs is not None
    assert output.logprobs[0].logprob == pytest.approx(float(logprobs.max()), abs=1e-4)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]


def test_orthogonal_moves_all_directions_about_equally() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 96, 32) * torch.logspace(-1, 1, 32)
    for stack in (matrices, matrices.transpose(1, 2)):
        found = orthogonal(stack, dtype=torch.float32)
        singular = torch.linalg.svdvals(found)
        assert 0.6 < singular.min() < singular.max() < 1.3
        left, _, right = torch.linalg.svd(stack, full_matrices=False)
        nearest = left @ right
        cosine = (found * nearest).sum((1, 2)) / (found.norm(dim=(1, 2)) * nearest.norm(dim=(1, 2)))
        assert cosine.min() > 0.97
        rough = orthogonal(stack)
        assert (rough - found).norm() < 0.05 * found.norm()


def test_the_optimizer_multiplies_in_the_type_it_is_told() -> None:
    """Nearly the same weights; float32 for processors that are slow at bfloat16."""
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        network = randomised()
        before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        rates = {"matrix_rate": 0.1, "other_rate": 0.01, "weight_decay": 0.0}
        optimizer = Optimizer(network, **rates, dtype=dtype)
        random = torch.Generator().manual_seed(4)
        for weight in network.parameters():
            weight.grad = torch.randn(weight.shape, generator=random)
        optimizer.step(1.0)
        moved.append(
            {name: weight.detach() - before[name] for name, weight in network.named_parameters()}
        )
    exact, rough = moved
    for name, by in exact.items():
        assert (by - rough[name]).norm() < 0.05 * by.norm(), name
    assert any(not torch.equal(by, rough[name]) for name, by in exact.items())


def test_the_optimizer_follows_its_formulas() -> None:
    network = randomised()
    optimizer = Optimizer(
        network, matrix_rate=0.1, other_rate=0.01, weight_decay=0.2, dtype=torch.bfloat16
    )
    reference = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    others = [name for name in reference if reference[name].ndim == 1 or name == "embedding"]
    adam = torch.optim.AdamW(
        [
            {"params": [reference[name]], "weight_decay": 0.2 if name == "embedding" else 0.0}
            for name in others
        ],
        lr=0.01,
        betas=BETAS,
    )
    smoothed = {name: torch.zeros_like(weight) for name, weight in reference.items()}
    random = torch.Generator().manual_seed(4)
    for _ in range(3):
        gradients = {
            name: 1e-3 * torch.randn(weight.shape, generator=random)
            for name, weight in reference.items()
        }
        for name, weight in network.named_parameters():
            weight.grad = gradients[name].clone()
        length = optimizer.step(0.5)
        assert length == pytest.approx(
            float(torch.cat([grad.flatten() for grad in gradients.values()]).norm()), rel=1e-4
        )
        for name in others:
            reference[name].grad = gradients[name]
        for group in adam.param_groups:
            group["lr"] = 0.005
        adam.step()
        for name in set(reference) - set(others):
            smoothed[name] = MOMENTUM * smoothed[name] + gradients[name]
            ahead = gradients[name] + MOMENTUM * smoothed[name]
            pieces = [ahead]
            if name.endswith("qkv"):
                pieces = [ahead[:128], ahead[128:192], ahead[192:]]
            elif name.endswith("gate_up"):
                pieces = [ahead[:128], ahead[128:]]
            update = torch.cat(
                [max(1, len(p) / p.shape[1]) ** 0.5 * orthogonal(p[None])[0] for p in pieces]
            )
            reference[name] = reference[name] * (1 - 0.05 * 0.2) - 0.05 * update
    for name, weight in network.named_parameters():
        assert weight.grad is None
        tolerance = 2e-5 if name in others else 2e-3
        torch.testing.assert_close(weight.detach(), reference[name], atol=tolerance, rtol=1e-3)


def test_a_long_gradient_is_scaled_down() -> None:
    """Only visible where updates are not normalised: in what the optimizer remembers."""
    lengths = []
    for factor in (1.0, 100.0):
        network = randomised()
        optimizer = Optimizer(
            network, matrix_rate=0.1, other_rate=0.01, weight_decay=0.0, dtype=torch.bfloat16
        )
        for weight in network.parameters():
            weight.grad = torch.full_like(weight, factor)
        assert optimizer.step(1.0) == pytest.approx(factor * SHAPE.num_parameters**0.5, rel=1e-4)
        means = [*optimizer.state()["momentum"].values()]
        means += [mean / (1 - BETAS[0]) for mean in optimizer.state()["means"].values()]
        lengths.append(float(torch.cat([mean.flatten() for mean in means]).norm()))
    assert lengths == pytest.approx([1.0, 1.0], rel=1e-3)


def state_of(network: Network, num_steps_done: int) -> TrainingState:
    optimizer = Optimizer(
        network, matrix_rate=0.1, other_rate=0.01, weight_decay=0.0, dtype=torch.bfloat16
    )
    plan = Plan(SHAPE, num_steps=9)
    return TrainingState(plan, num_steps_done, 12.5, 2, 77, network.state_dict(), optimizer.state())


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    network = randomised()
    save_state(state := state_of(network, 4), tmp_path)
    found = load_state(tmp_path)
    assert found.plan == state.plan
    assert (found.num_steps_done, found.elapsed_s, found.log_bytes) == (4, 12.5, 77)
    assert found.num_sessions == 2
    for name, weight in network.named_parameters():
        assert torch.equal(found.weights[name], weight)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]


def test_whoever_dies_while_writing_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = randomised()
    save_state(state_of(network, 4), tmp_path)

    def half(entries: object, file: IO[bytes]) -> None:
        torch_save(entries, file)
        raise KeyboardInterrupt

    torch_save = torch.save
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_state(state_of(network, 5), tmp_path)
    assert load_state(tmp_path).num_steps_done == 4


def test_a_checkpoint_that_is_not_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not there"):
        load_state(tmp_path)
    (tmp_path / checkpoint.NAME).write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(tmp_path)
    torch.save({"format": 0}, tmp_path / checkpoint.NAME)
    with pytest.raises(CheckpointError, match="another version"):
        load_state(tmp_path)
