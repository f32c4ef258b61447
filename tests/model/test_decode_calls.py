"""Decode steps as one call: to the bit what the layers compute one by one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from radixserve import LLM, SamplingParams
from radixserve.attention import step_plan
from radixserve.attention.base import ForwardBatch
from radixserve.attention.cpu_backend import CpuAttention, PreparedStep
from radixserve.cascade import Cascade, Level
from radixserve.model import loading
from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.cpu_ops import CpuOps
from radixserve.model.decode_calls import DecodeCalls
from radixserve.model.linear import Linear, PlainLinear
from radixserve.model.linear_compiled import CompiledLinear
from radixserve.model.linear_int8 import Int8Linear, Scratch
from radixserve.model.loading import load_model
from radixserve_kernels.cpu import calls
from radixserve_kernels.cpu.attending import MAX_ITEM_KEYS
from tests.support.batches import make_batch, make_kv
from tests.support.checkpoints import make_checkpoint

CPU = torch.device("cpu")
PAGE_SIZE = 16
NUM_PAGES = 200
MAX_ROWS = 5


class AllCompiled:
    """Makes the products that ``LinearMaker`` makes of weights that are large."""

    def __init__(self, dtype: torch.dtype, quantization: str, *, compiled: bool) -> None:
        self._scratch = Scratch(dtype)
        self._quantization = quantization

    def make(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        is_head: bool = False,
        is_shared: bool = False,
    ) -> Linear:
        if self._quantization == "int8":
            return Int8Linear(weight, bias, self._scratch, kernel_rows=MAX_ROWS)
        # Not all products take as many rows.
        return CompiledLinear(weight, bias, kernel_rows=MAX_ROWS + (len(weight) > 100))

    def log(self) -> None:
        pass


@pytest.fixture(autouse=True)
def all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LinearMaker", AllCompiled)


def load(kind: str, directory: Path, dtype: torch.dtype, quantization: str = "none") -> CausalLM:
    path = make_checkpoint(kind, directory / kind, seed=3)
    config = ModelConfig.from_dir(path)
    return load_model(
        path, config, dtype=dtype, device=CPU, quantization=quantization, compiled=True
    )


class Rig:
    """A model with pages that hold something, twice: for the layers and for the one call."""

    def __init__(self, model: CausalLM, max_rows: int = 99) -> None:
        self.model = model
        self.attention = CpuAttention(model.attention_shape(PAGE_SIZE))
        kv = make_kv(
            model.config.num_layers,
            NUM_PAGES,
            model.attention_shape(PAGE_SIZE),
            dtype=model.dtype,
        )
        generator = torch.Generator().manual_seed(1)
        for tensor in (tensor for layer in kv for tensor in layer):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        self.kv = kv
        self.kv_of_calls = [(keys.clone(), values.clone()) for keys, values in kv]
        found = model.decode_calls(self.kv_of_calls, max_rows)
        assert isinstance(found, DecodeCalls)
        self.calls = found

    @torch.inference_mode()
    def check(self, batch: ForwardBatch) -> None:
        plan = self.attention.plan(batch)
        hidden = self.model.hidden(batch, self.kv, self.attention, CpuOps(), plan)
        found = self.calls.run(batch, plan)
        assert found is not None
        assert torch.equal(found[0], hidden)
        assert found[1] is not None
        assert torch.equal(found[1], self.model.logits(hidden))
        for layer, others in zip(self.kv, self.kv_of_calls, strict=True):
            for tensor, other in zip(layer, others, strict=True):
                assert torch.equal(tensor, other)

    @torch.inference_mode()
    def refuses(self, batch: ForwardBatch) -> bool:
        before = [(keys.clone(), values.clone()) for keys, values in self.kv_of_calls]
        refused = self.calls.run(batch, self.attention.plan(batch)) is None
        for layer, others in zip(before, self.kv_of_calls, strict=True):
            assert all(map(torch.equal, layer, others))
        return refused


def decode(*contexts: int, seed: int = 0) -> ForwardBatch:
    """A step of one token each, behind so many."""
    ids = torch.randint(0, 320, (len(contexts), 1), generator=torch.Generator().manual_seed(seed))
    return make_batch(ids.tolist(), page_size=PAGE_SIZE, starts=contexts, all_logits=False)[0]


@pytest.mark.parametrize(
    ("kind", "dtype", "quantization"),
    [
        ("qwen3", torch.float32, "none"),
        ("qwen2", torch.float32, "none"),
        ("qwen3", torch.bfloat16, "int8"),
    ],
)
def test_steps_are_those_of_the_layers(
    kind: str, dtype: torch.dtype, quantization: str, tmp_path: Path
) -> None:
    """With and without norms of heads and biases; numbers of rows that come again with other
    tokens, contexts and numbers of items."""
    rig = Rig(load(kind, tmp_path, dtype, quantization))
    long = 2 * MAX_ITEM_KEYS + 5
    for seed, contexts in enumerate([(7,), (40, 3), (long,), (0, 17), (8, long), (9, 2, 1, 4, 33)]):
        rig.check(decode(*contexts, seed=seed))


def test_threads_may_change_their_number(tmp_path: Path) -> None:
    rig = Rig(load("qwen3", tmp_path, torch.float32))
    before = torch.get_num_threads()
    try:
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            rig.check(decode(19, 20, seed=number))
        assert set(rig.calls._lists) == {(2, 1), (2, 2)}, "a thread's share is noted for each"
    finally:
        torch.set_num_threads(before)


def test_what_rows_share_is_read_once(tmp_path: Path) -> None:
    rig = Rig(load("qwen3", tmp_path, torch.float32))
    pages = [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    batch, _ = make_batch(
        [[5], [6], [7]], page_size=PAGE_SIZE, starts=[33, 34, 40], pages=pages, all_logits=False
    )
    rig.check(batch)
    levels = (Level(first_row=0, end_row=3, first_page=0, end_page=2),)
    rig.check(replace(batch, cascade=Cascade(levels)))


def test_other_steps_are_left_to_the_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(load("qwen3", tmp_path, torch.float32))
    assert rig.refuses(decode(*[3] * (MAX_ROWS + 1)))
    chunk, _ = make_batch([[1, 2], [3]], page_size=PAGE_SIZE, starts=[4, 4], all_logits=False)
    assert rig.refuses(chunk)
    silent = replace(decode(4, 5), logits_indices=torch.tensor([1]))
    assert rig.refuses(silent)
    # What they share is more than the attention kernel's work.
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", 1)
    levels = (Level(first_row=0, end_row=2, first_page=0, end_page=1),)
    shared, _ = make_batch(
        [[5], [6]], page_size=PAGE_SIZE, starts=[18, 19], pages=[[1, 2], [1, 3]], all_logits=False
    )
    assert rig.refuses(replace(shared, cascade=Cascade(levels)))


def test_a_model_with_another_product_has_no_such_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(
        _self: AllCompiled,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        is_head: bool = False,
        is_shared: bool = False,
    ) -> Linear:
        if len(weight) == 64:
            return PlainLinear(weight, bias)
        return CompiledLinear(weight, bias, kernel_rows=MAX_ROWS)

    monkeypatch.setattr(AllCompiled, "make", make)
    model = load("llama", tmp_path, torch.float32)
    shape = model.attention_shape(PAGE_SIZE)
    assert model.decode_calls(make_kv(model.config.num_layers, 1, shape), 99) is None


def test_there_is_room_for_no_more_rows_than_may_come(tmp_path: Path) -> None:
    rig = Rig(load("qwen3", tmp_path, torch.float32), max_rows=2)
    assert rig.calls._logits is not None
    assert len(rig.calls._logits) == len(rig.calls._buffers.hidden) == 2
    rig.check(decode(3, 4))
    assert rig.refuses(decode(3, 4, 5))


def test_another_numba_has_no_such_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("qwen3", tmp_path, torch.float32)
    kv = make_kv(model.config.num_layers, 1, model.attention_shape(PAGE_SIZE))
    monkeypatch.setattr(calls, "can_carry_out", lambda: False)
    assert model.decode_calls(kv, 1) is None


def test_logits_are_left_to_a_product_that_is_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = AllCompiled.make

    def make_plain_head(
        self: AllCompiled,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        is_head: bool = False,
        is_shared: bool = False,
    ) -> Linear:
        return PlainLinear(weight, bias) if is_head else make(self, weight, bias)

    monkeypatch.setattr(AllCompiled, "make", make_plain_head)
    rig = Rig(load("qwen3", tmp_path, torch.float32))
    batch = decode(3, 4)
    found = rig.calls.run(batch, rig.attention.plan(batch))
    assert found is not None
    assert found[1] is None


def test_an_engine_has_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint("qwen3", tmp_path, seed=3)
    prompts = [[1, 2, 3, 4], list(range(40, 80)), [7]]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)

    def generate() -> list[tuple[int, ...]]:
        with LLM(str(path), device="cpu", dtype="float32", num_pages=64) as llm:
            return [tuple(answer.choices[0].token_ids) for answer in llm.generate(prompts, params)]

    num_steps = 0
    run = DecodeCalls.run

    def count(
        self: DecodeCalls, batch: ForwardBatch, plan: PreparedStep
    ) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        nonlocal num_steps
        found = run(self, batch, plan)
        num_steps += found is not None
        return found

    monkeypatch.setattr(DecodeCalls, "run", count)
    found = generate()
    assert num_steps >= 11
    monkeypatch.setattr(DecodeCalls, "run", lambda *_: None)
    assert generate() == found
