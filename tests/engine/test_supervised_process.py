"""Real engine processes that are killed, abort and hang, and the streams that live through it.

A process takes seconds to start (torch), so each test makes the most of one engine. What needs no
process is in ``test_resumption.py`` and ``test_supervisor.py``.
"""

import asyncio
import logging
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine import client as client_module
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.interface import TextDelta
from radixserve.engine.request_stream import RequestStream
from radixserve.engine.supervisor import CONDEMNED
from radixserve.errors import InvalidRequestError
from tests.engine.reference import SMALLEST_GAP, family_prompts, transformers_greedy

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {"dtype": "float32", "num_pages": 60, "num_threads": 1}
PROMPTS = family_prompts(seed=3)
TIMEOUT_S = 200.0


@asynccontextmanager
async def running(directory: Path, **more: Any) -> AsyncIterator[AsyncEngine]:
    engine = await AsyncEngine.start(EngineConfig(model=str(directory), **SETTINGS | more))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield engine
    finally:
        await engine.aclose()


async def read(stream: RequestStream) -> list[TextDelta]:
    return [delta async for delta in stream]


def told(deltas: list[TextDelta], index: int = 0) -> tuple[list[int], str | None]:
    own = [delta for delta in deltas if delta.index == index]
    return [token for delta in own for token in delta.token_ids], own[-1].finish_reason


async def test_streams_live_through_kills(loose_dir: Path, tiny_dir: Path) -> None:
    """Greedy, seeded, several choices, penalties, log-probabilities: as undisturbed."""
    seeded = SamplingParams(temperature=1.0, max_tokens=300, ignore_eos=True)
    kinds = [
        replace(seeded, temperature=0.0, max_tokens=350),
        seeded,
        replace(seeded, n=3, max_tokens=150),
        replace(seeded, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.2),
        replace(seeded, logprobs=2, max_tokens=200),
    ]
    asked = [replace(kinds[number % 5], seed=number) for number in range(10)]
    with LLM(str(loose_dir), **SETTINGS) as llm:
        expected = llm.generate(PROMPTS[:10], asked)
    rng = random.Random(1)
    async with running(loose_dir) as engine:
        streams = [
            await engine.submit(prompt, params)
            for prompt, params in zip(PROMPTS, asked, strict=False)
        ]
        answers = [asyncio.create_task(read(stream)) for stream in streams]
        for _ in range(2):
            before = engine.stats.generated_tokens
            wanted = before + rng.randrange(30, 600)
            while engine.stats.generated_tokens < wanted:
                await asyncio.sleep(0.001)
            assert engine._supervisor._client is not None
            os.kill(engine._supervisor._client.pid, signal.SIGKILL)
            while engine.health.is_up:
                await asyncio.sleep(0.001)
        for answer, output in zip(await asyncio.gather(*answers), expected, strict=True):
            for choice in output.choices:
                assert told(answer, choice.index) == (choice.token_ids, choice.finish_reason)
                own = [delta for delta in answer if delta.index == choice.index]
                assert "".join(delta.text for delta in own) == choice.text
                logprobs = [entry.logprob for delta in own for entry in delta.logprobs or ()]
                wanted_logprobs = [entry.logprob for entry in choice.logprobs or ()]
                assert logprobs == pytest.approx(wanted_logprobs, abs=1e-4)
        assert engine.health.num_restarts == 2
        stats = await engine.cache_stats()
        assert stats.engine.cache.in_use_pages == 0


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next engine processes are those of ``tests/support/poisoned_engine.py``."""
    monkeypatch.setattr(client_module, "ENGINE_MODULE", "tests.support.poisoned_engine")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.usefixtures("poisoned")
async def test_a_poisoned_request_is_isolated_and_its_neighbours_finish(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    num_tokens = 12
    rng = random.Random(7)
    drafts = [[rng.randrange(256) for _ in range(rng.randrange(3, 40))] for _ in range(20)]
    reference = transformers_greedy(tiny_dir, drafts, num_tokens)
    said = {token for answer in reference.tokens for token in answer}
    poison = min(set(range(256)) - said)
    good = [number for number, draft in enumerate(drafts) if poison not in draft][:7]
    assert len(good) == 7
    gaps = reference.logits[good].topk(2).values
    assert float((gaps[..., 0] - gaps[..., 1]).min()) > SMALLEST_GAP

    monkeypatch.setenv("POISON_TOKEN", str(poison))
    greedy = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    async with running(tiny_dir) as engine:
        prompts = [drafts[number] for number in good]
        bad_prompt = [5, 6, poison, 7]
        prompts.insert(4, bad_prompt)
        streams = [await engine.submit(prompt, greedy) for prompt in prompts]
        answers = await asyncio.gather(*map(read, streams))
        bad = answers.pop(4)
        assert bad[-1].finish_reason == "error"
        assert bad[-1].error == CONDEMNED
        assert [told(answer) for answer in answers] == [
            (reference.tokens[number], "length") for number in good
        ]
        # Halving: 8, 4, 2, 1, and once more alone; that others settled first costs one.
        assert 4 <= engine.health.num_restarts <= 7
        with pytest.raises(InvalidRequestError, match="refused"):
            await engine.submit(bad_prompt, greedy)
        assert engine.health.is_ready


@pytest.mark.usefixtures("poisoned")
async def test_a_hung_engine_is_killed_and_whoever_hung_it_found(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setenv("HANG_TOKEN", "77")
    greedy = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logit_bias={77: -100.0})
    async with running(tiny_dir, engine_timeout_s=1.0) as engine:
        good, bad = [await engine.submit([1, 2, last], greedy) for last in (76, 77)]
        assert (await read(bad))[-1].error == CONDEMNED
        assert told(await read(good))[1] == "length"
