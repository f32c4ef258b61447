"""Public prefixes through the engine's faces: set once, for all namespaces, over restarts."""

import asyncio
from pathlib import Path

import pytest

from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.errors import ContextLengthError, InvalidRequestError
from radixserve.ids import Namespace
from radixserve.llm import LLM
from radixserve.sampling.params import SamplingParams
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.engine.reference import transformers_greedy

TIMEOUT_S = 60.0
PUBLIC = [*range(40, 90)]
"""Three pages of 16 and two tokens."""
PROMPT = [*PUBLIC, *range(100, 120)]
GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    use_in_process_client(monkeypatch)


async def answer(engine: AsyncEngine, namespace: str) -> tuple[list[int], int]:
    """The tokens of an answer to ``PROMPT``, and how much of that was cached."""
    stream = await engine.submit(PROMPT, GREEDY, namespace=Namespace(namespace))
    tokens: list[int] = []
    num_cached_tokens = 0
    async for delta in stream:
        assert delta.error is None
        tokens += delta.token_ids
        num_cached_tokens = delta.num_cached_tokens
    return tokens, num_cached_tokens


async def test_tenants_share_what_is_public_and_answer_the_same(tiny_dir: Path) -> None:
    config = EngineConfig(model=str(tiny_dir), device="cpu", dtype="float32", num_pages=64)
    reference = transformers_greedy(tiny_dir, [PROMPT], 6)
    assert reference.smallest_gap > 1e-3
    engine = await AsyncEngine.start(config)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            (expected,) = reference.tokens
            assert await answer(engine, "a") == (expected, 0)
            assert await answer(engine, "b") == (expected, 0)
            engine.set_public_prefixes([PUBLIC])
            assert await answer(engine, "a") == (expected, 0), "its place is another now"
            assert await answer(engine, "b") == (expected, len(PUBLIC))
            assert await answer(engine, "b") == (expected, len(PROMPT) - 1)
            stats = await engine.cache_stats()
            assert stats.num_namespaces == 2
            # Another process, which has never heard of it.
            client_of(engine).die()
            assert await answer(engine, "c") == (expected, 0)
            assert await answer(engine, "d") == (expected, len(PUBLIC))
            client_of(engine).core.check_invariants()
            engine.set_public_prefixes([])
            client_of(engine).die()
            assert await answer(engine, "e") == (expected, 0)
            assert await answer(engine, "f") == (expected, 0)
    finally:
        await engine.aclose()


async def test_what_no_prompt_could_begin_with_is_refused(tiny_dir: Path) -> None:
    config = EngineConfig(
        model=str(tiny_dir), device="cpu", dtype="float32", num_pages=64, max_model_len=64
    )
    engine = await AsyncEngine.start(config)
    try:
        with pytest.raises(InvalidRequestError, match="vocabulary"):
            engine.set_public_prefixes([PUBLIC, [10**6]])
        with pytest.raises(ContextLengthError):
            engine.set_public_prefixes([[1] * 64])
    finally:
        await engine.aclose()


def test_offline_too(noise_dir: Path) -> None:
    llm = LLM(str(noise_dir), device="cpu", dtype="float32", num_pages=64)
    llm.set_public_prefixes(["A public text, of more than a page. "])
    prompt = "A public text, of more than a page. And what follows."
    cached = []
    for name in "ab":
        output = llm.generate([prompt], GREEDY, namespace=Namespace(name))[0]
        cached.append((output.num_cached_tokens, output.token_ids))
    assert [number for number, _ in cached] == [0, 36]
    assert cached[0][1] == cached[1][1]
    assert llm.explain(prompt, namespace=Namespace("c")).matched_tokens == 36
    assert llm.explain(prompt, namespace=Namespace("c")).in_other_namespaces
    llm.close()
