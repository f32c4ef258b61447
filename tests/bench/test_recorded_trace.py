"""A trace that the server recorded is one that the bench replays, to the same hits."""

import random
from pathlib import Path

import pytest

from hit_rate_parts.policies import SIMULATORS
from hit_rate_parts.trace import read_trace
from radixserve.ids import Namespace
from radixserve_frontend.trace_recorder import BLOCK_TOKENS, TraceRecorder


def common(a: list[int], b: list[int]) -> int:
    """How many leading tokens two prompts share."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_it_replays_with_the_hits_it_had(name: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    now_s = 0.0
    recorder = TraceRecorder(tmp_path / name, lambda: now_s)
    seen: list[tuple[str, list[int]]] = []
    open_prompts = []
    num_hit = 0
    for _ in range(60):
        namespace, history = rng.choice([*seen[-10:], ("", []), ("salt", [])])
        turn = [rng.randrange(2**31 - 1)] * rng.randrange(1, 1500)
        prompt = history[: rng.choice([0, 512, len(history)])] + turn
        full = [
            min(common(prompt, old), len(prompt) - 1) // BLOCK_TOKENS
            for other, old in seen
            if other == namespace
        ]
        num_hit += max(full, default=0) * BLOCK_TOKENS
        seen.append((namespace, prompt))
        open_prompts.append(recorder.begin(prompt, Namespace(namespace)))
        now_s += 1.0
        # They end in another order than they came.
        while len(open_prompts) > 4:
            open_prompts.pop(rng.randrange(len(open_prompts))).end()
    for left in open_prompts:
        left.end()
    recorder.close()
    trace = read_trace(tmp_path / name)
    assert [request.num_tokens for request in trace.requests] == [len(one) for _, one in seen]
    assert [request.time_s for request in trace.requests] == [float(s) for s in range(60)]
    # vLLM's rule counts full blocks, and so did we.
    tally = SIMULATORS["vllm"](trace, 10_000)
    assert tally.num_hit_tokens == num_hit > 0
