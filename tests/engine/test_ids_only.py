"""A checkpoint without a tokenizer works offline, on token ids, and says so where text comes up."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.errors import CheckpointError, InvalidRequestError
from tests.support.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("bare") / "qwen3")


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(str(checkpoint), dtype="float32", num_pages=64) as llm:
        yield llm


def test_token_ids_in_token_ids_out(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=1)
    (output,) = llm.generate([[5, 6, 7, 8]], params)
    assert len(output.token_ids) == 5
    assert output.text == ""
    assert output.logprobs is not None
    assert [entry.token_id for entry in output.logprobs] == output.token_ids


def test_text_is_refused(llm: LLM) -> None:
    attempts: dict[str, Callable[[], object]] = {
        "prompt": lambda: llm.generate(["text"]),
        "messages": lambda: llm.chat([{"role": "user", "content": "Hello"}]),
        "stop": lambda: llm.generate([[5, 6]], SamplingParams(stop=("x",))),
    }
    for param, attempt in attempts.items():
        with pytest.raises(InvalidRequestError, match="has no tokenizer") as caught:
            attempt()
        assert caught.value.param == param


async def test_the_server_needs_a_tokenizer(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer can be loaded"):
        await AsyncEngine.start(EngineConfig(model=str(checkpoint), num_pages=64))
