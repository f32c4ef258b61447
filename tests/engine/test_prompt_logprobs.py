"""Log-probabilities of prompts: the model's own, whatever the engine does with the prompt."""

import gc
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from radixserve import LLM
from radixserve.sampling.params import SamplingParams
from radixserve.types import ResumedChoice, TokenDelta, TokenLogprob
from tests.engine.driving import make_core, make_request

COUNT = 3
PROMPT = np.random.default_rng(7).integers(1, 256, 150).tolist()


@pytest.fixture(scope="module")
def reference(tiny_dir: Path) -> torch.Tensor:
    """float32[T, V]: the log-probabilities after each token of ``PROMPT``, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT])).logits[0]
    gc.collect()
    assert isinstance(logits, torch.Tensor)
    return logits.log_softmax(-1)


def check(
    found: list[TokenLogprob | None] | None, reference: torch.Tensor, *, count: int = COUNT
) -> None:
    assert found is not None
    assert len(found) == len(PROMPT)
    assert found[0] is None
    entries = [entry for entry in found if entry is not None]
    assert len(entries) == len(PROMPT) - 1
    assert [entry.token_id for entry in entries] == PROMPT[1:]
    own = torch.tensor([entry.logprob for entry in entries])
    rows = torch.arange(len(PROMPT) - 1)
    torch.testing.assert_close(own, reference[rows, torch.tensor(PROMPT[1:])], atol=2e-4, rtol=0)
    assert all(len(entry.top) == count for entry in entries)
    if count:
        best = torch.tensor([[value for _, value in entry.top] for entry in entries])
        torch.testing.assert_close(best, reference[:-1].topk(count).values, atol=2e-4, rtol=0)


class Listener:
    """Runs a core and keeps every delta."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.core = make_core(directory, **settings)  # type: ignore[arg-type]  # test settings
        self.deltas: list[TokenDelta] = []

    def run(self) -> None:
        while self.core.has_work:
            self.deltas += self.core.step()
            self.core.check_invariants()
        assert self.core.cache_info().in_use_pages == 0

    def scores(self, name: str) -> list[TokenLogprob | None]:
        """The one list that a request told."""
        found = [
            delta.prompt_logprobs
            for delta in self.deltas
            if delta.request_id == name and delta.prompt_logprobs is not None
        ]
        assert len(found) == 1, "told once, with the first delta"
        return found[0]

    def tokens(self, name: str, index: int = 0) -> list[int]:
        return [
            token
            for delta in self.deltas
            if delta.request_id == name and delta.index == index
            for token in delta.token_ids
        ]


@pytest.mark.parametrize("max_in_flight", [1, 2])
@pytest.mark.parametrize("chunk", [7, 16, 2048])
def test_in_chunks_of_any_size(
    tiny_dir: Path, reference: torch.Tensor, chunk: int, max_in_flight: int
) -> None:
    engine = Listener(tiny_dir, max_batch_tokens=chunk, max_running=4, max_in_flight=max_in_flight)
    engine.core.add(make_request("a", PROMPT, 6, prompt_logprobs=COUNT))
    # A neighbour that asks for nothing, and one that wants other numbers.
    engine.core.add(make_request("b", PROMPT[:40], 6))
    engine.core.add(make_request("c", PROMPT, 6, prompt_logprobs=0, n=3, temperature=1.0))
    engine.run()
    check(engine.scores("a"), reference)
    check(engine.scores("c"), reference, count=0)
    assert not any(delta.prompt_logprobs for delta in engine.deltas if delta.request_id == "b")
    alone = Listener(tiny_dir)
    alone.core.add(make_request("b", PROMPT[:40], 6))
    alone.run()
    assert engine.tokens("b") == alone.tokens("b")


def test_what_is_cached_is_computed_again_and_changes_no_token(
    tiny_dir: Path, reference: torch.Tensor
) -> None:
    engine = Listener(tiny_dir)
    engine.core.add(make_request("cold", PROMPT, 8))
    engine.run()
    engine.core.add(make_request("scored", PROMPT, 8, prompt_logprobs=COUNT))
    engine.run()
    check(engine.scores("scored"), reference)
    assert engine.tokens("scored") == engine.tokens("cold")
    (report,) = [
        delta.cache_report
        for delta in engine.deltas
        if delta.request_id == "scored" and delta.cache_report is not None
    ]
    assert report.cause == "scored"
    assert report.computed_tokens == len(PROMPT)
    # And what it leaves is found as ever.
    engine.core.add(make_request("warm", PROMPT, 8))
    engine.run()
    assert engine.tokens("warm") == engine.tokens("cold")
    warm = [delta for delta in engine.deltas if delta.request_id == "warm"]
    assert warm[0].num_cached_tokens == len(PROMPT) - 1


def test_preemption_in_mid_prompt_loses_no_score(
    tiny_dir: Path, reference: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    # Three streams grow while a long prompt is computed four tokens at a time.
    engine = Listener(tiny_dir, num_pages=18, max_batch_tokens=8, max_running=8)
    for number in range(3):
        engine.core.add(make_request(f"{number}", PROMPT[number : number + 8], 70))
    for _ in range(3):
        engine.deltas += engine.core.step()
    # The least urgent: the first to give up its pages.
    engine.core.add(replace(make_request("scored", PROMPT, 4, prompt_logprobs=COUNT), priority=9))
    with caplog.at_level(logging.INFO, logger="radixserve.scheduler.planner"):
        engine.run()
    preempted = [record.args for record in caplog.records if "preempted" in record.message]
    assert any(
        isinstance(args, tuple) and args[0] == "scored" and 0 < int(str(args[2])) < len(PROMPT)
        for args in preempted
    ), f"it was to be preempted in its prompt: {preempted}"
    check(engine.scores("scored"), reference)


def test_a_resumed_request_does_not_tell_again(tiny_dir: Path) -> None:
    engine = Listener(tiny_dir)
    engine.core.add(make_request("whole", PROMPT, 8, prompt_logprobs=COUNT))
    engine.run()
    said = engine.tokens("whole")
    request = make_request("resumed", PROMPT, 8, prompt_logprobs=COUNT)
    request.resumed.append(ResumedChoice(index=0, token_ids=said[:3]))
    engine.core.add(request)
    engine.run()
    assert engine.tokens("resumed") == said[3:]
    assert not any(
        delta.prompt_logprobs for delta in engine.deltas if delta.request_id == "resumed"
    )


def test_a_prompt_of_one_token_has_nothing_to_score(tiny_dir: Path) -> None:
    engine = Listener(tiny_dir)
    engine.core.add(make_request("one", PROMPT[:1], 2, prompt_logprobs=COUNT))
    engine.run()
    assert engine.scores("one") == [None]


def test_offline(tiny_dir: Path, reference: torch.Tensor) -> None:
    llm = LLM(str(tiny_dir), dtype="float32", num_threads=1, num_pages=64)
    params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=COUNT)
    (output,) = llm.generate([PROMPT], params)
    check(output.prompt_logprobs, reference)
    (plain,) = llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=2))
    assert plain.prompt_logprobs is None
