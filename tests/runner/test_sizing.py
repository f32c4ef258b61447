"""What a GPU's pages are made of: what is free, less what the largest step takes."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from radixserve.attention.base import ForwardBatch
from radixserve.config import BatchLimits, EngineConfig
from radixserve.device.transfer import HostTransfer
from radixserve.errors import ConfigError
from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.loading import load_model
from radixserve.model.torch_ops import TorchOps
from radixserve.runner.sizing import CudaMemory, available_for_pages
from radixserve.sampling.sampler import Sampler
from tests.support.batches import DenseAttention
from tests.support.checkpoints import make_checkpoint

CPU = torch.device("cpu")


class Memory:
    """A device that says what it is told to say, and in which order it was asked."""

    def __init__(self, free: int, peak: int) -> None:
        self.asked: list[str] = []
        self._free, self._peak = free, peak

    def free(self) -> int:
        self.asked.append("free")
        return self._free

    def begin(self) -> None:
        self.asked.append("begin")

    def peak(self) -> int:
        self.asked.append("peak")
        return self._peak


class Watched(DenseAttention):
    """Keeps the shape of every batch."""

    def __init__(self, model: CausalLM, *, then: Callable[[], None] | None = None) -> None:
        super().__init__(model.attention_shape(4))
        self.rows: list[list[int]] = []
        self._then = then

    def plan(self, batch: ForwardBatch) -> None:
        self.rows.append([last - first for first, last in pairwise(batch.query_start_host)])
        if self._then is not None:
            self._then()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    path = make_checkpoint(
        "qwen3", tmp_path_factory.mktemp("sizing") / "qwen3", max_position_embeddings=100
    )
    return load_model(path, ModelConfig.from_dir(path), dtype=torch.float32, device=CPU)


def available(model: CausalLM, memory: Memory, attention: Watched, limits: BatchLimits) -> int:
    transfer = HostTransfer()
    return available_for_pages(
        memory,
        model,
        attention,
        TorchOps(),
        Sampler(model.config.vocab_size, transfer, use_kernel=False),
        transfer,
        limits=limits,
        page_size=4,
    )


@pytest.mark.parametrize(
    ("limits", "rows"),
    [
        (BatchLimits(64, 4), [61, 1, 1, 1]),
        (BatchLimits(250, 4), [100, 100, 49, 1]),
        (BatchLimits(4, 4), [1, 1, 1, 1]),
    ],
)
def test_the_largest_step_is_what_it_says(
    model: CausalLM, limits: BatchLimits, rows: list[int]
) -> None:
    memory, attention = Memory(free=1000, peak=300), Watched(model)
    assert available(model, memory, attention, limits) == 700
    assert attention.rows == [rows]
    assert memory.asked == ["begin", "peak", "free"]


def test_nothing_is_left(model: CausalLM) -> None:
    assert available(model, Memory(free=10, peak=300), Watched(model), BatchLimits(64, 4)) == 0


def test_a_step_that_does_not_fit_says_what_to_lower(model: CausalLM) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match=r"max_batch_tokens \(64\).*lower max_batch_tokens"):
        available(model, Memory(1, 1), Watched(model, then=fail), BatchLimits(64, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_peak_is_seen() -> None:
    """By this process's own allocator: others may use the device, too."""
    memory, size = CudaMemory(torch.device("cuda")), 64 << 20
    memory.begin()
    big = torch.empty(size, dtype=torch.uint8, device="cuda")
    del big
    assert size <= memory.peak() < size + (16 << 20)
    reserved = torch.cuda.memory_reserved()
    assert 0 < memory.free() <= torch.cuda.get_device_properties(0).total_memory
    assert torch.cuda.memory_reserved() <= reserved - size, "unused memory is given back"
    memory.begin()
    assert memory.peak() == 0


def test_limits_follow_the_device() -> None:
    assert EngineConfig().batch_limits("cpu") == BatchLimits(2048, 64)
    assert EngineConfig().batch_limits("cuda") == BatchLimits(8192, 256)
    assert EngineConfig(max_batch_tokens=32).batch_limits("cpu") == BatchLimits(32, 32)
    assert EngineConfig(max_running=4000).batch_limits("cpu") == BatchLimits(4000, 4000)
    with pytest.raises(ConfigError, match=r"max_batch_tokens \(7\) is smaller than max_running"):
        EngineConfig(max_batch_tokens=7, max_running=8).batch_limits("cpu")
