"""Warm equals cold: the tokens never depend on the cache, the batch, the chunks or the pool.

Greedy answers are transformers'; sampled ones are those of requests run alone on an empty cache.
Every condition is a way to run the same 32 prompts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from radixserve import LLM, RequestOutput, SamplingParams
from radixserve.tiers.costs import Costs
from tests.engine.reference import (
    SMALLEST_GAP,
    family_prompts,
    transformers_greedy,
)

NUM_TOKENS = 32
PROMPTS = family_prompts(seed=3)
LONGEST = max(map(len, PROMPTS)) + NUM_TOKENS

GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)

SAMPLED = [
    SamplingParams(
        temperature=1.0,
        top_p=(1.0, 0.9, 0.8)[row % 3],
        top_k=(0, 40)[row % 2],
        min_p=(0.0, 0.0, 0.0, 0.02)[row % 4],
        repetition_penalty=(1.0, 1.2)[row % 2],
        presence_penalty=(0.0, 0.5, 0.0)[row % 3],
        frequency_penalty=(0.0, 0.0, 0.3)[row % 3],
        logit_bias={65: 2.0} if row % 5 == 0 else {},
        n=(1, 1, 3, 1)[row % 4],
        seed=1000 + row,
        max_tokens=NUM_TOKENS,
        ignore_eos=True,
    )
    for row in range(len(PROMPTS))
]


Answers = list[list[list[int]]]
"""Token ids of every choice of every prompt."""


def answers(outputs: list[RequestOutput]) -> Answers:
    return [[choice.token_ids for choice in output.choices] for output in outputs]


@dataclass(frozen=True, slots=True)
class Condition:
    """Settings of the engine, and how the prompts are given to it."""

    settings: dict[str, Any]
    run: Callable[[LLM, Any], Answers]
    check: Callable[[LLM], None] = LLM.check_invariants


def together(llm: LLM, params: Any) -> Answers:
    return answers(llm.generate(PROMPTS, params))


def one_by_one(llm: LLM, params: Any) -> Answers:
    each = params if isinstance(params, list) else [params] * len(PROMPTS)
    return [
        answers(llm.generate([prompt], own))[0] for prompt, own in zip(PROMPTS, each, strict=True)
    ]


def backwards(llm: LLM, params: Any) -> Answers:
    each = params if isinstance(params, list) else [params] * len(PROMPTS)
    return answers(llm.generate(PROMPTS[::-1], each[::-1]))[::-1]


def twice(llm: LLM, params: Any) -> Answers:
    cold = together(llm, params)
    before = llm.stats()
    warm = together(llm, params)
    after = llm.stats()
    assert cold == warm
    # The second time every prompt is cached but for the one token that must run.
    prompt_tokens = sum(map(len, PROMPTS))
    assert after.prompt_tokens - before.prompt_tokens == prompt_tokens
    assert after.cached_tokens - before.cached_tokens == prompt_tokens - len(PROMPTS)
    return warm


def cleared(llm: LLM, params: Any) -> Answers:
    together(llm, params)
    assert llm.clear_cache() > 0
    info = llm.cache_info()
    assert (info.free_pages, info.cached_pages) == (info.total_pages, 0)
    return together(llm, params)


def nothing_shared(llm: LLM) -> None:
    assert llm.stats().cached_tokens == 0
    assert llm.cache_info().cached_pages == 0


def under_pressure(llm: LLM) -> None:
    stats = llm.stats()
    assert stats.preemptions > 5
    assert stats.evicted_pages > 10
    # What was evicted from under the preempted was computed again.
    cold = stats.prompt_tokens - stats.cached_tokens + stats.generated_tokens - len(PROMPTS)
    assert stats.computed_tokens > cold


def again(llm: LLM, params: Any) -> Answers:
    """Twice, in a pool too small to keep everything."""
    cold = together(llm, params)
    warm = together(llm, params)
    assert cold == warm
    return warm


def from_host_memory(llm: LLM) -> None:
    stats = llm.stats()
    assert stats.tiers is not None
    assert stats.evicted_pages > 10
    assert stats.host_tokens >= 16
    assert stats.tiers.host_loaded_pages > 10
    assert stats.disk_tokens == 0


def from_little_host_memory(llm: LLM) -> None:
    stats = llm.stats()
    assert stats.tiers is not None
    assert stats.tiers.host_free_pages == 0
    assert stats.tiers.host_loaded_pages > 3
    # What was given up below was computed once more.
    assert stats.computed_tokens > sum(map(len, PROMPTS))


def from_files(llm: LLM) -> None:
    stats = llm.stats()
    assert stats.tiers is not None
    assert stats.tiers.disk_stored_pages > 5
    assert stats.tiers.host_loaded_pages + stats.tiers.disk_loaded_pages > 3
    assert stats.tiers.rejected_files == 0


SMALLEST_POOL = -(-(LONGEST - 1) // 16)
SMALL_POOL = SMALLEST_POOL + 8

CONDITIONS = {
    "together": Condition({}, together),
    "twice": Condition({}, twice),
    "cleared": Condition({}, cleared),
    "one_by_one": Condition({}, one_by_one),
    "one_running": Condition({"max_running": 1}, together),
    "32_running": Condition({"max_running": 32}, together),
    "chunks_of_16": Condition({"max_batch_tokens": 16, "max_running": 16}, together),
    "chunks_of_7": Condition({"max_batch_tokens": 7, "max_running": 7}, twice),
    "chunks_of_2048": Condition({"max_batch_tokens": 2048}, together),
    "paced": Condition({"max_itl_stretch": 1.1}, together),
    "pages_of_1": Condition({"page_size": 1, "num_pages": 8000}, twice),
    "pages_of_3": Condition({"page_size": 3, "num_pages": 2000}, backwards),
    "pages_of_64": Condition({"page_size": 64, "num_pages": 300}, twice),
    "no_prefix_cache": Condition({"enable_prefix_cache": False}, together, nothing_shared),
    "tiny_pool": Condition({"num_pages": SMALLEST_POOL}, backwards, under_pressure),
    "tiny_pool_of_single_tokens": Condition(
        {"num_pages": LONGEST - 1, "page_size": 1}, together, under_pressure
    ),
    "tiny_pool_in_small_chunks": Condition(
        {"num_pages": SMALLEST_POOL + 3, "max_batch_tokens": 16, "max_running": 16},
        together,
        under_pressure,
    ),
    "tiny_pool_without_prefix_cache": Condition(
        {"num_pages": SMALLEST_POOL, "enable_prefix_cache": False}, together, under_pressure
    ),
    "host_tier": Condition(
        {"num_pages": SMALL_POOL, "host_cache_gib": 0.01}, again, from_host_memory
    ),
    "host_tier_in_small_chunks_and_pages": Condition(
        {
            "num_pages": 5 * SMALLEST_POOL,
            "page_size": 4,
            "max_batch_tokens": 16,
            "max_running": 16,
            "host_cache_gib": 0.01,
        },
        again,
        from_host_memory,
    ),
    "tiny_host_tier": Condition(
        {"num_pages": SMALL_POOL, "host_cache_gib": 2e-4}, again, from_little_host_memory
    ),
    "cache_dir": Condition({"num_pages": SMALL_POOL, "cache_dir": "pages"}, again, from_files),
    "cache_dir_behind_a_tiny_host_tier": Condition(
        {"num_pages": SMALL_POOL, "cache_dir": "pages", "host_cache_gib": 2e-4}, again, from_files
    ),
}

GREEDY_ONLY = {"host_tier", "host_tier_in_small_chunks_and_pages", "cache_dir"}
"""Conditions that are much like others; sampling takes its time."""

DEFAULTS: dict[str, Any] = {
    "dtype": "float32",
    "num_pages": 600,
    "page_size": 16,
    "num_threads": 1,
}


@pytest.fixture(autouse=True)
def always_worth_loading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether it is depends on times, and the tokens must not. ``cache_dir`` is relative here."""
    monkeypatch.setattr(Costs, "is_worth_host", lambda costs: True)
    monkeypatch.setattr(Costs, "is_worth_disk", lambda costs: True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def greedy_answers(tiny_dir: Path) -> Answers:
    reference = transformers_greedy(tiny_dir, PROMPTS, NUM_TOKENS)
    assert reference.smallest_gap > SMALLEST_GAP
    return [[tokens] for tokens in reference.tokens]


@pytest.fixture(scope="module")
def sampled_answers(loose_dir: Path) -> Answers:
    """Each request alone, on an empty cache, in one chunk."""
    with LLM(str(loose_dir), **DEFAULTS) as llm:
        result: Answers = []
        for prompt, params in zip(PROMPTS, SAMPLED, strict=True):
            result += answers(llm.generate([prompt], params))
            llm.clear_cache()
    return result


@pytest.mark.parametrize("name", CONDITIONS)
def test_greedy_tokens_are_the_same(name: str, tiny_dir: Path, greedy_answers: Answers) -> None:
    condition = CONDITIONS[name]
    with LLM(str(tiny_dir), **DEFAULTS | condition.settings) as llm:
        assert condition.run(llm, GREEDY) == greedy_answers
        condition.check(llm)
        llm.check_invariants()
        assert llm.cache_info().in_use_pages == 0


@pytest.mark.parametrize("name", [name for name in CONDITIONS if name not in GREEDY_ONLY])
def test_sampled_tokens_are_the_same(name: str, loose_dir: Path, sampled_answers: Answers) -> None:
    condition = CONDITIONS[name]
    with LLM(str(loose_dir), **DEFAULTS | condition.settings) as llm:
        assert condition.run(llm, SAMPLED) == sampled_answers
        condition.check(llm)
        llm.check_invariants()
        assert llm.cache_info().in_use_pages == 0


def test_a_restart_changes_no_token(
    tiny_dir: Path, loose_dir: Path, greedy_answers: Answers, sampled_answers: Answers
) -> None:
    """What another engine has written is loaded, by one that has computed nothing yet."""
    settings = DEFAULTS | {"num_pages": SMALL_POOL, "cache_dir": "pages"}
    for directory, params, expected in (
        (tiny_dir, GREEDY, greedy_answers),
        (loose_dir, SAMPLED, sampled_answers),
    ):
        with LLM(str(directory), **settings) as llm:
            assert together(llm, params) == expected
        with LLM(str(directory), **settings) as llm:
            before = llm.stats()
            assert together(llm, params) == expected
            after = llm.stats()
            llm.check_invariants()
        assert before.tiers is not None
        assert before.tiers.disk_pages > 20
        # Every prompt finds its whole pages, there or where another one has just loaded them.
        whole = sum((len(prompt) - 1) // 16 * 16 for prompt in PROMPTS)
        assert after.cached_tokens >= whole
        assert after.disk_tokens >= 16 * 20


def test_sampled_reference_is_fit_to_test_with(sampled_answers: Answers) -> None:
    """Noise decides: prompts that are equal, and choices of one prompt, have different answers."""
    whole = [tuple(choice) for choices in sampled_answers for choice in choices]
    assert len(whole) == sum(params.n for params in SAMPLED)
    assert len(set(whole)) == len(whole)
    assert PROMPTS[-1] in PROMPTS[:-1]


def test_seed_alone_decides(loose_dir: Path) -> None:
    prompt = PROMPTS[5]
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=NUM_TOKENS, ignore_eos=True)
    with LLM(str(loose_dir), **DEFAULTS) as llm:
        first, second, other = llm.generate(
            [prompt, prompt, prompt],
            [params, params, SamplingParams(temperature=1.0, seed=8, max_tokens=NUM_TOKENS)],
        )
        silent = SamplingParams(temperature=1.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        drawn = llm.generate([prompt, prompt], silent)
    assert first.token_ids == second.token_ids
    assert first.token_ids != other.token_ids
    assert drawn[0].token_ids != drawn[1].token_ids
