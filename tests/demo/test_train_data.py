"""What the demo model learns from: tokens, rows, positions that count, and the plan's steps."""

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from radixserve.demo.batches import make_batch
from radixserve.demo.corpus.dialogue import Dialogue, Split, Turn
from radixserve.demo.corpus.generate import LEAST_CHARACTERS
from radixserve.demo.encoding import encode_dialogue, messages
from radixserve.demo.network import Shape
from radixserve.demo.schedule import STAGES, Plan, Stage, plan_from_dict, stages_from, steps_in
from radixserve.demo.tokenizer import (
    IM_END_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from radixserve.text.tokenizer import Tokenizer
from tests.support.tiny_dialogues import make_dialogue, tiny_tokenizer

PLAN = Plan(
    Shape(320, 64, 128, 2, 2, 1, 32),
    num_steps=40,
    seed=3,
    tokens_per_step=768,
    text_weight=0.5,
    stages=(Stage(256, 0.5, 1.0), Stage(384, 0.5, 1.0)),
    characters_per_token=1.4,
)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return tiny_tokenizer()


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    backend = tiny_tokenizer()
    ids = backend.encode(text, add_special_tokens=False).ids
    for token in SPECIAL_TOKENS:
        text = text.replace(token, "")
    assert backend.decode(ids, skip_special_tokens=True) == text


def test_what_is_copied_has_the_same_tokens_everywhere(backend: Backend) -> None:
    name = backend.encode("Blue tea 42").tokens
    for frame in ("Is %s sold?", "%s: 3", "| %s |", "\n%s,", "(%s)"):
        tokens = backend.encode(frame % "Blue tea 42").tokens
        assert any(tokens[i : i + len(name)] == name for i in range(len(tokens))), frame
    assert backend.encode("1234").tokens == ["1", "2", "3", "4"]
    assert backend.encode(" Blue").tokens[0] == "Ġ"


def test_a_tokenizer_depends_on_its_texts_alone(backend: Backend, tmp_path: Path) -> None:
    again = tiny_tokenizer.__wrapped__()
    assert again.to_str() == backend.to_str()
    assert backend.get_vocab_size() == 320
    assert [backend.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    save_tokenizer(backend, tmp_path)
    assert load_tokenizer(tmp_path).to_str() == backend.to_str()


@pytest.mark.parametrize(("size", "complaint"), [(259, "needs 260"), (5000, "give more text")])
def test_a_tokenizer_of_a_wrong_size_is_refused(size: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        train_tokenizer(["a few words"], size=size)


@pytest.mark.parametrize("system", ["Be brief.\nSoap 12: 3.50 euros\n", ""])
def test_tokens_are_those_of_the_chat_template(
    system: str, backend: Backend, tmp_path: Path
) -> None:
    save_tokenizer(backend, tmp_path)
    server = Tokenizer.from_dir(tmp_path)
    turns = (Turn("How much is Soap 12?", "3.50 euros.", "record"), Turn("Thanks", "Bye!", "end"))
    encoded = encode_dialogue(backend, dialogue := Dialogue(system, turns))
    said = messages(dialogue)
    assert [entry["role"] for entry in said][-2:] == ["user", "assistant"]
    rendered = server.render_chat(said, add_generation_prompt=False)
    assert server.encode(rendered) == encoded.ids
    for turn, answer in zip(dialogue.turns, encoded.answers, strict=True):
        index = said.index({"role": "user", "content": turn.question})
        prompt = server.encode_chat(said[: index + 1])
        assert encoded.ids[: answer.start] == prompt
        ids = encoded.ids[answer.start : answer.stop]
        assert ids[-1] == IM_END_ID
        assert server.decode(ids[:-1], skip_special_tokens=False) == turn.answer
    first = server.encode(server.render_chat(said[:1], add_generation_prompt=False))
    assert encoded.num_system_tokens == (len(first) if system else 0)


def test_what_counts_is_every_answer_and_a_third_of_the_rest(backend: Backend) -> None:
    shares = []
    for step in range(12):
        batch = make_batch(PLAN, step, backend, make_dialogue)
        flat = batch.ids.reshape(-1)
        counts = batch.weights > 0
        positions = batch.positions[counts]
        assert len(set(positions)) == len(positions)
        assert (batch.targets[counts] == flat[positions + 1]).all()
        assert (flat[positions] != PAD_ID).all()
        assert (batch.targets[counts] != PAD_ID).all()
        assert set(batch.weights[batch.is_answer]) == {1.0}
        assert set(batch.weights[counts & ~batch.is_answer]) == {0.5}
        assert len(batch.positions) % 256 == 0
        # The answers, read off the rows: from behind "assistant\n" to the token that ends them.
        role = backend.encode("<|im_start|>assistant\n").ids
        expected = np.zeros(len(flat), bool)
        for start in range(len(flat) - len(role)):
            if list(flat[start : start + len(role)]) == role:
                at = start + len(role) - 1
                while flat[at] != IM_END_ID:
                    expected[at] = True
                    at += 1
        found = np.zeros(len(flat), bool)
        found[batch.positions[batch.is_answer]] = True
        assert (found == expected).all()
        num_text = batch.num_tokens - batch.ids.shape[0] - expected.sum()
        shares.append((counts & ~batch.is_answer).sum() / num_text)
    assert np.mean(shares) == pytest.approx(1 / 3, abs=0.02)


def test_a_batch_depends_on_plan_and_step_alone(backend: Backend) -> None:
    forward = [make_batch(PLAN, step, backend, make_dialogue) for step in (4, 5)]
    random.seed(1)
    backward = [make_batch(PLAN, step, backend, make_dialogue) for step in (5, 4)]
    for one, other in zip(forward, backward[::-1], strict=True):
        for name in ("ids", "positions", "targets", "weights", "is_answer"):
            assert (getattr(one, name) == getattr(other, name)).all()
    assert forward[0].ids.shape != forward[1].ids.shape or (forward[0].ids != forward[1].ids).any()


def test_rows_are_filled_and_never_cut(backend: Backend) -> None:
    batch = make_batch(PLAN, 39, backend, make_dialogue)
    assert batch.ids.size == PLAN.tokens_per_step
    for row in batch.ids:
        text = backend.decode(row[row != PAD_ID].tolist(), skip_special_tokens=False)
        assert text.startswith("<|im_start|>system\n")
        assert text.endswith("<|im_end|>\n")


def test_what_does_not_fit_is_made_shorter(backend: Backend) -> None:
    made: dict[str, list[int]] = {}

    def wordy(rng: random.Random, *, split: Split, max_characters: int) -> Dialogue:
        made.setdefault(str(rng.getstate()), []).append(max_characters)
        return make_dialogue(rng, split=split, max_characters=max_characters * 5 // 4)

    batch = make_batch(replace(PLAN, characters_per_token=2.5), 39, backend, wordy)
    assert batch.num_tokens / batch.ids.size > 0.5
    # Again by the same chance: few rows are drawn anew, and each time with less.
    assert len(made) <= batch.ids.shape[0] + 1
    assert max(map(len, made.values())) > 1
    assert all(limits == sorted(set(limits), reverse=True) for limits in made.values())


def test_a_generator_that_keeps_to_nothing_is_refused(backend: Backend) -> None:
    limits = []

    def heedless(rng: random.Random, *, split: Split, max_characters: int) -> Dialogue:
        limits.append(max_characters)
        return make_dialogue(rng, split=split, max_characters=9000)

    with pytest.raises(ValueError, match="does not keep to"):
        make_batch(PLAN, 0, backend, heedless)
    assert limits.count(LEAST_CHARACTERS) == 100


def test_stages_come_in_order_with_shorter_rows_mixed_in() -> None:
    plan = Plan(Shape(320), num_steps=4000, tokens_per_step=8192)
    stages = [plan.stage_index(step) for step in range(plan.num_steps)]
    assert stages == sorted(stages)
    assert set(stages) == set(range(len(STAGES)))
    last = [step for step in range(plan.num_steps) if plan.stage_index(step) == 4]
    lengths = [plan.length(step) for step in last]
    assert lengths.count(2048) / len(lengths) == pytest.approx(0.8, abs=0.05)
    assert set(lengths) == {192, 320, 512, 1024, 2048}
    assert {plan.rows(step) for step in range(4000)} == {42, 25, 16, 8, 4}
    assert {plan.length(step) for step in range(100)} == {192}


def test_stages_share_the_time_as_they_say() -> None:
    plan = Plan(Shape(320), num_steps=10_000)
    speeds = {stage.length: stage.relative_speed for stage in STAGES}
    times = [0.0] * len(STAGES)
    for step in range(plan.num_steps):
        times[plan.stage_index(step)] += 1 / speeds[STAGES[plan.stage_index(step)].length]
    shares = [time / sum(times) for time in times]
    assert shares == pytest.approx([stage.share_of_time for stage in STAGES], abs=0.01)
    # Shorter rows included, a training takes as long as it was made for.
    num_steps = steps_in(600.0, step_s=0.5)
    plan = Plan(Shape(320), num_steps=num_steps)
    taken_s = sum(0.5 / speeds[plan.length(step)] for step in range(num_steps))
    assert taken_s == pytest.approx(600.0, rel=0.03)


def test_stages_of_short_rows_can_be_left_out() -> None:
    assert stages_from(0) == stages_from(192) == STAGES
    assert stages_from(321) == STAGES[2:]
    plan = Plan(Shape(320), num_steps=1000, stages=stages_from(512))
    assert {plan.length(step) for step in range(1000)} == {512, 1024, 2048}
    with pytest.raises(ValueError, match="no rows are as long"):
        stages_from(2049)


def test_the_rate_rises_and_falls() -> None:
    plan = Plan(Shape(320), num_steps=1000)
    rates = [plan.rate(step) for step in range(1000)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[505] == pytest.approx(0.02 + 0.98 * 0.5)
    assert 0 < rates[-1] < 0.03


def test_a_plan_can_be_written_and_read() -> None:
    assert plan_from_dict(PLAN.as_dict()) == PLAN


@pytest.mark.parametrize("change", [{"num_steps": 0}, {"tokens_per_step": 128}])
def test_an_impossible_plan_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"at least one|raise these"):
        plan_from_dict(PLAN.as_dict() | change)
    with pytest.raises(ValueError, match="evenly"):
        Shape(320, num_heads=4, num_kv_heads=3)
