"""Exact hits: what was computed is found again to the token, and no more than that."""

from pathlib import Path

import pytest

from radixserve import LLM, RequestOutput, SamplingParams
from radixserve.ids import Namespace
from tests.engine.reference import SMALLEST_GAP, mixed_prompts, transformers_greedy

PAGE_SIZE = 16
NUM_TOKENS = 8
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)


@pytest.fixture(scope="module")
def tiny(tiny_dir: Path) -> LLM:
    return LLM(str(tiny_dir), dtype="float32", num_pages=200, page_size=PAGE_SIZE, num_threads=1)


def num_common(left: list[int], right: list[int]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )


def test_sharing_k_tokens_hits_k_tokens(tiny: LLM, tiny_dir: Path) -> None:
    first, *others = mixed_prompts(5, seed=11, longest=60)[::-1]
    other = others[0]
    assert first[0] != other[0]
    overlaps = range(3 * PAGE_SIZE + 1)
    branches = [first[:k] + other[:9] for k in overlaps if first[k] != other[0]]
    stems = [first[:k] for k in overlaps if k]
    reference = transformers_greedy(tiny_dir, [*branches, *stems], NUM_TOKENS)
    assert reference.smallest_gap > SMALLEST_GAP
    assert len(branches) >= 3 * PAGE_SIZE
    for prompt, expected in zip([*branches, *stems], reference.tokens, strict=True):
        tiny.clear_cache()
        tiny.generate(first, GREEDY)
        (output,) = tiny.generate(prompt, GREEDY)
        assert output.num_cached_tokens == min(num_common(first, prompt), len(prompt) - 1)
        assert output.token_ids == expected
        tiny.check_invariants()


def test_answers_are_found_again_but_for_their_last_token(tiny: LLM, tiny_dir: Path) -> None:
    """The last token was sampled and never computed on."""
    tiny.clear_cache()
    prompt = mixed_prompts(3, seed=12, longest=40)[2]
    (first,) = tiny.generate(prompt, GREEDY)
    whole = prompt + first.token_ids
    (again,) = tiny.generate([*whole, 1, 2, 3], GREEDY)
    assert again.num_cached_tokens == len(whole) - 1
    (same,) = tiny.generate(whole, GREEDY)
    # The second request did compute it, but one token must run.
    assert same.num_cached_tokens == len(whole) - 1
    (longer,) = tiny.generate([*whole, 1, 2, 3, 4], GREEDY)
    assert longer.num_cached_tokens == len(whole) + 3
    reference = transformers_greedy(tiny_dir, [prompt, [*whole, 1, 2, 3], whole], NUM_TOKENS)
    assert reference.smallest_gap > SMALLEST_GAP
    assert [out.token_ids for out in (first, again, same)] == reference.tokens


def test_choices_leave_their_answers_too(tiny: LLM) -> None:
    tiny.clear_cache()
    prompt = mixed_prompts(3, seed=13, longest=40)[2]
    params = SamplingParams(temperature=2.0, seed=1, n=3, max_tokens=NUM_TOKENS, ignore_eos=True)
    (output,) = tiny.generate(prompt, params)
    answers = [choice.token_ids for choice in output.choices]
    assert len({tuple(answer) for answer in answers}) == 3
    for answer in answers:
        (again,) = tiny.generate([*prompt, *answer, 1], GREEDY)
        assert again.num_cached_tokens == len(prompt) + NUM_TOKENS - 1


def test_three_turn_chat_reuses_every_computed_token(noise_dir: Path) -> None:
    """The number is computed from token ids: the longest common prefix with what an earlier request
    had computed, which is its prompt and its answer but for the last token."""
    params = SamplingParams(temperature=0.8, seed=5, max_tokens=40)
    computed: list[list[int]] = []
    with LLM(str(noise_dir), dtype="float32", num_pages=200, num_threads=1) as llm:
        messages = [{"role": "system", "content": "You are a brief and friendly assistant."}]
        for turn, question in enumerate(("Who are you?", "And your name?", "Thank you, bye!")):
            messages.append({"role": "user", "content": question})
            output: RequestOutput = llm.chat(messages, params)
            expected = max(
                (num_common(output.prompt_ids[:-1], earlier) for earlier in computed), default=0
            )
            assert output.num_cached_tokens == expected
            if turn:
                # Not only the question is common, so is the answer as the template renders it.
                assert expected == len(computed[-1])
            computed.append((output.prompt_ids + output.token_ids)[:-1])
            messages.append({"role": "assistant", "content": output.text})
        llm.check_invariants()


def test_namespaces_share_nothing(tiny: LLM) -> None:
    tiny.clear_cache()
    prompt = mixed_prompts(3, seed=14, longest=40)[2]
    (alone,) = tiny.generate(prompt, GREEDY, namespace=Namespace("alice"))
    (other,) = tiny.generate(prompt, GREEDY, namespace=Namespace("bob"))
    (again,) = tiny.generate(prompt, GREEDY, namespace=Namespace("alice"))
    assert alone.num_cached_tokens == other.num_cached_tokens == 0
    assert again.num_cached_tokens == len(prompt) - 1
    assert alone.token_ids == other.token_ids == again.token_ids
