"""The whole engine on the kernels gives the CPU backend's tokens: chunks, decode rows, shared
pages, copies, forks, penalties, preemptions, steps planned ahead, recorded decode steps.

Where there is a GPU it runs there; elsewhere the kernels run under Triton's interpreter.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from radixserve.attention.base import GraphAttention
from radixserve.cascade import Level
from radixserve.runner.runner import LaunchedStep, ModelRunner
from radixserve.scheduler.plan import StepPlan
from radixserve.types import EngineRequest
from radixserve_kernels.paged_attention.splits import SPLIT_TOKENS
from tests.engine.driving import Driver, make_core, make_request
from tests.engine.reference import SMALLEST_GAP, transformers_greedy
from tests.support.checkpoints import make_checkpoint
from tests.support.recorder import RunAgain

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_TOKENS = 6

# Few and short: under the interpreter a token of a prompt takes as long as thousands on a GPU.
SYSTEM = [(7 * i) % 250 for i in range(21)]
PROMPTS = {
    "one": [65],
    "short": [(3 * i) % 251 for i in range(7)],
    "long": [(11 * i + 3) % 253 for i in range(37)],
    "shared": [*SYSTEM, 1, 2, 3],
    "shared_too": [*SYSTEM, 1, 9],
    "page": [(5 * i + 1) % 241 for i in range(16)],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("triton") / "qwen3"
    return make_checkpoint("qwen3", directory, num_hidden_layers=2)


def greedy() -> list[EngineRequest]:
    return [make_request(name, prompt, NUM_TOKENS) for name, prompt in PROMPTS.items()]


def sampled() -> list[EngineRequest]:
    """Every way to choose a token, some of it beside each other in one step."""
    ways: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"top_k": 30, "presence_penalty": 0.7},
        {"top_p": 0.8, "frequency_penalty": 0.4, "n": 2},
        {"min_p": 0.02, "logprobs": 3},
        {"top_k": 40, "top_p": 0.9, "logit_bias": {65: 3.0}, "n": 3},
        {"min_tokens": 5},
    ]
    return [
        make_request(
            name, prompt, NUM_TOKENS, seed=row, temperature=1.0, end_token_ids=(257,), **way
        )
        for row, ((name, prompt), way) in enumerate(zip(PROMPTS.items(), ways, strict=True))
    ]


def tokens(driver: Driver, requests: list[EngineRequest]) -> dict[tuple[str, int], list[int]]:
    for request in requests:
        driver.add(request)
    driver.run()
    found, driver.tokens, driver.ends = driver.tokens, {}, {}
    return found


@dataclass(frozen=True, slots=True)
class Condition:
    settings: dict[str, Any]
    max_in_flight: int = 2
    records: bool = False


CONDITIONS = {
    "one_at_a_time": Condition({}, max_in_flight=1),
    "chunks_ahead": Condition({"max_batch_tokens": 11, "max_running": 5}),
    "small_pool": Condition({"num_pages": 13, "page_size": 4, "max_model_len": 44}),
    "recorded": Condition({}, records=True),
}


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[tuple[str, int], list[int]]:
    """By the CPU's torch backend, each request alone."""
    found: dict[tuple[str, int], list[int]] = {}
    for request in sampled():
        driver = Driver(make_core(checkpoint, device="cpu", attention="torch"))
        found |= tokens(driver, [request])
    return found


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_tokens_are_the_cpu_backends(
    condition: Condition, checkpoint: Path, expected: dict[tuple[str, int], list[int]]
) -> None:
    core = make_core(
        checkpoint,
        device=DEVICE,
        attention="triton",
        cuda_graphs=False,
        max_in_flight=condition.max_in_flight,
        **condition.settings,
    )
    runner = core._runner
    assert isinstance(runner, ModelRunner)
    assert (runner.info.attention, runner.info.device) == ("triton", DEVICE)
    recorder = RunAgain()
    if condition.records:
        assert isinstance(runner._attention, GraphAttention)
        runner.record_graphs(runner._attention, recorder, [1, 2, 4, 8], progress=False)
    driver = Driver(core)
    assert tokens(driver, sampled()) == expected
    assert core.stats().cached_tokens > 0
    assert bool(recorder.runs) == condition.records
    assert bool(core.stats().preemptions) == ("num_pages" in condition.settings)
    driver.assert_nothing_leaked()


def test_warm_tokens_are_the_cold_ones(checkpoint: Path) -> None:
    driver = Driver(make_core(checkpoint, device=DEVICE, attention="triton", max_in_flight=2))
    cold = tokens(driver, sampled()[:4])
    before = driver.core.stats()
    assert tokens(driver, sampled()[:4]) == cold
    after = driver.core.stats()
    assert after.cached_tokens - before.cached_tokens == sum(
        len(prompt) - 1 for prompt in list(PROMPTS.values())[:4]
    )


def test_what_rows_share_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels are of whole splits: it takes a long document. Recorded steps, planned ahead."""
    directory = make_checkpoint("qwen3", tmp_path / "qwen3", num_hidden_layers=1)
    document = [(13 * i + 5) % 251 for i in range(SPLIT_TOKENS + 2)]
    first = make_request("document", document, 1)
    # All but their last token is cached: no row is a chunk.
    rest = [make_request(str(row), [*document, row], 3, seed=row) for row in range(6)]
    launched: list[StepPlan] = []
    launch = ModelRunner.launch

    def note(runner: ModelRunner, plan: StepPlan) -> LaunchedStep:
        launched.append(plan)
        return launch(runner, plan)

    found, recorder = {}, RunAgain()
    for attention, device in (("torch", "cpu"), ("triton", DEVICE)):
        core = make_core(
            directory,
            device=device,
            attention=attention,
            cuda_graphs=False,
            max_in_flight=1 + (attention == "triton"),
        )
        driver = Driver(core)
        tokens(driver, [first])
        if attention == "triton":
            runner = core._runner
            assert isinstance(runner, ModelRunner)
            assert isinstance(runner._attention, GraphAttention)
            runner.record_graphs(runner._attention, recorder, [6], progress=False)
            recorder.runs.clear()
            monkeypatch.setattr(ModelRunner, "launch", note)
        found[attention] = tokens(driver, rest)
        driver.assert_nothing_leaked()
    assert found["triton"] == found["torch"]
    levels = [plan.cascade.levels for plan in launched]
    assert levels.count((Level(0, 6, 0, SPLIT_TOKENS // 16),)) > 1
    assert len(recorder.runs) > 1


def test_greedy_tokens_are_transformers(checkpoint: Path) -> None:
    reference = transformers_greedy(checkpoint, list(PROMPTS.values()), NUM_TOKENS)
    assert reference.smallest_gap > SMALLEST_GAP, "choose other prompts: this tests rounding"
    driver = Driver(make_core(checkpoint, device=DEVICE, attention="triton", max_in_flight=2))
    found = tokens(driver, greedy())
    assert found == {(name, 0): ids for name, ids in zip(PROMPTS, reference.tokens, strict=True)}
    driver.assert_nothing_leaked()
