"""Requests with grammars among others: the same tokens whatever goes on around them."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from radixserve import LLM, GrammarSpec, SamplingParams
from radixserve.engine.core import EngineCore
from radixserve.errors import InvalidRequestError
from radixserve.llm import GenerationError
from radixserve.model.causal_lm import CausalLM
from radixserve.runner.runner import ModelRunner
from radixserve.sampling.constraint import Constraint
from radixserve.sampling.grammar_compiler import GrammarError, Matcher
from radixserve.types import EngineRequest, ResumedChoice
from tests.engine.driving import Driver, make_core, make_request
from tests.sampling.constraining import KINDS, make_tokenizer
from tests.support.checkpoints import make_checkpoint
from tests.text.making import byte_level_bpe, save, sentencepiece_bpe

END = 259
SYSTEM = [(7 * i) % 250 for i in range(40)]
LIST = GrammarSpec(
    kind="json_schema",
    source='{"type": "array", "items": {"enum": ["red", "green", 12]}, "maxItems": 4}',
)
WORDS = GrammarSpec(kind="regex", source="[a-z]{2,5}( [a-z]{2,5}){1,3}")
SUM = GrammarSpec(kind="lark", source='start: NUM ("+" NUM)*\nNUM: /[1-9][0-9]{0,2}/\n')


def constrained() -> list[EngineRequest]:
    """Of every kind, and every way of choosing."""
    ways: list[tuple[str, GrammarSpec, dict[str, Any]]] = [
        ("list", LIST, {}),
        ("words", WORDS, {"temperature": 1.0, "top_k": 40}),
        ("sum", SUM, {"temperature": 1.0, "n": 3}),
        ("sum too", SUM, {"frequency_penalty": 0.4, "logprobs": 2, "min_tokens": 9}),
        ("likely words", WORDS, {"temperature": 0.8, "top_p": 0.9, "n": 2}),
    ]
    return [
        make_request(
            name,
            [*SYSTEM, *name.encode()],
            24,
            seed=number,
            end_token_ids=(END,),
            grammar=grammar,
            **way,
        )
        for number, (name, grammar, way) in enumerate(ways)
    ]


def unconstrained() -> list[EngineRequest]:
    return [
        make_request("free", [*SYSTEM, 1], 24),
        make_request("free and drawn", [*SYSTEM, 2], 24, temperature=1.0, seed=9),
        make_request("free with penalty", [*SYSTEM, 3], 24, presence_penalty=0.7),
        make_request("free twice", [*SYSTEM, 4], 24, temperature=1.0, n=2, min_tokens=3),
    ]


def answers(core: EngineCore, requests: list[EngineRequest]) -> dict[tuple[str, int], list[int]]:
    driver = Driver(core)
    for request in requests:
        driver.add(request)
    driver.run()
    assert all(end.finish_reason in {"stop", "length"} for end in driver.ends.values())
    driver.assert_nothing_leaked()
    return driver.tokens


@pytest.fixture(scope="module")
def alone(tiny_dir: Path) -> dict[tuple[str, int], list[int]]:
    """Each by itself, in an engine that has seen nothing."""
    found: dict[tuple[str, int], list[int]] = {}
    for request in [*constrained(), *unconstrained()]:
        core = make_core(tiny_dir, enable_prefix_cache=False)
        found |= answers(core, [request])
    return found


def test_the_reference_obeys(alone: dict[tuple[str, int], list[int]]) -> None:
    whole = {key: bytes(ids[:-1]).decode() for key, ids in alone.items() if ids[-1] == END}
    assert len(whole) >= 5
    assert whole.keys() <= {(str(r.request_id), i) for r in constrained() for i in range(3)}
    assert len({tuple(alone["sum", index]) for index in range(3)}) > 1, "forks that do not fork"
    for (name, _), text in whole.items():
        if name.startswith("sum"):
            assert all(1 <= int(part) < 1000 for part in text.split("+"))
    assert len(alone["sum too", 0]) >= 9


CONDITIONS: dict[str, dict[str, Any]] = {
    "together": {},
    "planned ahead": {"max_in_flight": 2},
    "in chunks": {"max_batch_tokens": 24, "max_running": 12},
    "preempted": {"num_pages": 14, "max_running": 12},
    "preempted and planned ahead": {"num_pages": 14, "max_running": 12, "max_in_flight": 2},
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_same_tokens_in_company(
    tiny_dir: Path, alone: dict[tuple[str, int], list[int]], condition: str
) -> None:
    """Constrained or not: a neighbour with a grammar changes nobody's answer."""
    core = make_core(tiny_dir, **CONDITIONS[condition])
    for grammar in (LIST, WORDS, SUM):
        # Beforehand, so that all come in together.
        core.grammars.compile(grammar)
    driver = Driver(core)
    for _ in ("cold", "warm"):
        for request in [*constrained(), *unconstrained()]:
            driver.add(request)
        driver.run(max_steps=20_000)
        assert driver.tokens == alone
        driver.tokens, driver.ends = {}, {}
    if "preempted" in condition:
        assert core.stats().preemptions > 0
    driver.assert_nothing_leaked()


@pytest.mark.parametrize("planned_ahead", [1, 2])
def test_resumed_requests_go_on_with_the_tokens_they_would_have_had(
    tiny_dir: Path, alone: dict[tuple[str, int], list[int]], planned_ahead: int
) -> None:
    """As after the death of an engine: whatever each choice had said by then."""
    core = make_core(tiny_dir, max_in_flight=planned_ahead)
    driver = Driver(core)
    said: dict[tuple[str, int], list[int]] = {}
    for number, request in enumerate(constrained()):
        name = str(request.request_id)
        choices = []
        for index in range(request.params.n):
            ids = alone[name, index][: 1 + number + index]
            if len(ids) < len(alone[name, index]):
                choices.append(ResumedChoice(index=index, token_ids=ids))
                said[name, index] = ids
        driver.add(replace(request, resumed=choices))
    driver.run()
    assert len(said) >= 6
    assert {key: ids + driver.tokens[key] for key, ids in said.items()} == {
        key: alone[key] for key in said
    }
    driver.assert_nothing_leaked()


def test_masks_are_made_while_the_model_computes(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mask is held up until the forward pass of its own step has begun. If anybody waited for
    it before that, in the scheduler or before the launch, nothing would ever go on."""
    has_begun = threading.Event()
    fill, advance, forward = Matcher.fill, Constraint.advance, ModelRunner._forward
    in_time: list[bool] = []
    threads: set[str] = set()

    def late_fill(matcher: Matcher, words: Any) -> None:
        threads.add(threading.current_thread().name)
        in_time.append(has_begun.wait(30))
        fill(matcher, words)

    def noted_advance(constraint: Constraint, token_id: int) -> None:
        has_begun.clear()
        advance(constraint, token_id)

    def noted_forward(runner: ModelRunner, *args: Any, **settings: Any) -> Any:
        has_begun.set()
        return forward(runner, *args, **settings)

    core = make_core(tiny_dir)
    # Compiled beforehand: that looks at the first mask in its own way.
    core.grammars.compile(SUM)
    monkeypatch.setattr(Matcher, "fill", late_fill)
    monkeypatch.setattr(Constraint, "advance", noted_advance)
    monkeypatch.setattr(ModelRunner, "_forward", noted_forward)
    found = answers(core, [make_request("one", [65, 66], 9, end_token_ids=(END,), grammar=SUM)])
    # One for each token, the first included, and perhaps one for a token that was not to be.
    assert len(in_time) >= len(found["one", 0])
    assert all(in_time)
    assert all("radixserve-grammar" in name for name in threads)


def test_without_end_tokens_a_whole_answer_stops(tiny_dir: Path) -> None:
    """The one thing that can be said is nothing; it costs no token."""
    core = make_core(tiny_dir)
    driver = Driver(core)
    exact = GrammarSpec(kind="regex", source="exactly")
    empty = GrammarSpec(kind="regex", source="")
    driver.add(make_request("exact", [1, 2, 3], 50, grammar=exact))
    driver.add(make_request("empty", [4, 5, 6], 50, grammar=empty, n=2))
    driver.add(make_request("short", [7, 8], 3, grammar=exact))
    driver.run()
    assert driver.tokens["exact", 0] == list(b"exactly")
    assert driver.tokens["empty", 0] == driver.tokens["empty", 1] == []
    assert driver.tokens["short", 0] == list(b"exa")
    ends = {key: (end.finish_reason, end.stop_token_id) for key, end in driver.ends.items()}
    assert ends == {
        ("exact", 0): ("stop", None),
        ("empty", 0): ("stop", None),
        ("empty", 1): ("stop", None),
        ("short", 0): ("length", None),
    }
    driver.assert_nothing_leaked()


def test_with_end_tokens_the_empty_answer_is_one_token(tiny_dir: Path) -> None:
    empty = GrammarSpec(kind="lark", source='start: ""')
    with LLM(str(tiny_dir), dtype="float32", num_threads=1, num_pages=50) as llm:
        (output,) = llm.generate(["x"], SamplingParams(grammar=empty, min_tokens=4))
        assert (output.text, output.finish_reason) == ("", "stop")
        assert len(output.token_ids) == 1
        (output,) = llm.generate(["x"], SamplingParams(grammar=empty, ignore_eos=True))
        assert (output.text, output.token_ids, output.finish_reason) == ("", [], "stop")


def test_an_answer_that_cannot_go_on_fails_alone(tiny_dir: Path) -> None:
    """Its grammar asks for a token that ends the answer, and for more."""
    dead_end = GrammarSpec(kind="lark", source="start: /ab/ <|im_end|> /c/")
    core = make_core(tiny_dir)
    driver = Driver(core)
    driver.add(make_request("dead", [1, 2], 9, end_token_ids=(END,), grammar=dead_end))
    driver.add(make_request("alive", [1, 3], 9, end_token_ids=(END,), grammar=SUM))
    driver.add(make_request("free", [1, 4], 9))
    driver.run()
    assert driver.tokens["dead", 0] == list(b"ab")
    end = driver.ends["dead", 0]
    assert end.finish_reason == "error"
    assert "cannot go on under its grammar" in (end.error or "")
    assert driver.ends["alive", 0].finish_reason in {"stop", "length"}
    assert driver.ends["free", 0].finish_reason == "length"
    driver.assert_nothing_leaked()


def test_broken_logits_are_not_a_whole_answer(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = make_core(tiny_dir)
    logits = CausalLM.logits
    monkeypatch.setattr(
        CausalLM, "logits", lambda model, hidden: torch.full_like(logits(model, hidden), torch.nan)
    )
    driver = Driver(core)
    empty = GrammarSpec(kind="regex", source="")
    driver.add(make_request("broken", [1, 2], 9, end_token_ids=(END,), grammar=empty))
    driver.run()
    assert driver.ends["broken", 0].finish_reason == "error"
    assert "not numbers" in (driver.ends["broken", 0].error or "")


def test_logprobs_are_those_of_the_raw_logits(tiny_dir: Path) -> None:
    """The likeliest tokens are told whether the grammar allows them or not."""
    only = GrammarSpec(kind="regex", source="zz")
    with LLM(str(tiny_dir), dtype="float32", num_threads=1, num_pages=50) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=3)
        (free,) = llm.generate(["x"], params)
        (held,) = llm.generate(["x"], replace(params, grammar=only))
        assert held.token_ids == [ord("z")]
        assert free.logprobs is not None
        assert held.logprobs is not None
        assert held.logprobs[0].top == free.logprobs[0].top
        assert held.logprobs[0].token_id == ord("z")
        assert held.logprobs[0].logprob < held.logprobs[0].top[-1][1]


def test_the_llm_refuses_bad_grammars_before_anything_runs(tiny_dir: Path) -> None:
    bad = SamplingParams(grammar=GrammarSpec(kind="regex", source="("))
    with LLM(str(tiny_dir), dtype="float32", num_threads=1, num_pages=50) as llm:
        with pytest.raises(GrammarError, match="unclosed group"):
            llm.generate(["x", "y"], [SamplingParams(), bad])
        assert llm.stats().num_steps == 0
        assert llm.stats().num_waiting == 0


def test_a_checkpoint_without_a_tokenizer_has_no_grammars(tmp_path: Path) -> None:
    directory = make_checkpoint("llama", tmp_path / "model")
    with LLM(str(directory), dtype="float32", num_threads=1, num_pages=50) as llm:
        with pytest.raises(InvalidRequestError, match="no tokenizer") as caught:
            llm.generate([[1, 2]], SamplingParams(grammar=SUM))
        assert caught.value.param == "grammar"
        assert not isinstance(caught.value, GenerationError)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_vocabulary(kind: str, tmp_path: Path) -> None:
    """The text that comes out is in the language, umlauts and all; the model's vocabulary is
    padded."""
    writers = {"byte_level": byte_level_bpe, "sentencepiece": sentencepiece_bpe}
    directory = tmp_path / "model"
    tokenizer = make_tokenizer(kind, directory)
    (end,) = tokenizer.eos_token_ids
    make_checkpoint(
        "llama",
        directory,
        logits_std=2.0,
        vocab_size=tokenizer.vocab_size + 37,
        bos_token_id=0,
        eos_token_id=end,
    )
    if kind in writers:
        config = {"eos_token": tokenizer.vocabulary.token(end)}
        save(writers[kind](), directory, **config)
    source = 'start: COLOUR ("; " COLOUR){1,2}\nCOLOUR: "rot" | "grün" | "日本語" | "The quick"\n'
    with LLM(str(directory), dtype="float32", num_threads=1, num_pages=100) as llm:
        params = SamplingParams(
            temperature=1.0,
            seed=3,
            n=4,
            max_tokens=80,
            grammar=GrammarSpec(kind="lark", source=source),
        )
        (output,) = llm.generate(["Fox"], params)
    texts = set()
    for choice in output.choices:
        assert choice.finish_reason == "stop"
        assert choice.token_ids[-1] == end
        parts = choice.text.split("; ")
        assert 2 <= len(parts) <= 3
        assert set(parts) <= {"rot", "grün", "日本語", "The quick"}
        texts.add(choice.text)
    assert len(texts) > 1
