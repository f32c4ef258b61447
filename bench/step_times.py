"""Where a decode step goes: every part's share, for 1, 16 and 64 streams on the CPU.

    python bench/step_times.py [--streams 1,16,64] [--context 128] [--steps 60] [--dtype bfloat16]
                               [--one-by-one]

Steps of few rows are one call for all layers; with ``--one-by-one`` they run as others do, so that
what the layers consist of shows.

Greedy streams with contexts of their own decode in this process; the engine's parts are wrapped in
timers, and each part's figure is its median over the steps. "beside" is what the messages of a step
cost outside it: packing in the engine's process, and in the server's unpacking, detokenizing, and
the events of the stream. HTTP itself is ``frontend_overhead.py``'s.

The timers, some 130 a step, take about 0.1 ms of it: steps without any are measured in turn with
those that have them, and printed above the table.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from radixserve.config import EngineConfig
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.engine.interface import TextDelta
from radixserve.engine.messages import Step, decode_from_engine, encode
from radixserve.sampling.params import SamplingParams
from radixserve.text.stream import ChoiceText
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import TokenDelta
from radixserve_frontend.openai.completion_reply import CompletionReply, PromptParts, Wanted
from radixserve_frontend.openai.reply import Envelope
from support.checkpoint import bench_checkpoint
from support.in_process import InProcess

PARTS = (
    "schedule",
    "batch",
    "attention plan",
    "layers and logits in one call",
    "linears",
    "attention",
    "other layer operations",
    "logits",
    "sample",
    "update",
)
BESIDE = ("pack", "unpack", "detokenize", "event")
WARM_UP_STEPS = 5


class Clock:
    """Adds up, by part, what calls take within one step."""

    def __init__(self) -> None:
        self.times: dict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with what its calls take added to a part."""
        times, now = self.times, time.perf_counter

        def call(*arguments: Any, **named: Any) -> Any:
            begun = now()
            result = function(*arguments, **named)
            times[part] += now() - begun
            return result

        return call

    def take(self) -> dict[str, float]:
        """What has been added since the last call."""
        taken = dict(self.times)
        self.times.clear()
        return taken


class TimedMethods:
    """Stands for an object whose methods of these names are timed."""

    def __init__(self, clock: Clock, inner: Any, parts: dict[str, str]) -> None:
        self._inner = inner
        for name, part in parts.items():
            setattr(self, name, clock.timed(part, getattr(inner, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def timing(core: EngineCore, clock: Clock) -> Iterator[None]:
    """Within, the parts of the core's steps are timed. It is the one place that knows where they
    are, and takes them by their private names."""
    runner: Any = core._runner
    model = runner._model
    owners = [
        (core, "_scheduler", {"schedule": "schedule", "update": "update"}),
        (runner, "_batches", {"build": "batch"}),
        (runner, "_attention", {"plan": "attention plan", "forward": "attention"}),
        (runner, "_sampler", {"launch": "sample"}),
        (
            runner,
            "_ops",
            dict.fromkeys(
                ("rms_norm", "add_rms_norm", "silu_mul", "rotation", "rotate_and_store"),
                "other layer operations",
            ),
        ),
    ]
    if runner._decode_calls is not None:
        owners.append((runner, "_decode_calls", {"run": "layers and logits in one call"}))
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in owners]
    saved += [(model, "_layers", model._layers), (model, "_lm_head", model._lm_head)]
    for owner, name, parts in owners:
        setattr(owner, name, TimedMethods(clock, getattr(owner, name), parts))
    runner._sample_rows = clock.timed("sample", runner._sample_rows)

    def timed_products(block: Any, *names: str) -> Any:
        return dataclasses.replace(
            block, **{name: clock.timed("linears", getattr(block, name)) for name in names}
        )

    model._layers = tuple(
        dataclasses.replace(
            layer,
            attention=timed_products(layer.attention, "qkv", "o"),
            mlp=timed_products(layer.mlp, "gate_up", "down"),
        )
        for layer in model._layers
    )
    model._lm_head = clock.timed("logits", model._lm_head)
    try:
        yield
    finally:
        del runner._sample_rows
        for owner, name, value in saved:
            setattr(owner, name, value)


class Server:
    """What a server does with a step's message, but for HTTP."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[str, ChoiceText] = {}
        self._replies: dict[str, CompletionReply] = {}

    def take(self, core: EngineCore, deltas: list[TokenDelta]) -> dict[str, float]:
        """Pass one step's deltas on; what each part took."""
        times = [time.perf_counter()]
        packed = encode(Step(deltas, core.stats(), core.admitted))
        times.append(time.perf_counter())
        step = decode_from_engine(packed)
        assert isinstance(step, Step)
        times.append(time.perf_counter())
        told = [(delta, self._text(delta).feed(delta)) for delta in step.deltas]
        times.append(time.perf_counter())
        for delta, text in told:
            self._reply(delta).chunk(
                0, TextDelta(index=0, text=text.text, token_ids=text.token_ids)
            )
        times.append(time.perf_counter())
        return {part: times[n + 1] - times[n] for n, part in enumerate(BESIDE)}

    def _text(self, delta: TokenDelta) -> ChoiceText:
        if delta.request_id not in self._texts:
            text = ChoiceText(self._tokenizer, SamplingParams(), continues_prompt=True)
            self._texts[delta.request_id] = text
        return self._texts[delta.request_id]

    def _reply(self, delta: TokenDelta) -> CompletionReply:
        if delta.request_id not in self._replies:
            wanted = Wanted(
                n=1,
                best_of=1,
                logprobs=False,
                echo=False,
                prompt_logprobs=False,
                continuation=True,
            )
            envelope = Envelope(response_id=delta.request_id, model="bench", with_usage=False)
            reply = CompletionReply(envelope, self._tokenizer, [PromptParts("", [])], wanted)
            self._replies[delta.request_id] = reply
        return self._replies[delta.request_id]


def measure(core: EngineCore, num_streams: int, context: int, num_steps: int) -> dict[str, Any]:
    """Medians, ms, of one number of streams: "plain", "step", and by part."""
    engine, clock = InProcess(core), Clock()
    server = Server(Tokenizer.from_dir(bench_checkpoint()))
    core.clear_cache()
    begun: set[str] = set()
    # Each is asked for a token more for every step that the others' prompts take: a step computes
    # 2,048 tokens, and some 64 of them may be others' decodes.
    prompt_steps = num_streams * (1 + context // 1024)
    for _ in range(num_streams):
        engine.submit(engine.tokens(context), 2 * num_steps + WARM_UP_STEPS + prompt_steps + 2)
    while len(begun) < num_streams:
        begun |= {delta.request_id for delta in core.step()}
    for _ in range(WARM_UP_STEPS):
        core.step()
    plain: list[float] = []
    timed: list[dict[str, float]] = []
    for _ in range(num_steps):
        start = time.perf_counter()
        deltas = core.step()
        plain.append(time.perf_counter() - start)
        assert len(deltas) == num_streams, "every stream gets a token in every step"
        with timing(core, clock):
            start = time.perf_counter()
            deltas = core.step()
            took = time.perf_counter() - start
        timed.append({"step": took} | clock.take() | server.take(core, deltas))
    while core.has_work:
        core.step()
    figures = {
        name: 1e3 * statistics.median(step.get(name, 0.0) for step in timed)
        for name in ("step", *PARTS, *BESIDE)
    }
    return {"streams": num_streams, "plain": 1e3 * statistics.median(plain)} | figures


def report(figures: Sequence[dict[str, Any]]) -> None:
    for one in figures:
        one["rest"] = one["step"] - sum(one[part] for part in PARTS)
    width = 32
    print(" " * width + "".join(f"{one['streams']:>7} streams    " for one in figures))
    print(
        f"{'step without timers':{width}}"
        + "".join(f"{one['plain']:8.2f} ms{'':8}" for one in figures)
    )
    for part in ("step", *PARTS, "rest", *BESIDE):
        name = f"beside: {part}" if part in BESIDE else part
        cells = (f"{one[part]:8.3f} ms {100 * one[part] / one['step']:5.1f}% " for one in figures)
        print(f"{name:{width}}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--streams", default="1,16,64", help="(default: 1,16,64)")
    parser.add_argument("--context", type=int, default=128, help="tokens of each (default: 128)")
    parser.add_argument("--steps", type=int, default=60, help="timed steps (default: 60)")
    parser.add_argument("--dtype", default="bfloat16", help="(default: bfloat16)")
    parser.add_argument("--one-by-one", action="store_true", help="layers, and their parts")
    options = parser.parse_args()
    facts = print_machine()
    config = EngineConfig(
        model=str(bench_checkpoint()), device="cpu", dtype=options.dtype, kv_cache_gib=1.0
    )
    core = build_core(config, progress=False)
    if options.one_by_one:
        runner: Any = core._runner
        runner._decode_calls = None
    figures = [
        measure(core, int(count), options.context, options.steps)
        for count in options.streams.split(",")
    ]
    report(figures)
    print(json.dumps({"bench": "step_times", "machine": facts, "figures": figures}))


if __name__ == "__main__":
    main()
