"""The offline API: what it takes, what it gives, what it refuses, and what it leaves behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import radixserve
from radixserve import LLM, SamplingParams
from radixserve.engine.core import EngineCore
from radixserve.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthError,
    InvalidRequestError,
    RadixServeError,
)
from radixserve.llm import GenerationError
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.types import TokenDelta

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
CHAT = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def shared(noise_dir: Path) -> Iterator[LLM]:
    with LLM(str(noise_dir), dtype="float32", num_pages=200, num_threads=1) as opened:
        yield opened


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    """The shared one, with an empty cache; whatever the test did, nothing may be left at work."""
    shared.clear_cache()
    yield shared
    info = shared.cache_info()
    assert info.in_use_pages == 0
    assert info.free_pages + info.cached_pages == info.total_pages
    stats = shared.stats()
    assert (stats.num_waiting, stats.num_running) == (0, 0)
    shared.check_invariants()


def spoken(llm: LLM, token_ids: list[int]) -> str:
    return llm.tokenizer.decode(token_ids, skip_special_tokens=True)


# -- what it takes --------------------------------------------------------------------------------


def test_text_and_token_ids_are_the_same_prompt(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Once upon a time")
    prompts: list[Any] = ["Once upon a time", ids, tuple(ids), np.array(ids)]
    outputs = llm.generate(prompts, GREEDY)
    assert all(output.prompt_ids == list(ids) for output in outputs)
    assert len({tuple(output.token_ids) for output in outputs}) == 1


def test_one_prompt_may_be_given_bare(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Once")
    prompts: list[Any] = ["Once", ids, np.array(ids, np.int32)]
    for prompt in prompts:
        (output,) = llm.generate(prompt, GREEDY)
        assert output.prompt_ids == list(ids)


def test_no_prompts_no_outputs(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []


def test_each_prompt_may_have_its_own_params(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 5, 3)]
    outputs = llm.generate(["a", "b", "c"], params)
    assert [len(output.token_ids) for output in outputs] == [1, 5, 3]
    assert [output.prompt_ids for output in outputs] == [[97], [98], [99]]


def test_without_params_the_checkpoint_and_the_context_decide(llm: LLM) -> None:
    (output,) = llm.generate("Hi")
    # It ends an answer every 60 tokens or so.
    assert output.finish_reason == "stop"
    assert output.token_ids[-1] in llm.info.eos_token_ids
    assert output.stop_reason is None


def test_progress_counts_every_choice(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], SamplingParams(n=2, seed=1, max_tokens=3), progress=True)
    assert "4/4" in capsys.readouterr().err


def test_unknown_settings_and_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting.*num_pagse"):
        LLM(num_pagse=3)
    with pytest.raises(ConfigError, match="page_size is 0"):
        LLM(page_size=0)
    with pytest.raises(CheckpointError, match="no directory here"):
        LLM("/nowhere/at/all")


# -- what it gives --------------------------------------------------------------------------------


def test_output_speaks_of_the_first_choice(llm: LLM) -> None:
    params = SamplingParams(n=3, seed=3, max_tokens=6, temperature=1.5, logprobs=2, ignore_eos=True)
    (output,) = llm.generate("Once upon", params)
    assert [choice.index for choice in output.choices] == [0, 1, 2]
    first = output.choices[0]
    assert output.text == first.text
    assert output.token_ids == first.token_ids
    assert output.logprobs == first.logprobs
    assert output.finish_reason == first.finish_reason == "length"
    assert output.stop_reason is first.stop_reason is None
    assert len({tuple(choice.token_ids) for choice in output.choices}) == 3
    for choice in output.choices:
        assert choice.text == spoken(llm, choice.token_ids)


def test_logprobs_of_every_token(llm: LLM) -> None:
    (output,) = llm.generate(
        "Once", SamplingParams(temperature=1.0, seed=1, max_tokens=9, logprobs=3)
    )
    assert output.logprobs is not None
    assert [entry.token_id for entry in output.logprobs] == output.token_ids
    for entry in output.logprobs:
        values = [value for _, value in entry.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert entry.logprob <= values[0] <= 0
    (chosen_only,) = llm.generate("Once", SamplingParams(temperature=0, max_tokens=2, logprobs=0))
    assert chosen_only.logprobs is not None
    assert [entry.top for entry in chosen_only.logprobs] == [[], []]
    (silent,) = llm.generate("Once", GREEDY)
    assert silent.logprobs is None


def test_stop_string_ends_the_text_before_it_and_the_choice_in_the_engine(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    (whole,) = llm.generate("Tell me", params)
    stop = whole.text[20:23]
    assert whole.text.index(stop) > 5
    before = llm.stats().generated_tokens
    (output,) = llm.generate(
        "Tell me", SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, stop=(stop,))
    )
    assert output.text == whole.text[: whole.text.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    assert output.token_ids == whole.token_ids[: len(output.token_ids)]
    assert spoken(llm, output.token_ids).endswith(stop)
    assert llm.stats().generated_tokens - before == len(output.token_ids) < 30


def test_stop_string_ends_one_choice_of_several(llm: LLM) -> None:
    params: dict[str, Any] = {"n": 3, "seed": 4, "temperature": 1.0, "max_tokens": 40}
    params["ignore_eos"] = True
    (whole,) = llm.generate("Tell me", SamplingParams(**params))
    texts = [choice.text for choice in whole.choices]
    stop = next(
        texts[0][at : at + 2]
        for at in range(3, 38)
        if texts[0][at : at + 2] not in texts[1] + "|" + texts[2]
    )
    (output,) = llm.generate("Tell me", SamplingParams(**params, stop=(stop,)))
    first, *others = output.choices
    assert first.stop_reason == stop
    assert first.text == texts[0][: texts[0].index(stop)]
    assert [choice.text for choice in others] == texts[1:]
    assert [choice.finish_reason for choice in others] == ["length", "length"]


def test_stop_token_is_reported_and_not_spoken(llm: LLM) -> None:
    (whole,) = llm.generate("Tell me", GREEDY)
    token = whole.token_ids[4]
    end = whole.token_ids.index(token) + 1
    (output,) = llm.generate(
        "Tell me", SamplingParams(temperature=0, max_tokens=8, stop_token_ids=(token,))
    )
    assert output.token_ids == whole.token_ids[:end]
    assert output.text == spoken(llm, whole.token_ids[: end - 1])
    assert (output.finish_reason, output.stop_reason) == ("stop", token)


def test_min_tokens_and_ignore_eos(llm: LLM) -> None:
    params: dict[str, Any] = {"temperature": 1.0, "seed": 12, "max_tokens": 200}
    # One that makes the end likely from the first token on.
    params["logit_bias"] = dict.fromkeys(llm.info.eos_token_ids, 8.0)
    (short,) = llm.generate("Hi", SamplingParams(**params))
    assert short.finish_reason == "stop"
    assert len(short.token_ids) < 20
    (longer,) = llm.generate("Hi", SamplingParams(**params, min_tokens=20))
    assert longer.finish_reason == "stop"
    assert 20 < len(longer.token_ids) < 40
    assert not set(longer.token_ids[:20]) & set(llm.info.eos_token_ids)
    (longest,) = llm.generate("Hi", SamplingParams(**params, ignore_eos=True))
    assert longest.finish_reason == "length"
    assert len(longest.token_ids) == 200
    assert set(longest.token_ids) & set(llm.info.eos_token_ids)


# -- chat -----------------------------------------------------------------------------------------


def test_chat_of_one_conversation_and_of_several(llm: LLM) -> None:
    output = llm.chat(CHAT, GREEDY)
    assert output.prompt_ids == list(llm.tokenizer.encode_chat(CHAT))
    other = [{"role": "system", "content": "Be brief."}, *CHAT]
    outputs = llm.chat([CHAT, other], GREEDY)
    assert [each.prompt_ids for each in outputs] == [
        output.prompt_ids,
        list(llm.tokenizer.encode_chat(other)),
    ]
    assert outputs[0].token_ids == output.token_ids
    assert outputs[0].num_cached_tokens == len(output.prompt_ids) - 1


def test_chat_without_messages_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="messages is empty") as caught:
        llm.chat([])
    assert caught.value.param == "messages"
    with pytest.raises(InvalidRequestError, match="messages is empty"):
        llm.chat([CHAT, []])


# -- what it refuses, and what it leaves behind ---------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "params", "error", "words"),
    [
        (["a", []], GREEDY, InvalidRequestError, "prompt is empty"),
        (["a", [1, 2, 9999]], GREEDY, InvalidRequestError, "token id 9999"),
        (["a", [1] * 3201], GREEDY, ContextLengthError, "holds 3200 tokens"),
        (["a", "b"], [GREEDY], InvalidRequestError, "1 params for 2 prompts"),
        (["a"], [GREEDY, GREEDY], InvalidRequestError, "2 params for 1 prompts"),
        ("a", SamplingParams(max_tokens=5000), ContextLengthError, "you requested 5001 tokens"),
        ("a", SamplingParams(logit_bias={-1: 1.0}), InvalidRequestError, "logit_bias"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_computed(
    llm: LLM, prompts: Any, params: Any, error: type[Exception], words: str
) -> None:
    before = llm.stats()
    with pytest.raises(error, match=words):
        llm.generate(prompts, params)
    assert llm.stats() == before


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("num_steps", [0, 1, 5])
def test_an_exception_aborts_everything(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], num_steps: int
) -> None:
    step = EngineCore.step
    calls = 0

    def interrupted(core: EngineCore) -> list[TokenDelta]:
        nonlocal calls
        calls += 1
        if calls > num_steps:
            raise kind
        return step(core)

    with monkeypatch.context() as patch:
        patch.setattr(EngineCore, "step", interrupted)
        with pytest.raises(kind):
            llm.generate(["Hello", "Help"], SamplingParams(n=2, seed=1, max_tokens=20))
    assert llm.cache_info().in_use_pages == 0
    # And it goes on as if nothing had been.
    assert len(llm.generate("Hello", GREEDY)[0].token_ids) == 8


def test_a_failed_step_is_a_generation_error_and_no_more(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (expected,) = llm.generate("Hello", GREEDY)

    def broken(plan: StepPlan) -> StepResult:
        raise ValueError("no luck today")

    with monkeypatch.context() as patch:
        patch.setattr(llm._core._runner, "launch", broken)  # type: ignore[union-attr]
        with pytest.raises(GenerationError, match="ValueError: no luck today"):
            llm.generate(["Hello", "World"], SamplingParams(n=2, max_tokens=4))
    assert "a step of 2 rows failed" in caplog.text
    assert llm.generate("Hello", GREEDY)[0].token_ids == expected.token_ids


def test_cache_info_and_clear_cache(llm: LLM) -> None:
    empty = llm.cache_info()
    assert (empty.free_pages, empty.cached_pages, empty.in_use_pages) == (200, 0, 0)
    assert (empty.total_pages, empty.page_size) == (200, 16)
    llm.generate([1] * 40, SamplingParams(temperature=0, max_tokens=1))
    assert llm.cache_info().cached_pages == 3
    assert llm.clear_cache() == 3
    assert llm.cache_info() == empty
    assert llm.clear_cache() == 0


def test_closed_is_closed(noise_dir: Path) -> None:
    with LLM(str(noise_dir), dtype="float32", num_pages=20, num_threads=1) as closing:
        assert closing.info.num_pages == 20
        closing.generate("Hello", GREEDY)
    for use in (
        lambda: closing.generate("Hello"),
        lambda: closing.chat(CHAT),
        closing.cache_info,
        closing.clear_cache,
        closing.stats,
        closing.check_invariants,
    ):
        with pytest.raises(RadixServeError, match="closed"):
            use()
    closing.close()


def test_public_names_are_there_and_no_others() -> None:
    assert set(radixserve.__all__) == {
        "LLM",
        "ChoiceOutput",
        "RequestOutput",
        "GrammarSpec",
        "SamplingParams",
        "__version__",
    }
    for name in radixserve.__all__:
        assert getattr(radixserve, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        _ = radixserve.Engine
