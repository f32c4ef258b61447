"""Output tokens per second beside transformers' continuous batching, on one device.

Both run the very same weights: transformers' parameters are views of ours, so nothing differs but
the engine. Each has the device to itself while it runs, with as much memory for its pages as it
likes; every round brings prompts that nobody has seen; and what either does once (compiling,
recording, sizing) is over before the clock starts. Transformers' settings are tried on a short
workload first, and the fastest is what is compared. Target 5 is measured here.

The gate: in float32, with a few layers, transformers' own forward pass and our kernels give the
same logits. Its compiled modes are not tried: compiling takes longer than all the rest.
"""

import gc
import inspect
import logging
import os
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu import shapes
from gpu.bench import Bench
from gpu.cores import Engine
from gpu.engine_gate import PAGE_SIZE, attention_name, engine_config
from radixserve.attention.registry import make_attention
from radixserve.device.transfer import make_transfer
from radixserve.model.config import ModelConfig
from radixserve.runner.batch import BatchBuilder, BatchRow
from radixserve.runner.make import make_ops

MODELS = ("qwen3-0.6b", "qwen3-8b")
"""The small one first: what is wrong shows in a minute. The target is the last one's."""

SMALL_NEEDS_S = 150.0
"""The small one is left out if less is left: the target's must not wait for it."""

TRIAL_S = 60.0
"""What has to be left for another of transformers' settings to be tried."""

LONG_ROUND_S = 60.0
"""A first round longer than this is counted, start and all, if there is no time for another."""

GATE_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of ``shared + own`` tokens, ``new`` tokens each to generate."""

    num_prompts: int
    shared: int
    own: int
    new: int

    @property
    def name(self) -> str:
        return f"{self.num_prompts} x ({self.shared} shared + {self.own}), {self.new} new"

    @property
    def num_tokens(self) -> int:
        return self.num_prompts * self.new

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        """Another seed, other prompts."""
        rng = np.random.default_rng(seed)
        shared = rng.integers(0, vocab_size, self.shared).tolist()
        own = rng.integers(0, vocab_size, (self.num_prompts, self.own)).tolist()
        return [shared + one for one in own]


WORKLOAD = Workload(64, 2048, 128, 256)
TRIAL = Workload(32, 512, 64, 48)
TINY = Workload(3, 20, 5, 4)


def run(bench: Bench) -> None:
    """Every model: the gate, ours, theirs, the ratio."""
    # No network: nothing may be looked for there, and nothing waited for.
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    bench.results["peers"] = rows
    for model in bench.each(MODELS[:1] if bench.dry_run else MODELS, "peers"):
        if model != MODELS[-1] and not bench.has_time(model, SMALL_NEEDS_S):
            continue
        try:
            rows.append(_compare(bench, model))
        except Exception:
            # The small model must not take the other along.
            bench.gate(model, False, traceback.format_exc(limit=8))
        _release(bench)
    if rows and (bench.dry_run or rows[-1]["model"] == MODELS[-1]):
        bench.results["target_ratio"] = rows[-1]["ratio"]
    bench.table(
        "Output tokens/s",
        rows,
        ("model", "workload", "radixserve", "transformers", "ratio", "its settings", "same first"),
    )


def _compare(bench: Bench, name: str) -> dict[str, Any]:
    fields = shapes.fields(name, tiny=bench.dry_run)
    directory = shapes.write_config(fields)
    config = ModelConfig.from_dir(directory)
    green = _gate(bench, name, fields)
    _release(bench)
    workload, trial = (TINY, TINY) if bench.dry_run else (WORKLOAD, TRIAL)
    weights = shapes.random_weights(config, dtype=torch.bfloat16, device=bench.device)
    ours, our_answers = _ours(bench, config, weights, workload)
    row: dict[str, Any] = {
        "model": name,
        "workload": workload.name,
        "radixserve": statistics.median(ours),
        "radixserve rounds": ours,
        "transformers": None,
        "ratio": None,
    }
    bench.results[f"ours {name}"] = row["radixserve"]
    bench.save()
    _release(bench)
    peer = _Peer(directory, config, weights, bench)
    settings, tried = peer.best_settings(trial)
    row["tried"] = tried
    theirs, their_answers = peer.rounds(workload, settings)
    row["its settings"] = settings
    row["transformers"] = statistics.median(theirs)
    row["transformers rounds"] = theirs
    # Only told: in bfloat16 two engines round differently, and random weights have many near ties.
    same = sum(a[0] == b[0] for a, b in zip(our_answers, their_answers, strict=False))
    row["same first"] = f"{same} of {min(len(our_answers), len(their_answers))}"
    row["ratio"] = bench.share(row["radixserve"] / row["transformers"], green=green)
    return row


def _ours(
    bench: Bench, config: ModelConfig, weights: dict[str, torch.Tensor], workload: Workload
) -> tuple[list[float], list[list[int]]]:
    """Tokens per second of each counted round, and the answers of the first."""
    length = workload.shared + workload.own + workload.new
    model = shapes.make_model(config, weights, length)
    settings: dict[str, Any] = {"max_running": max(workload.num_prompts, 4)}
    if bench.dry_run:
        settings.update(attention="triton", num_pages=64, max_batch_tokens=64)
    engine = Engine(model, engine_config(**settings))
    # A round that is not counted: whatever is still to be compiled.
    engine.answer(workload.prompts(config.vocab_size, 1000), min(workload.new, 16))
    rates, first = [], []
    for round_ in range(1 if bench.dry_run else 4):
        engine.core.clear_cache()
        prompts = workload.prompts(config.vocab_size, round_)
        begun_s = time.perf_counter()
        answers = engine.answer(prompts, workload.new)
        rates.append(workload.num_tokens / (time.perf_counter() - begun_s))
        if any(len(answer.token_ids) != workload.new for answer in answers):
            raise RuntimeError("an answer of ours is too short")
        if round_ == 0:
            first = [answer.token_ids for answer in answers]
    return rates, first


class _Peer:
    """A model of transformers over our weights, and its continuous batching."""

    def __init__(
        self,
        directory: Path,
        config: ModelConfig,
        weights: dict[str, torch.Tensor],
        bench: Bench,
    ) -> None:
        self._config, self._bench = config, bench
        self._model = transformers_model(directory, config, weights)

    def best_settings(self, trial: Workload) -> tuple[str, dict[str, Any]]:
        """The fastest of what transformers offers here, and what each did or why it failed.

        *Raises* ``RuntimeError`` if none works.
        """
        tried: dict[str, Any] = {}
        best, best_rate = None, 0.0
        for name in self._candidates():
            if best is not None and not self._bench.has_time(f"transformers, {name}", TRIAL_S):
                continue
            try:
                rates, _ = self.rounds(trial, name, num_rounds=1, first_seed=2000)
                tried[name] = round(rates[0], 1)
            except Exception as error:
                # A backend that is not there, and the like.
                tried[name] = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            if rates[0] > best_rate:
                best, best_rate = name, rates[0]
        if best is None:
            raise RuntimeError(f"transformers' continuous batching did not run: {tried}")
        return best, tried

    def rounds(
        self, workload: Workload, name: str, *, num_rounds: int | None = None, first_seed: int = 0
    ) -> tuple[list[float], list[list[int]]]:
        """Tokens per second of each counted round, and the answers to seed 0's prompts if they were
        among them."""
        from transformers import GenerationConfig  # noqa: PLC0415 (this peer's, nobody else's)

        generation = GenerationConfig(
            max_new_tokens=workload.new, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        options = {"progress_bar": False, "persistent_manager": True, **self._candidates()[name]()}
        generate: Any = self._model.generate_batch
        known = inspect.signature(generate).parameters
        options = {key: value for key, value in options.items() if key in known}
        dry = self._bench.dry_run
        count = num_rounds if num_rounds is not None else (1 if dry else 3)
        rates, first = [], []
        try:
            for round_ in range(-1, count):
                # The one before the first is not counted: sizing, recording, compiling.
                seed = first_seed + (round_ if round_ >= 0 else 900)
                prompts = workload.prompts(self._config.vocab_size, seed)
                begun_s = time.perf_counter()
                outputs = generate(prompts, generation_config=generation, **options)
                elapsed_s = time.perf_counter() - begun_s
                answers = [list(output.generated_tokens) for output in outputs.values()]
                lengths = [len(answer) for answer in answers]
                if lengths != [workload.new] * workload.num_prompts:
                    raise RuntimeError(f"expected {workload.new} tokens each, got {lengths}")
                if round_ < 0:
                    if elapsed_s < LONG_ROUND_S or self._bench.has_time(
                        "a round of transformers without its start", elapsed_s + 5
                    ):
                        continue
                    # It would not end in time. Beside so long a round its start hardly counts.
                    return [workload.num_tokens / elapsed_s], []
                rates.append(workload.num_tokens / elapsed_s)
                if round_ == 0:
                    first = answers
                more = round_ + 1 < count
                if more and not self._bench.has_time("a round of transformers", elapsed_s + 5):
                    break
        finally:
            destroy = getattr(self._model, "destroy_cached_continuous_batching_manager", None)
            if destroy is not None:
                destroy()
            _release(self._bench)
        return rates, first

    def _candidates(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Its settings: as it chooses itself; recordings and its own pipelining asked for; and the
        same on torch's attention, for machines where its first choice has to be downloaded."""
        from transformers import ContinuousBatchingConfig  # noqa: PLC0415

        model: Any = self._model
        fields = inspect.signature(ContinuousBatchingConfig).parameters
        size = "page_size" if "page_size" in fields else "block_size"
        small = {size: 16, "num_blocks": 64, "max_batch_tokens": 64}

        def config(attention: str, **wanted: Any) -> dict[str, Any]:
            if attention == "sdpa":
                if "auto_switch_to_flash" in fields:
                    wanted["auto_switch_to_flash"] = False
                else:
                    # Older ones leave an implementation alone that is paged already.
                    attention = "paged|sdpa"
            model.set_attn_implementation(attention)
            if self._bench.dry_run:
                wanted.update(small)
            return {"continuous_batching_config": ContinuousBatchingConfig(**wanted)}

        graphs = {"use_cuda_graph": True, "use_async_batching": True}
        found: dict[str, Callable[[], dict[str, Any]]] = {
            "sdpa": partial(config, "sdpa"),
        }
        if self._bench.device.type == "cuda":
            found["sdpa, graphs, async"] = partial(config, "sdpa", **graphs)
            for version in _flash_versions():
                found[version] = partial(config, version)
                found[f"{version}, graphs, async"] = partial(config, version, **graphs)
        return found


def _flash_versions() -> list[str]:
    """Flash attentions that are installed here, without asking a network for any."""
    import importlib.util  # noqa: PLC0415

    packages = {"flash_attn_interface": "flash_attention_3", "flash_attn": "flash_attention_2"}
    return [name for package, name in packages.items() if importlib.util.find_spec(package)]


def transformers_model(
    directory: Path, config: ModelConfig, weights: dict[str, torch.Tensor]
) -> torch.nn.Module:
    """Transformers' model of the same config, whose parameters are views of ``weights``.

    *Raises* ``RuntimeError`` if it has other parameters than the checkpoint's layout.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    views = shapes.checkpoint_views(config, weights)
    device, dtype = weights["norm"].device, weights["norm"].dtype
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(directory), dtype=dtype, attn_implementation="sdpa"
        ).eval()
    parameters = dict(model.named_parameters())
    if parameters.keys() != views.keys():
        raise RuntimeError(
            f"transformers and the layout disagree: {sorted(parameters.keys() ^ views.keys())}"
        )
    for name, parameter in parameters.items():
        if parameter.shape != views[name].shape:
            raise RuntimeError(
                f"{name}: expected {list(views[name].shape)}, got {list(parameter.shape)}"
            )
        parameter.requires_grad_(False)
        parameter.data = views[name]
    return model  # type: ignore[no-any-return]


def _gate(bench: Bench, name: str, fields: dict[str, Any]) -> bool:
    """Both models give the same logits in float32."""
    directory = shapes.write_config({**fields, "num_hidden_layers": GATE_LAYERS})
    config = ModelConfig.from_dir(directory)
    weights = shapes.random_weights(config, dtype=torch.float32, device=bench.device)
    length = 20 if bench.dry_run else 200
    token_ids = np.random.default_rng(3).integers(0, config.vocab_size, length).astype(np.int32)
    model = shapes.make_model(config, weights, length)
    pages = np.arange(-(-length // PAGE_SIZE), dtype=np.int32)
    shape = (GATE_LAYERS, 2, len(pages), PAGE_SIZE, config.num_kv_heads, config.head_dim)
    storage = torch.zeros(shape, device=bench.device)
    transfer = make_transfer(bench.device)
    backend = attention_name(bench.device)
    attention = make_attention(backend, model.attention_shape(PAGE_SIZE), transfer)
    row = BatchRow(token_ids, 0, length, pages, wants_logits=True)
    peer = transformers_model(directory, config, weights)
    with torch.inference_mode():
        batch = BatchBuilder(PAGE_SIZE, transfer).build([row]).batch
        layers = [(layer[0], layer[1]) for layer in storage]
        ours = model.forward(batch, layers, attention, make_ops("triton", bench.device))[0]
        inputs = torch.from_numpy(token_ids).long().to(bench.device).unsqueeze(0)
        theirs = peer(input_ids=inputs).logits[0, -1]
    error, spread = float((ours - theirs).abs().max()), float(theirs.std())
    return bench.gate(
        f"{name}: transformers' logits in float32",
        error <= 2e-3 * spread,
        f"{GATE_LAYERS} layers: error {error:.2e}, logits {spread:.2e}",
    )


def _release(bench: Bench) -> None:
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
