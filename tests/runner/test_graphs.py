"""Recorded decode steps mean what the same steps mean when they are launched one by one.

The recorder here runs the recorded function again, on the same static inputs: what a CUDA graph
does, without a GPU. Kernels run under Triton's interpreter where there is no GPU.
"""

import numpy as np
import pytest
import torch

from radixserve.attention.base import AttentionShape, ForwardBatch, GraphAttention
from radixserve.attention.registry import make_attention
from radixserve.cascade import NO_CASCADE, Cascade, Level
from radixserve.device.transfer import Transfer, make_transfer
from radixserve.model.causal_lm import CausalLM, KVTensors
from radixserve.model.config import ModelConfig
from radixserve.model.loading import load_model
from radixserve.model.triton_ops import TritonOps
from radixserve.runner.batch import BatchBuilder, BatchRow
from radixserve.runner.graphs import CudaRecorder, DecodeGraphs, Recorder, graph_sizes
from tests.support.batches import make_kv
from tests.support.checkpoints import make_checkpoint
from tests.support.recorder import RunAgain

PAGE_SIZE = 16
NUM_PAGES = 24
MAX_PAGES = 6
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    path = make_checkpoint("qwen3", tmp_path_factory.mktemp("graphs") / "qwen3")
    return load_model(path, ModelConfig.from_dir(path), dtype=torch.float32, device=DEVICE)


class Rig:
    """A model with pages that hold something, and one decode step of it."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self.transfer: Transfer = make_transfer(DEVICE)
        shape: AttentionShape = model.attention_shape(PAGE_SIZE)
        attention = make_attention("triton", shape, self.transfer)
        assert isinstance(attention, GraphAttention)
        self.attention = attention
        self.ops = TritonOps()
        generator = torch.Generator().manual_seed(0)
        kv = make_kv(model.config.num_layers, NUM_PAGES, shape)
        self.before = [
            torch.randn(2, *keys.shape, generator=generator).to(DEVICE) for keys, _ in kv
        ]

    def kv(self) -> KVTensors:
        return [(keys, values) for keys, values in (layer.clone() for layer in self.before)]

    def batch(self, contexts: list[int], *, seed: int = 0) -> ForwardBatch:
        rng = np.random.default_rng(seed)
        rows = []
        for number, length in enumerate(contexts):
            token_ids = rng.integers(0, 256, length, dtype=np.int32)
            # The last page is the row's own; the others may be anybody's.
            pages = rng.integers(len(contexts), NUM_PAGES, MAX_PAGES, dtype=np.int32)
            pages[(length - 1) // PAGE_SIZE] = number
            rows.append(BatchRow(token_ids, length - 1, 1, pages, wants_logits=True))
        return BatchBuilder(PAGE_SIZE, self.transfer).build(rows).batch

    def shared_batch(self, contexts: list[int], cascade: Cascade) -> ForwardBatch:
        """A decode step whose rows begin with the same 16 pages, and end with one of their own."""
        rows = []
        for number, length in enumerate(contexts):
            token_ids = np.full(length, number, dtype=np.int32)
            pages = np.array([*range(NUM_PAGES - 16, NUM_PAGES), number], dtype=np.int32)
            rows.append(BatchRow(token_ids, length - 1, 1, pages, wants_logits=True))
        return BatchBuilder(PAGE_SIZE, self.transfer).build(rows, cascade).batch

    def eager(self, batch: ForwardBatch, kv: KVTensors) -> torch.Tensor:
        plan = self.attention.plan(batch)
        return self.model.hidden(batch, kv, self.attention, self.ops, plan)

    def record(
        self, kv: KVTensors, sizes: list[int], recorder: Recorder, *, max_pages: int = MAX_PAGES
    ) -> DecodeGraphs:
        graphs = DecodeGraphs(
            self.attention,
            max_rows=max(sizes),
            max_pages=max_pages,
            dtype=self.model.dtype,
            device=DEVICE,
        )
        graphs.record(
            lambda batch, plan: self.model.hidden(batch, kv, self.attention, self.ops, plan),
            recorder,
            sizes,
            progress=False,
        )
        return graphs


@torch.inference_mode()
def test_a_recording_is_the_step(model: CausalLM) -> None:
    rig, recorder = Rig(model), RunAgain()
    kv = rig.kv()
    graphs = rig.record(kv, [1, 2, 4], recorder)
    assert graphs.sizes == (1, 2, 4)
    for seed, contexts in enumerate([[1], [17, 90], [16, 33, 5], [80], [1, 2, 3, 96], [64, 7]]):
        batch, expected_kv = rig.batch(contexts, seed=seed), rig.kv()
        expected = rig.eager(batch, expected_kv)
        for (keys, values), layer in zip(kv, rig.before, strict=True):
            keys.copy_(layer[0])
            values.copy_(layer[1])
        hidden = graphs.run(batch, rig.attention.plan(batch))
        assert hidden is not None
        # Another number of rows may be another matrix product, which adds up in another order.
        torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)
        # Padding has stored nothing: every page is as the plain step leaves it.
        for ours, theirs in zip(kv, expected_kv, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert recorder.runs == [1, 2, 4, 1, 4, 2]


@torch.inference_mode()
def test_a_recording_reads_levels_once_or_not_as_the_step_says(model: CausalLM) -> None:
    """The step's work is what changes, not the recording. Nine rows share a tall tile, two a
    short one."""
    rig, recorder = Rig(model), RunAgain()
    kv = rig.kv()
    graphs = rig.record(kv, [2, 10], recorder, max_pages=17)
    contexts = [257 + row for row in range(9)]
    for cascade, num_rows in (
        (Cascade((Level(0, 9, 0, 16),)), 9),
        (NO_CASCADE, 1),
        (Cascade((Level(0, 2, 0, 16),)), 2),
    ):
        batch = rig.shared_batch(contexts[:num_rows], cascade)
        plan = rig.attention.plan(batch)
        assert plan.waves[0].has_levels == (cascade is not NO_CASCADE)
        alone = rig.shared_batch(contexts[:num_rows], NO_CASCADE)
        for (keys, values), layer in zip(kv, rig.before, strict=True):
            keys.copy_(layer[0])
            values.copy_(layer[1])
        hidden = graphs.run(batch, plan)
        assert hidden is not None
        torch.testing.assert_close(hidden, rig.eager(alone, rig.kv()), rtol=1e-4, atol=1e-4)
    assert recorder.runs == [10, 2, 2]


@torch.inference_mode()
def test_what_no_recording_fits_is_left_to_the_caller(model: CausalLM) -> None:
    rig, recorder = Rig(model), RunAgain()
    graphs = rig.record(rig.kv(), [1, 2], recorder)
    three = rig.batch([5, 6, 7])
    assert graphs.run(three, rig.attention.plan(three)) is None
    builder = BatchBuilder(PAGE_SIZE, rig.transfer)
    ids, pages = np.zeros(200, dtype=np.int32), np.arange(13, dtype=np.int32)
    for row in (
        BatchRow(ids, 0, 2, pages, wants_logits=True),
        BatchRow(ids, 4, 1, pages, wants_logits=False),
        BatchRow(ids, MAX_PAGES * PAGE_SIZE, 1, pages, wants_logits=True),
    ):
        batch = builder.build([row]).batch
        assert graphs.run(batch, rig.attention.plan(batch)) is None
    assert recorder.runs == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_a_cuda_graph_is_the_step(model: CausalLM) -> None:
    rig = Rig(model)
    kv = rig.kv()
    graphs = rig.record(kv, [1, 2, 4], CudaRecorder(DEVICE))
    for seed, contexts in enumerate([[1], [17, 90], [16, 33, 5], [80], [1, 2, 3, 96], [64, 7]]):
        batch = rig.batch(contexts, seed=seed)
        for (keys, values), layer in zip(kv, rig.before, strict=True):
            keys.copy_(layer[0])
            values.copy_(layer[1])
        expected = rig.eager(batch, rig.kv())
        hidden = graphs.run(batch, rig.attention.plan(batch))
        assert hidden is not None
        torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)


def test_sizes_end_with_what_is_asked_for() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(5) == [1, 2, 4, 5]
    assert graph_sizes(32) == [1, 2, 4, 8, 16, 32]
    assert graph_sizes(100) == [1, 2, 4, 8, 16, 32, 64, 96, 100]
    assert len(graph_sizes(256)) == 13
