"""The engine at a model's shape, in process: is it right, and then how fast.

Random weights made on the device, no checkpoint. The figures: time to first token, prefill tokens
per second, decode steps at several batch sizes against their floor (weights and contexts read once,
at the measured copy bandwidth), recordings on and off, the GPU's idle time, the host's time a step,
and decode steps behind one document, its keys read once and by each row. Targets 3, 4 and 7 are
measured here.
"""

import gc
import statistics
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from gpu import figures, shapes
from gpu.bench import Bench
from gpu.ceilings import copy_bytes_per_s, matmul_flops_per_s
from gpu.cores import Answer, Engine, counting_levels, host_times
from gpu.engine_gate import engine_config, gate_graphs, gate_logits, gate_tokens
from gpu.idle import forward_ms, profiled_idle
from radixserve.model.config import ModelConfig
from radixserve.model.layout import count_parameters

LONG = 8192
CONTEXT = 1024
BATCHES = (64, 1, 256, 8)
"""The targets' first."""
TARGET_BATCHES = (64, 1)
IDLE_BATCH = 64
SHARED_BATCH = 64
SHARED_OWN = 256
"""Tokens of a prompt behind the ``LONG`` ones that all prompts of this batch share."""


def run(bench: Bench, *, model: str) -> None:
    """Gates, then figures. Without green gates there are figures and no shares."""
    fields = shapes.fields(model, tiny=bench.dry_run)
    config = ModelConfig.from_dir(shapes.write_config(fields))
    copy_rate, matmul_rate = copy_bytes_per_s(bench), matmul_flops_per_s(bench)
    bench.results.update(copy_bytes_per_s=copy_rate, matmul_flops_per_s=matmul_rate)
    bench.results["parameters"] = count_parameters(config)
    green = _guarded(bench, "tokens in float32", partial(gate_tokens, bench, fields)) or False
    _release(bench)
    weights = shapes.random_weights(config, dtype=torch.bfloat16, device=bench.device)
    noise = _guarded(bench, "logits", partial(gate_logits, bench, config, weights))
    _release(bench)
    speed = _Speed(bench, config, weights, copy_rate, matmul_rate)
    # Without recordings first: what they are held against, in tokens and in time.
    prompts, reference = _without_graphs(bench, speed)
    _release(bench)
    engine = speed.engine(cuda_graphs=True)
    answers = engine.answer(prompts, len(reference[0].token_ids))
    same = noise is not None and gate_graphs(bench, reference, answers, noise)
    speed.is_green = green and same
    bench.save()
    _figures(bench, speed, engine)
    if noise is not None:
        bench.results["logit_noise"] = asdict(noise)
    _print(bench)


def _without_graphs(bench: Bench, speed: "_Speed") -> tuple[list[list[int]], list[Answer]]:
    """Answers and decode steps of a core that records nothing; the prompts, and the answers."""
    engine = speed.engine(cuda_graphs=False)
    # As many rows as a recording holds, so that both compute alike.
    lengths = (3, 20) if bench.dry_run else (7, 100, 33, 512, 64, 16, 250, 90)
    prompts = [engine.tokens(length) for length in lengths]
    reference = engine.answer(prompts, 2 if bench.dry_run else 16, with_gaps=True)
    rows = [
        _guarded(bench, f"decode {batch}, no graphs", partial(speed.decode, engine, batch, False))
        for batch in ((2,) if bench.dry_run else (64, 1))
    ]
    bench.results["decode_without_graphs"] = [row for row in rows if row]
    bench.save()
    return prompts, reference


def _figures(bench: Bench, speed: "_Speed", engine: Engine) -> None:
    """Everything that is timed with recordings. A target's figure is there only if all is green."""
    decodes: list[dict[str, Any]] = []
    bench.results["decode"] = decodes
    for batch in bench.each((2, 1) if bench.dry_run else BATCHES, "decode"):
        name = f"decode at batch {batch}"
        if bench.has_time(name, 10.0):
            row = _guarded(bench, name, partial(speed.decode, engine, batch, True))
            if row:
                decodes.append(row)
                if batch in TARGET_BATCHES:
                    bench.results[f"target_batch_{batch}_share"] = row["share of floor"]
    for name, measure in (
        ("shared", speed.shared),
        ("idle", speed.idle),
        ("first_token", speed.first_tokens),
        ("prefill", speed.prefill),
    ):
        if bench.has_time(name, 8.0):
            bench.results[name] = _guarded(bench, name, partial(measure, engine))
        bench.save()
    bench.results["target_shared_ratio"] = (bench.results.get("shared") or {}).get("times")
    bench.results["target_idle_share"] = (bench.results.get("idle") or {}).get("gap share")


def _guarded(bench: Bench, name: str, measure: Callable[[], Any]) -> Any:
    """What it measured; None, and a red gate, if it raised."""
    try:
        return measure()
    except Exception:
        # A figure that fails must not take the others along.
        bench.gate(name, False, traceback.format_exc(limit=6))
        return None


def _release(bench: Bench) -> None:
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


class _Speed:
    """The timed workloads over one set of weights."""

    def __init__(
        self,
        bench: Bench,
        config: ModelConfig,
        weights: dict[str, torch.Tensor],
        copy_rate: float,
        matmul_rate: float,
    ) -> None:
        self._bench, self._config = bench, config
        self._copy_rate, self._matmul_rate = copy_rate, matmul_rate
        self._dry = bench.dry_run
        longest = 320 if self._dry else LONG + CONTEXT
        self._model = shapes.make_model(config, weights, longest)
        self._weight_bytes = shapes.read_bytes(config, weights)
        self._token_bytes = figures.kv_token_bytes(
            num_layers=config.num_layers,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            itemsize=self._model.dtype.itemsize,
        )
        self._context = 24 if self._dry else CONTEXT
        self.is_green = False

    def engine(self, *, cuda_graphs: bool) -> Engine:
        """A core over the model, its pages sized as a server's would be."""
        settings: dict[str, Any] = {"cuda_graphs": cuda_graphs}
        if self._dry:
            settings.update(attention="triton", num_pages=64, max_running=4, max_batch_tokens=64)
        engine = Engine(self._model, engine_config(**settings))
        info = engine.info
        self._bench.results["engine"] = {
            "attention": info.attention,
            "dtype": info.dtype,
            "pages": info.num_pages,
            "kv_cache_bytes": info.kv_cache_bytes,
            "start_s": round(info.load_seconds, 1),
            "in_flight": engine.runner.max_in_flight,
        }
        return engine

    def decode(self, engine: Engine, batch: int, graphs: bool) -> dict[str, Any] | None:
        """Steady decode steps at this batch, every context at about ``CONTEXT`` tokens."""
        warm_up, num_steps = (1, 2) if self._dry else (8, 48)
        # While the last prompts prefill, the first ones decode already.
        spare = warm_up + num_steps + 16 + batch * self._context // 4096
        page_size, available = engine.info.page_size, engine.info.num_pages
        if batch * (-(-(self._context + spare) // page_size) + 1) > available:
            self._bench.skip(f"decode at batch {batch}", f"{available} pages are too few")
            return None
        prompts = [engine.tokens(self._context) for _ in range(batch)]
        with engine.decoding(prompts, spare):
            engine.decode_steps(batch, warm_up)
            before = engine.context_tokens
            with host_times(engine) as host:
                taken = engine.decode_steps(batch, num_steps)
            context_tokens = (before + engine.context_tokens) / 2
        floor_s = figures.decode_floor_s(
            weight_bytes=self._weight_bytes,
            context_tokens=context_tokens,
            token_bytes=self._token_bytes,
            bytes_per_s=self._copy_rate,
        )
        step_s = sum(taken) / len(taken)
        return {
            "batch": batch,
            "graphs": graphs,
            "context": round(context_tokens / batch),
            "TPOT ms": step_s * 1e3,
            "median ms": statistics.median(taken) * 1e3,
            "max ms": max(taken) * 1e3,
            "tokens/s": batch / step_s,
            "floor ms": floor_s * 1e3,
            "share of floor": self._bench.share(floor_s / step_s, green=self.is_green),
            **host.us_per_step(num_steps),
        }

    def shared(self, engine: Engine) -> dict[str, Any] | None:
        """Steady decode steps of prompts that share a document: it is read once, and by each row,
        in turns (target 7). *Raises* ``RuntimeError`` if steps were not what they are to be."""
        batch, length, own = (4, 288, 8) if self._dry else (SHARED_BATCH, LONG, SHARED_OWN)
        warm_up, num_steps, rounds = (1, 1, 1) if self._dry else (6, 24, 2)
        spare = 2 * rounds * (warm_up + num_steps) + 16 + batch * own // 4096
        page_size, available = engine.info.page_size, engine.info.num_pages
        if length // page_size + batch * ((own + spare) // page_size + 2) > available:
            self._bench.skip("decode behind one document", f"{available} pages are too few")
            return None
        document = engine.tokens(length)
        prompts = [document + engine.tokens(own) for _ in range(batch)]
        # It is in the tree before anybody asks for it.
        engine.first_token_s(document + engine.tokens(1))
        taken: dict[bool, list[float]] = {True: [], False: []}
        with engine.decoding(prompts, spare):
            context_tokens = engine.context_tokens
            for keep in (True, False) * rounds:
                with counting_levels(engine, keep=keep) as count:
                    engine.decode_steps(batch, warm_up)
                    taken[keep] += engine.decode_steps(batch, num_steps)
                if count.num_with_levels != (count.num_steps if keep else 0):
                    raise RuntimeError(
                        f"expected {'all' if keep else 'none'} of {count.num_steps} steps to have "
                        f"levels, got {count.num_with_levels}"
                    )
        once_s, each_s = statistics.median(taken[True]), statistics.median(taken[False])
        return {
            "batch": batch,
            "shared": length,
            "own": round(context_tokens / batch) - length,
            "once ms": once_s * 1e3,
            "each ms": each_s * 1e3,
            "tokens/s": batch / once_s,
            "times": self._bench.share(each_s / once_s, green=self.is_green),
        }

    def idle(self, engine: Engine) -> dict[str, Any]:
        """The GPU's idle share at batch 64: between steps (target 4), and over all gaps."""
        batch, num_steps = (2, 2) if self._dry else (IDLE_BATCH, 24)
        prompts = [engine.tokens(self._context) for _ in range(batch)]
        found: dict[str, Any] = {"batch": batch}
        with engine.decoding(prompts, 4 * num_steps + 32 + batch * self._context // 4096):
            engine.decode_steps(batch, 2)
            taken = engine.decode_steps(batch, num_steps)
            found["step ms"] = sum(taken) / len(taken) * 1e3
            if self._bench.device.type == "cuda":
                try:
                    found.update(profiled_idle(self._bench, engine, batch, num_steps))
                except Exception as error:
                    # The clock's answer may still be had.
                    self._bench.skip("idle by the profiler", f"{type(error).__name__}: {error}")
                try:
                    found["forward ms"] = forward_ms(engine, batch)
                    found["outside the forward"] = 1 - found["forward ms"] / found["step ms"]
                except Exception as error:
                    # Nor does the clock's end the profiler's.
                    self._bench.skip("idle by the clock", f"{type(error).__name__}: {error}")
            else:
                self._bench.skip("idle share", "needs a CUDA device")
        share = found.get("between_steps_share")
        found["gap share"] = None if share is None or not self.is_green else share
        return found

    def first_tokens(self, engine: Engine) -> list[dict[str, Any]]:
        """Prompts that nobody has seen, and one behind a cached prefix."""
        rounds = 1 if self._dry else 7
        long = 40 if self._dry else LONG
        rows = []
        for name, prefix, own in (
            ("1 token", 0, 1),
            ("1,024 cold", 0, 20 if self._dry else 1024),
            ("8,192 cold", 0, long),
            ("16 behind 8,192 cached", long, 16),
        ):
            shared = engine.tokens(prefix)
            # The prefix, and whatever is still to be compiled.
            engine.first_token_s(shared + engine.tokens(own))
            taken, cached = [], []
            for _ in range(rounds):
                elapsed_s, num_cached = engine.first_token_s(shared + engine.tokens(own))
                taken.append(elapsed_s * 1e3)
                cached.append(num_cached)
            if statistics.median(cached) < prefix:
                raise RuntimeError(f"{name}: expected {prefix} cached tokens, got {cached}")
            rows.append(
                {
                    "prompt": name,
                    "TTFT ms": statistics.median(taken),
                    "min ms": min(taken),
                    "max ms": max(taken),
                    "tokens": own,
                    "cached": round(statistics.median(cached)),
                }
            )
        return rows

    def prefill(self, engine: Engine) -> list[dict[str, Any]]:
        """Prompt tokens per second: one prompt, and a queue of them."""
        rows = []
        shapes_ = ((20, 1), (20, 3)) if self._dry else ((2048, 1), (LONG, 1), (2048, 16))
        for length, count in shapes_:
            rates = []
            for _ in range(1 if self._dry else 4):
                prompts = [engine.tokens(length) for _ in range(count)]
                rates.append(length * count / engine.queued_s(prompts, 1))
            rate = statistics.median(rates[1:] or rates)
            pairs = figures.causal_pairs(length, length)
            # The output layer runs for the last token only.
            per_layer = count_parameters(self._config) - self._config.vocab_size * (
                self._config.hidden_size * (1 if self._config.tie_word_embeddings else 2)
            )
            flops = 2 * per_layer * length
            flops += self._config.num_layers * figures.attention_flops(
                pairs, num_heads=self._config.num_heads, head_dim=self._config.head_dim
            )
            rows.append(
                {
                    "prompts": count,
                    "tokens each": length,
                    "tokens/s": rate,
                    "TFLOP/s": flops / length * rate / 1e12,
                    "share of matmul": self._bench.share(
                        flops / length * rate / self._matmul_rate, green=self.is_green
                    ),
                }
            )
        return rows


def _print(bench: Bench) -> None:
    results = bench.results
    decodes = list(results["decode"]) + list(results["decode_without_graphs"])
    columns = ("batch", "graphs", "context", "TPOT ms", "median ms", "tokens/s", "floor ms")
    bench.table("Decode steps", decodes, (*columns, "share of floor"))
    host = ("schedule_us", "launch_us", "build_us", "wait_us", "update_us")
    bench.table("The host's time a step", decodes, ("batch", "graphs", *host))
    bench.table(
        "Time to first token",
        results.get("first_token") or [],
        ("prompt", "TTFT ms", "min ms", "max ms", "tokens", "cached"),
    )
    bench.table(
        "Prefill",
        results.get("prefill") or [],
        ("prompts", "tokens each", "tokens/s", "TFLOP/s", "share of matmul"),
    )
    if results.get("shared"):
        bench.table(
            "Decode steps behind one document: read once, and by each row",
            [results["shared"]],
            list(results["shared"]),
        )
    if results.get("idle"):
        bench.table("Idle", [results["idle"]], list(results["idle"]))
