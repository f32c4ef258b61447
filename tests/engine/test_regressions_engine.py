"""What once got past intake and hurt others, and what once hid from the figures."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.messages import Step, Submit, decode_to_engine, encode
from radixserve.errors import ConfigError
from support.byte_tokenizer import write_byte_tokenizer
from tests.support.checkpoints import make_checkpoint


def make_llm(tmp_path: Path) -> LLM:
    """The tokenizer ends texts with token 259; the model has 256."""
    directory = make_checkpoint(
        "llama",
        tmp_path / "small",
        vocab_size=256,
        bos_token_id=1,
        eos_token_id=2,
        add_tokenizer=write_byte_tokenizer,
    )
    return LLM(str(directory), dtype="float32", num_pages=32, num_threads=1)


def test_an_end_of_sequence_token_that_the_model_lacks(tmp_path: Path) -> None:
    """Regression: ``min_tokens`` banned a token beyond the logits, which failed the whole step, the
    requests of others included."""
    with make_llm(tmp_path) as llm:
        assert llm.tokenizer.eos_token_ids == (259,)
        assert llm.info.vocab_size == 256
        params = SamplingParams(temperature=0, max_tokens=4)
        banning = SamplingParams(temperature=0, max_tokens=4, min_tokens=4)
        outputs = llm.generate([[7, 8, 9], [10, 11]], [banning, params])
        assert [output.finish_reason for output in outputs] == ["length", "length"]


def test_ids_of_any_integer_type_survive_the_message(tmp_path: Path) -> None:
    """Regression: ``True`` among the ids passed for 1 until the engine process refused it and
    ended; numpy's integers could not be sent."""
    odd: list[Any] = [np.int64(5), True, 7]
    with make_llm(tmp_path) as llm:
        params = SamplingParams(stop_token_ids=tuple(odd), logit_bias=dict.fromkeys(odd, 1))
        request = llm._intake.admit(llm._next_id(), odd, params)
    sent = decode_to_engine(encode(Submit(request)))
    assert isinstance(sent, Submit)
    assert sent.request == request
    assert sent.request.prompt_ids == [5, 1, 7]
    assert sent.request.params.stop_token_ids == (5, 1, 7)
    assert list(sent.request.params.logit_bias) == [5, 1, 7]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"page_size": "16"}, "page_size is '16'; it must be a whole number"),
        ({"kv_cache_gib": True}, "kv_cache_gib is True; it must be a number"),
        ({"engine_timeout_s": 0.0}, "engine_timeout_s is 0.0; it must be positive"),
        ({"engine_timeout_s": "soon"}, "engine_timeout_s is 'soon'; it must be a number"),
        ({"num_pages": 100.0}, "num_pages is 100.0; it must be a whole number"),
        ({"max_running": 1.0}, "max_running is 1.0; it must be a whole number"),
        ({"kv_cache_gib": "1"}, "kv_cache_gib is '1'; it must be a number"),
        ({"cache_dir": ""}, "cache_dir is ''; it must be a directory's name"),
        ({"cache_dir": "  "}, "it must be a directory's name"),
        ({"cache_dir": 5}, "cache_dir is 5; it must be a directory's name"),
        ({"cache_dir": "a\0b"}, "it must be a directory's name"),
        (
            {"kv_cache_gib": 500_000, "page_size": 4096},
            "cannot be had from this machine; lower num_pages",
        ),
    ],
)
def test_settings_that_cannot_be_say_so(
    noise_dir: Path, settings: dict[str, Any], words: str
) -> None:
    """Regression: a wrong type was called an unknown setting, or was torch's to complain about; and
    so was a pool larger than the machine's address space. An empty directory's name was taken for
    the working directory."""
    with pytest.raises(ConfigError, match=words):
        LLM(str(noise_dir), **{"num_threads": 1, **settings})


@pytest.mark.asyncio
async def test_a_stop_signal_to_the_group_drains_and_figures_never_stand_still(
    noise_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regressions. A service manager's SIGTERM reaches every process of the service: it ended the
    engine at once, and the answers that the client meant to drain with it. And while a long prompt
    was computed nothing was said, so the gauges showed an idle engine."""
    running: list[int] = []
    on_step = AsyncEngine.on_step

    def watched(engine: AsyncEngine, step: Step) -> None:
        if not step.deltas:
            running.append(step.stats.num_running)
        on_step(engine, step)

    monkeypatch.setattr(AsyncEngine, "on_step", watched)
    config = EngineConfig(
        model=str(noise_dir), dtype="float32", num_pages=100, num_threads=1, max_batch_tokens=64
    )
    engine = await AsyncEngine.start(config)
    try:
        params = SamplingParams(max_tokens=200, ignore_eos=True)
        stream = await engine.submit([7] * 1000, params)
        first = await anext(stream)
        assert running.count(1) == 1000 // 64
        assert engine._supervisor._client is not None
        os.kill(engine._supervisor._client.pid, signal.SIGTERM)
        await engine.drain(60)
        deltas = [first, *[delta async for delta in stream]]
        assert deltas[-1].finish_reason == "length"
        assert sum(len(delta.token_ids) for delta in deltas) == 200
        assert engine.stats.num_running == 0
    finally:
        await engine.aclose()


@pytest.mark.asyncio
async def test_the_engine_process_imports_nothing_from_the_working_directory(
    noise_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: ``python -m`` puts the working directory first on the path, so that a stray
    ``msgspec.py`` there (or ``tokenizers.py``, ``random.py``) became a part of the engine."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    config = EngineConfig(model=str(noise_dir), dtype="float32", num_pages=100, num_threads=1)
    engine = await AsyncEngine.start(config)
    await engine.aclose()
