"""Whether the engine computes the right thing, before anybody asks how fast.

Two questions, two ways to ask.

Logits, at full depth in bfloat16, prefill and decode, against the same weights in float32 by the
torch reference: the kernels may be at most twice as wrong as torch's own operations in bfloat16.

Tokens, greedy: graphs on and off, pipelined and not, warm and cold, kernels and torch reference
give the same answers. First in float32 with a few layers, where hardly anything may differ; then in
bfloat16 at full depth. Answers may part only where the reference's two best tokens are as good as
equal, that is closer than what rounding explains; a wrong page or a stale token would part them
anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpu import shapes
from gpu.bench import Bench
from gpu.cores import Answer, Engine, counting_levels
from gpu.figures import first_difference
from radixserve.attention.registry import make_attention
from radixserve.config import EngineConfig
from radixserve.device.transfer import make_transfer
from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.ops import LayerOps
from radixserve.model.torch_ops import TorchOps
from radixserve.runner.batch import BatchBuilder, BatchRow
from radixserve.runner.make import make_ops

FLOAT32_TOLERANCE = 2e-3
"""Two logits closer than this may change places in float32; logits have a spread of one."""

SHARED_LENGTH = 400
"""Tokens that the last prompts of the token gates begin with, all of them: read once."""

NUM_LAYERS = 4
"""Of the float32 model of the token gates."""

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class Noise:
    """Root mean square differences of logits from the float32 ones."""

    kernels: float
    torch: float
    spread: float
    """The float32 logits' own."""


def engine_config(**settings: Any) -> EngineConfig:
    """Settings of a core over a model that is in memory already."""
    return EngineConfig(model="random weights", page_size=PAGE_SIZE, **settings)


def gate_logits(
    bench: Bench, config: ModelConfig, weights: dict[str, torch.Tensor]
) -> Noise | None:
    """The bfloat16 model against its float32 twin. None if it is red."""
    lengths = (5, 33) if bench.dry_run else (5, 300, 129, 700, 16, 255, 64, 1000)
    rows = _rows(config, lengths)
    device, longest = bench.device, max(lengths) + 1
    model = shapes.make_model(config, weights, longest)
    kernels = _logits(model, attention_name(device), make_ops("triton", device), rows)
    plain = _logits(model, "torch", TorchOps(), rows)
    exact_model = shapes.make_model(config, shapes.in_float32(weights), longest)
    exact = _logits(exact_model, "torch", TorchOps(), rows)
    del exact_model
    noise = Noise(_rms(kernels - exact), _rms(plain - exact), _rms(exact))
    # Twice as wrong as torch; and where both are all noise, nothing has been shown.
    green = bool(kernels.isfinite().all()) and noise.kernels <= 2 * noise.torch + 1e-4
    green = green and noise.kernels <= 0.25 * noise.spread
    detail = (
        f"{config.num_layers} layers: rms error {noise.kernels:.2e}, torch's {noise.torch:.2e}, "
        f"logits {noise.spread:.2e}"
    )
    return noise if bench.gate("logits in bfloat16 against float32", green, detail) else None


def gate_tokens(bench: Bench, fields: dict[str, Any]) -> bool:
    """Every way to run the engine gives the torch reference's answers, in float32."""
    num_layers = min(NUM_LAYERS, fields["num_hidden_layers"])
    directory = shapes.write_config({**fields, "num_hidden_layers": num_layers})
    config = ModelConfig.from_dir(directory)
    lengths = [3, 20] if bench.dry_run else [3, 17, 64, 100, 250, 31, 128, 400]
    num_shared = 0 if bench.dry_run else 4
    lengths += [SHARED_LENGTH + 5 + 9 * number for number in range(num_shared)]
    num_new = 3 if bench.dry_run else 24
    weights = shapes.random_weights(config, dtype=torch.float32, device=bench.device)
    model = shapes.make_model(config, weights, max(lengths) + num_new)
    prompts = [row.token_ids.tolist() for row in _rows(config, lengths)]
    for prompt in prompts[len(prompts) - num_shared :]:
        prompt[:SHARED_LENGTH] = prompts[-1][:SHARED_LENGTH]
    settings: dict[str, Any] = {
        "max_batch_tokens": 32 if bench.dry_run else 512,
        "max_running": len(lengths),
        "num_pages": 4 * sum(-(-(length + num_new) // PAGE_SIZE) for length in lengths),
    }
    plain = Engine(model, engine_config(attention="torch", cuda_graphs=False, **settings))
    plain.runner.max_in_flight = 1
    reference = plain.answer(prompts, num_new, with_gaps=True)
    del plain
    attention = attention_name(bench.device)
    green = True
    for with_graphs in (False, True):
        if with_graphs and bench.device.type != "cuda":
            bench.skip("CUDA graphs against none", "needs a CUDA device")
            continue
        engine = Engine(
            model, engine_config(attention=attention, cuda_graphs=with_graphs, **settings)
        )
        # Two on a CPU as well, where it gains nothing: the host still knows tokens one step late.
        for in_flight in (1, 2):
            engine.runner.max_in_flight = in_flight
            how = f"{'graphs' if with_graphs else 'no graphs'}, {in_flight} in flight"
            engine.core.clear_cache()
            cold = engine.answer(prompts, num_new)
            with counting_levels(engine, keep=True) as count:
                warm = engine.answer(prompts, num_new)
            if num_shared:
                detail = f"{count.num_with_levels} of {count.num_steps} steps of the warm run"
                green &= bench.gate(f"levels, {how}", count.num_with_levels > 0, detail)
            cached = sum(answer.num_cached_tokens for answer in warm)
            green &= _compare(bench, f"tokens, {how}, cold", reference, cold, FLOAT32_TOLERANCE)
            green &= _compare(bench, f"tokens, {how}, warm", reference, warm, FLOAT32_TOLERANCE)
            green &= bench.gate(
                f"cache, {how}", cached > 0, f"{cached} prompt tokens of the warm run were cached"
            )
        engine.core.check_invariants()
        del engine
    return green


def gate_graphs(
    bench: Bench, without: Sequence[Answer], with_graphs: Sequence[Answer], noise: Noise
) -> bool:
    """Full depth, bfloat16: a recording computes what was recorded.

    ``without`` has gaps. Rounding may move each of two logits by some times its rms error.
    """
    return _compare(bench, "tokens in bfloat16, graphs", without, with_graphs, 6 * noise.kernels)


def _compare(
    bench: Bench, name: str, reference: Sequence[Answer], answers: Sequence[Answer], near: float
) -> bool:
    equal, excused, wrong = 0, 0, []
    for row, (left, right) in enumerate(zip(reference, answers, strict=True)):
        place = first_difference(left.token_ids, right.token_ids)
        if place is None:
            equal += 1
        elif place < len(left.gaps) and left.gaps[place] <= near:
            excused += 1
        else:
            gap = left.gaps[place] if place < len(left.gaps) else float("nan")
            wrong.append(f"row {row} at token {place}, gap {gap:.2e}")
    detail = f"{equal} of {len(reference)} answers equal, {excused} part at a tie (< {near:.1e})"
    return bench.gate(name, not wrong, detail + (f"; WRONG: {'; '.join(wrong)}" if wrong else ""))


def attention_name(device: torch.device) -> str:
    """The kernels', which on a CPU is not the default."""
    return "auto" if device.type == "cuda" else "triton"


def _rows(config: ModelConfig, lengths: Sequence[int]) -> list[BatchRow]:
    """Random prompts, one behind the other in the pages."""
    rng = np.random.default_rng(1)
    rows, first_page = [], 0
    for length in lengths:
        # Room for one token more, which is the decode step's.
        num_pages = -(-(length + 1) // PAGE_SIZE)
        token_ids = rng.integers(0, config.vocab_size, length + 1).astype(np.int32)
        pages = np.arange(first_page, first_page + num_pages, dtype=np.int32)
        first_page += num_pages
        rows.append(BatchRow(token_ids, 0, length, pages, wants_logits=True))
    return rows


def _logits(model: CausalLM, backend: str, ops: LayerOps, rows: Sequence[BatchRow]) -> torch.Tensor:
    """Float32 logits behind every prompt, and behind one token more: [2 * rows, V]."""
    config, transfer = model.config, make_transfer(model.device)
    attention = make_attention(backend, model.attention_shape(PAGE_SIZE), transfer)
    num_pages = 1 + max(int(row.page_table[-1]) for row in rows)
    shape = (config.num_layers, 2, num_pages, PAGE_SIZE, config.num_kv_heads, config.head_dim)
    storage = torch.zeros(shape, dtype=model.dtype, device=model.device)
    layers = [(layer[0], layer[1]) for layer in storage]
    builder = BatchBuilder(PAGE_SIZE, transfer)
    decode = [_decode_row(row) for row in rows]
    found = []
    with torch.inference_mode():
        for step in (rows, decode):
            batch = builder.build(step).batch
            found.append(model.forward(batch, layers, attention, ops).float().clone())
    return torch.cat(found)


def _decode_row(row: BatchRow) -> BatchRow:
    """The decode step behind a prompt's row."""
    return row._replace(start=row.num_tokens, num_tokens=1)


def _rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())
