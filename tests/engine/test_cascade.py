"""Read once changes no token: with levels wherever rows share a page, with none, warm and cold."""

from pathlib import Path
from typing import Any

import pytest

from radixserve import LLM, SamplingParams
from radixserve.attention.base import AttentionBackend
from radixserve.attention.registry import make_attention
from radixserve.cascade import CascadeCosts
from radixserve.runner.runner import LaunchedStep, ModelRunner
from radixserve.scheduler.plan import StepPlan
from tests.engine.reference import SMALLEST_GAP, family_prompts, transformers_greedy

NUM_TOKENS = 24
PROMPTS = family_prompts(seed=3)
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
LONGEST = max(map(len, PROMPTS)) + NUM_TOKENS

Answers = list[list[int]]

CONDITIONS: dict[str, dict[str, Any]] = {
    "pages_of_16": {"num_pages": 600},
    "pages_of_1": {"page_size": 1, "num_pages": 6000},
    "pages_of_4_in_small_chunks": {
        "page_size": 4,
        "num_pages": 2000,
        "max_batch_tokens": 24,
        "max_running": 16,
    },
    "tiny_pool": {"page_size": 4, "num_pages": 2 * -(-LONGEST // 4)},
    "costs_as_measured": {"page_size": 4, "num_pages": 2000},
}


@pytest.fixture(scope="module")
def reference(tiny_dir: Path) -> Answers:
    run = transformers_greedy(tiny_dir, PROMPTS, NUM_TOKENS)
    assert run.smallest_gap > SMALLEST_GAP
    return run.tokens


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[StepPlan]:
    """All plans that are launched from now on."""
    launched: list[StepPlan] = []
    launch = ModelRunner.launch

    def note(runner: ModelRunner, plan: StepPlan) -> LaunchedStep:
        launched.append(plan)
        return launch(runner, plan)

    monkeypatch.setattr(ModelRunner, "launch", note)
    return launched


def share_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level wherever two rows have a page in common, whatever it costs."""

    def make_cheap(*arguments: Any) -> AttentionBackend:
        attention = make_attention(*arguments)
        attention.cascade_costs = CascadeCosts(0, 0)
        return attention

    monkeypatch.setattr("radixserve.runner.make.make_attention", make_cheap)


def generate(llm: LLM) -> Answers:
    return [output.token_ids for output in llm.generate(PROMPTS, GREEDY)]


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_tokens_are_the_same(
    name: str,
    tiny_dir: Path,
    reference: Answers,
    plans: list[StepPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name != "costs_as_measured":
        share_everything(monkeypatch)
    with LLM(str(tiny_dir), dtype="float32", num_threads=1, **CONDITIONS[name]) as llm:
        assert generate(llm) == reference
        num_cold = len(plans)
        assert generate(llm) == reference
        llm.check_invariants()
    if name == "costs_as_measured":
        return
    for some in (plans[:num_cold], plans[num_cold:]):
        shared = [(level, plan) for plan in some for level in plan.cascade.levels]
        assert len(shared) > 30
        assert any(level.first_page > 0 for level, _ in shared), "none inside another"
        assert any(level.end_row - level.first_row > 2 for level, _ in shared)
    assert any(
        row.num_scheduled_tokens > 1
        for plan in plans
        for level in plan.cascade.levels
        for row in plan.rows[level.first_row : level.end_row]
    ), "no chunk has read what it shares"


def test_off_nothing_is_shared(
    tiny_dir: Path, reference: Answers, plans: list[StepPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    share_everything(monkeypatch)
    with LLM(str(tiny_dir), dtype="float32", num_threads=1, num_pages=600, cascade=False) as llm:
        assert generate(llm) == reference
    assert plans
    assert not any(plan.cascade.levels for plan in plans)


def test_choices_of_one_prompt_share_it(
    tiny_dir: Path, plans: list[StepPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    share_everything(monkeypatch)
    params = SamplingParams(temperature=1.0, n=4, seed=7, max_tokens=NUM_TOKENS, ignore_eos=True)
    answers = {}
    for cascade in (True, False):
        with LLM(
            str(tiny_dir), dtype="float32", num_threads=1, num_pages=600, cascade=cascade
        ) as llm:
            (output,) = llm.generate([PROMPTS[-3]], params)
            answers[cascade] = [choice.token_ids for choice in output.choices]
    assert answers[True] == answers[False]
    widest = max(
        (level for plan in plans for level in plan.cascade.levels),
        key=lambda level: level.end_row - level.first_row,
    )
    assert widest.end_row - widest.first_row == 4
    assert widest.end_page == len(PROMPTS[-3]) // 16
