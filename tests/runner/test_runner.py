"""The runner on a tiny random checkpoint: plans in, transformers' own tokens out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from radixserve.cache.lease import Lease
from radixserve.cache.prefix_cache import PageCopy
from radixserve.config import EngineConfig
from radixserve.errors import ConfigError
from radixserve.ids import DEFAULT_NAMESPACE, PageArray, PageId, RequestId
from radixserve.model.config import ModelConfig
from radixserve.request import Request
from radixserve.runner import make
from radixserve.runner.make import make_runner
from radixserve.runner.runner import ModelRunner
from radixserve.sampling.noise import choice_seed
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.scheduler.plan import PlannedRow, StepPlan
from radixserve.tiers.moves import Load, Moves, SlotId, Store
from radixserve.types import SampledToken
from tests.support.checkpoints import load_reference, make_checkpoint

PAGE_SIZE = 4


@dataclass
class Pages:
    """All that the runner reads of a lease."""

    page_table: PageArray


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("runner") / "qwen3")


def runner_of(checkpoint: Path, **settings: Any) -> ModelRunner:
    config = EngineConfig(
        model=str(checkpoint),
        **{
            "device": "cpu",
            "dtype": "float32",
            "page_size": PAGE_SIZE,
            "num_pages": 200,
            **settings,
        },
    )
    return make_runner(config, checkpoint, ModelConfig.from_dir(checkpoint), progress=False)


@pytest.fixture(scope="module")
def runner(checkpoint: Path) -> ModelRunner:
    return runner_of(checkpoint)


def request_of(
    prompt: list[int], pages: list[int], *, index: int = 0, seed: int = 0, **params: Any
) -> Request:
    resolved = SamplingParams(**params).resolve(SamplingDefaults(), max_tokens=100, seed=seed)
    request = Request(
        RequestId("r"),
        np.array(prompt, dtype=np.int32),
        resolved,
        namespace=DEFAULT_NAMESPACE,
        stop_token_ids=frozenset({257}),
        arrival=0,
        index=index,
    )
    request.lease = cast(Lease, Pages(np.array(pages, dtype=np.int32)))
    return request


def run(runner: ModelRunner, *rows: tuple[Request, int], copies: tuple[PageCopy, ...] = ()) -> None:
    """One step in which each request runs at most so many of its tokens, then progress is noted."""
    planned = []
    for request, limit in rows:
        start = request.num_computed_tokens
        count = min(limit, request.num_tokens - start)
        planned.append(PlannedRow(request, start, count, int(start + count == request.num_tokens)))
    result = runner.run(StepPlan(tuple(planned), copies))
    for row, sampled in zip(planned, result.sampled, strict=True):
        assert len(sampled) == row.num_samples
        row.request.num_computed_tokens += row.num_scheduled_tokens
        for token in sampled:
            assert token is not None
            row.request.append(token.token_id)


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, length).tolist() for length in (1, 3, 4, 5, 17, 40)]


def test_greedy_tokens_are_transformers(runner: ModelRunner, checkpoint: Path) -> None:
    """Chunks of 7 and decodes mixed, pages scattered, all requests together."""
    pages = np.random.default_rng(1).permutation(200).tolist()
    requests = [
        request_of(prompt, [pages.pop() for _ in range(20)], temperature=0.0)
        for prompt in prompts()
    ]
    for _ in range(24):
        run(runner, *((request, 7) for request in requests))
    reference = load_reference(checkpoint)
    for request in requests:
        ids = torch.from_numpy(request.token_ids.astype(np.int64))[None]
        with torch.no_grad():
            logits = reference(ids).logits[0, request.num_prompt_tokens - 1 : -1]
        best = logits.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-3, "choose another seed: this tests rounding"
        assert request.output_ids.tolist() == logits.argmax(dim=-1).tolist()
        assert request.num_output_tokens >= 18


def test_a_copied_page_serves_as_the_original(runner: ModelRunner) -> None:
    prompt = prompts()[-1][:10]
    first = request_of(prompt, [0, 1, 2, 3], temperature=0.0)
    run(runner, (first, 10))
    again = request_of(prompt, [0, 1, 9, 8], temperature=0.0)
    again.num_computed_tokens = 9
    run(runner, (again, 1), copies=(PageCopy(PageId(2), PageId(9)),))
    assert again.output_ids.tolist() == first.output_ids.tolist()


@pytest.fixture(scope="module")
def tiered(checkpoint: Path) -> ModelRunner:
    page_gib = 3 * 2 * PAGE_SIZE * 2 * 32 * 4 / 2**30
    return runner_of(checkpoint, host_cache_gib=8.5 * page_gib)


def moves_of(stores: list[tuple[int, int]], loads: list[tuple[int, int]]) -> Moves:
    """Stores as (page, slot), loads as (slot, page)."""
    return Moves(
        tuple(Store(PageId(page), SlotId(slot)) for page, slot in stores),
        tuple(Load(SlotId(slot), PageId(page)) for slot, page in loads),
    )


def test_loaded_pages_serve_as_computed_ones(tiered: ModelRunner) -> None:
    """Stored by a plan that also has rows, which overwrite what is stored; loaded by a plan that
    has nothing else to do."""
    assert (tiered.info.num_host_pages, tiered.host_pages is not None) == (8, True)
    prompt = prompts()[-1][:10]
    first = request_of(prompt, [0, 1, 2, 3], temperature=0.0)
    run(tiered, (first, 10))
    other = request_of(prompts()[-2], [0, 1, 2, 3, 4], temperature=0.0)
    moves = moves_of([(0, 7), (1, 3)], [])
    stored = tiered.run(StepPlan((PlannedRow(other, 0, 17, 1),), (), moves))
    assert len(stored.sampled) == 1
    assert stored.moved_s > 0
    loaded = tiered.run(StepPlan((), (), moves_of([], [(7, 20), (3, 21)])))
    assert (loaded.sampled, loaded.scores) == ((), ())
    assert loaded.moved_s > 0
    again = request_of(prompt, [20, 21, 22], temperature=0.0)
    again.num_computed_tokens = 8
    run(tiered, (again, 2))
    assert again.output_ids.tolist() == first.output_ids.tolist()
    for keys, values in tiered._kv.layers:
        for page, copy in ((0, 20), (1, 21)):
            assert not torch.equal(keys[copy], keys[page]), "the rows have overwritten it since"
            assert not torch.equal(values[copy], values[page])


def test_moves_between_steps_leave_pending_tokens_pending(tiered: ModelRunner) -> None:
    prompt = prompts()[2]
    plain = request_of(prompt, list(range(10)), temperature=0.0)
    for _ in range(3):
        run(tiered, (plain, 100))
    ahead = request_of(prompt, list(range(10)), temperature=0.0)
    first = tiered.launch(StepPlan((PlannedRow(ahead, 0, len(prompt), 1),), ()))
    moved = tiered.launch(StepPlan((), (), moves_of([(30, 0)], [])))
    # Its input is what the first step has sampled, which nobody has told the host yet.
    second = tiered.launch(StepPlan((PlannedRow(ahead, len(prompt), 1, 1),), ()))
    tokens = [step.wait().sampled for step in (first, moved, second)]
    assert tokens[1] == ()
    found = [row[0].token_id for step in tokens for row in step if row[0] is not None]
    assert found == plain.output_ids[:2].tolist()


def test_a_launch_that_fails_has_waited_for_its_moves(
    tiered: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Noted:
        def wait(self) -> float:
            events.append("moved")
            return 0.0

    def fail(*_: object) -> None:
        events.append("failed")
        raise RuntimeError("no such batch")

    monkeypatch.setattr(tiered.host_pages, "perform", lambda _: Noted())
    monkeypatch.setattr(tiered._batches, "build", fail)
    request = request_of(prompts()[2], list(range(10)), temperature=0.0)
    with pytest.raises(RuntimeError, match="no such batch"):
        tiered.launch(StepPlan((PlannedRow(request, 0, 4, 1),), (), moves_of([(1, 0)], [])))
    assert events == ["failed", "moved"]


def test_a_step_has_ended_when_its_moves_have(
    tiered: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noted:
        def wait(self) -> float:
            return 0.125

    monkeypatch.setattr(tiered.host_pages, "perform", lambda _: Noted())
    request = request_of(prompts()[2], list(range(10)), temperature=0.0)
    row = PlannedRow(request, 0, 4, 1)
    for rows in ((row,), ()):
        assert tiered.run(StepPlan(rows, (), moves_of([(1, 0)], []))).moved_s == 0.125


def test_moves_without_host_pages_are_refused(runner: ModelRunner) -> None:
    assert (runner.info.num_host_pages, runner.host_pages) == (0, None)
    with pytest.raises(AssertionError, match="no host pages"):
        runner.launch(StepPlan((), (), moves_of([(1, 0)], [])))


def test_the_pool_leaves_room_for_the_host_tier(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_bytes = 3 * 2 * PAGE_SIZE * 2 * 32 * 4
    monkeypatch.setattr(make, "available_bytes", lambda: 2000 * page_bytes)
    settings: dict[str, Any] = {"num_pages": None, "max_model_len": 64}
    gib = 1000 * page_bytes / 2**30
    alone, beside = (
        runner_of(checkpoint, host_cache_gib=size, **settings).info for size in (None, gib)
    )
    assert (alone.num_pages, alone.num_host_pages) == (800, 0)
    assert (beside.num_pages, beside.num_host_pages) == (400, 1000)


def test_forks_draw_as_their_choices_would_alone(runner: ModelRunner) -> None:
    prompt = prompts()[-2]
    request = request_of(prompt, list(range(10)), seed=5, temperature=20.0, n=4)
    plan = StepPlan((PlannedRow(request, 0, len(prompt), 4),), ())
    (forked,) = runner.run(plan).sampled
    alone: list[SampledToken | None] = []
    for index in range(4):
        choice = request_of(prompt, list(range(10)), index=index, seed=5, temperature=20.0)
        alone += runner.run(StepPlan((PlannedRow(choice, 0, len(prompt), 1),), ())).sampled[0]
    assert list(forked) == alone
    seeded = request_of(prompt, list(range(10)), seed=choice_seed(5, 2), temperature=20.0)
    (own,) = runner.run(StepPlan((PlannedRow(seeded, 0, len(prompt), 1),), ())).sampled[0]
    assert own == forked[2]


def test_noise_follows_the_position(runner: ModelRunner) -> None:
    """Preempted and resumed, a request draws the tokens that it would have drawn anyway."""
    request = request_of(prompts()[2], list(range(10)), seed=3, temperature=20.0)
    for _ in range(12):
        run(runner, (request, 100))
    resumed = request_of(prompts()[2], list(range(20, 30)), seed=3, temperature=20.0)
    for token in request.output_ids[:6].tolist():
        resumed.append(token)
    for _ in range(6):
        run(runner, (resumed, 100))
    assert resumed.token_ids.tolist() == request.token_ids.tolist()


def test_rows_inside_a_prompt_give_no_token(runner: ModelRunner) -> None:
    inside = request_of(prompts()[-1], list(range(12)), temperature=0.0)
    assert runner.run(StepPlan((PlannedRow(inside, 0, 8, 0),), ())).sampled == ((),)


def test_stop_tokens_wait_for_min_tokens(runner: ModelRunner) -> None:
    bias = {257: 100.0}
    request = request_of(
        prompts()[1], list(range(10)), temperature=0.0, min_tokens=3, logit_bias=bias
    )
    for _ in range(4):
        run(runner, (request, 100))
    assert request.output_ids.tolist().count(257) == 1
    assert request.output_ids[3] == 257


def test_a_context_over_stale_nan_pages_is_unharmed(runner: ModelRunner) -> None:
    request = request_of(prompts()[3], [50, 51, 52], temperature=0.0)
    run(runner, (request, 100))
    for keys, values in runner._kv.layers:
        keys[60:63] = torch.nan
        values[60:63] = torch.nan
    again = request_of(prompts()[3], [60, 61, 62], temperature=0.0)
    run(runner, (again, 2))
    run(runner, (again, 100))
    assert again.output_ids.tolist() == request.output_ids.tolist()


def test_info_says_what_was_made(runner: ModelRunner) -> None:
    info = runner.info
    assert (info.device, info.dtype, info.attention) == ("cpu", "float32", "cpu")
    assert (info.num_pages, info.page_size, info.vocab_size) == (200, PAGE_SIZE, 320)
    assert info.kv_cache_bytes == 200 * 3 * 2 * PAGE_SIZE * 2 * 32 * 4
    assert info.max_model_len == 4096


def test_bfloat16_runs_and_threads_are_set(checkpoint: Path) -> None:
    threads = torch.get_num_threads()
    try:
        runner = runner_of(
            checkpoint,
            dtype="bfloat16",
            num_threads=1,
            kv_cache_gib=0.01,
            num_pages=None,
            max_model_len=100,
        )
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    request = request_of(prompts()[-1], list(range(12)), temperature=0.0)
    run(runner, (request, 100))
    assert request.num_output_tokens == 1
    assert runner.info.num_pages == int(0.01 * 2**30) // (3 * 2 * PAGE_SIZE * 2 * 32 * 2)


def test_a_cache_below_one_context_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_model_len \(4096\) tokens needs 1025"):
        runner_of(checkpoint, num_pages=None, kv_cache_gib=0.0001)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_running": 128, "max_batch_tokens": 64}, "max_batch_tokens .64. is smaller"),
        ({"max_batch_tokens": 2**20, "attention": "varlen"}, "'varlen' runs on CUDA GPUs only"),
    ],
)
def test_what_cannot_be_is_refused_before_the_weights_are_read(
    checkpoint: Path, settings: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(make, "load_model")
    with pytest.raises(ConfigError, match=words):
        runner_of(checkpoint, **settings)
