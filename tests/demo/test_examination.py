"""What counts as a right answer, and which answers are asked for."""

import pytest
import torch

from radixserve.demo import WEIGHTS, exact
from radixserve.demo.corpus import generate
from radixserve.demo.corpus.dialogue import Split
from radixserve.demo.encoding import encode_dialogue
from radixserve.demo.exact import Examination, held_out, summary
from radixserve.demo.learner import Learner
from radixserve.demo.network import Network
from radixserve.demo.optimizer import Optimizer
from radixserve.demo.prefetch import batches
from radixserve.demo.tokenizer import load_tokenizer
from tests.support.tiny_dialogues import make_dialogue, tiny_tokenizer
from tests.support.tiny_training import PLAN

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_answer_is_right_when_it_would_be_generated() -> None:
    """One pass must judge as token by token generation does."""
    network = Network(PLAN.shape, seed=1)
    tokenizer = tiny_tokenizer()
    optimizer = Optimizer(
        network, matrix_rate=0.05, other_rate=0.01, weight_decay=0.0, dtype=torch.float32
    )
    learn = Learner(network, is_compiled=False)
    # Two batches, learnt by heart: some answers come right, others do not.
    made = list(batches(PLAN, tokenizer, make_dialogue, first_step=28, num_workers=0))
    for _ in range(40):
        for batch in made:
            learn(batch, "cpu")
            optimizer.step(1.0)
    found = held_out(
        tokenizer,
        make_dialogue,
        Split.TRAIN,
        96,
        count=6,
        max_tokens=400,
        characters_per_token=1.4,
        seed=1,
    )
    marks = [mark for one in found for mark in exact._right(network, [one[1]])[0]]
    together = [
        mark for marks in exact._right(network, [two for _, two in found]) for mark in marks
    ]
    generated = []
    with torch.no_grad():
        for _, encoded in found:
            for answer in encoded.answers:
                ids = encoded.ids[: answer.start]
                for _ in answer:
                    ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
                generated.append(ids[answer.start :] == encoded.ids[answer.start : answer.stop])
    assert marks == together == generated


def test_an_examination_counts_by_split_length_and_kind() -> None:
    exam = Examination(PLAN, tiny_tokenizer(), make_dialogue, per_cell=3)
    scores = exam.run(network := Network(PLAN.shape))
    assert exam.run(network) == scores
    assert {(score.split, score.length, score.kind) for score in scores} == {
        ("values", 96, "record"),
        ("phrasings", 96, "record"),
    }
    asked = summary(scores)
    assert set(asked["values"]) == {"all", "96", "record"}
    made = exact.Score("values", 96, "record", 1, 4), exact.Score("values", 128, "table", 3, 4)
    assert summary(made) == {
        "values": {"all": 0.5, "96": 0.25, "record": 0.25, "128": 0.75, "table": 0.75}
    }


def test_documents_of_the_asked_length_are_found_or_missed() -> None:
    tokenizer = tiny_tokenizer()
    arguments = {"max_tokens": 2048, "characters_per_token": 3.0, "seed": 1}
    found = held_out(
        tokenizer,
        make_dialogue,
        Split.HELD_OUT_VALUES,
        300,
        count=5,
        **arguments,  # type: ignore[arg-type]  # a dictionary of several types
    )
    lengths = [encoded.num_system_tokens for _, encoded in found]
    assert all(225 <= length <= 345 for length in lengths)
    assert encode_dialogue(tokenizer, found[0][0]) == found[0][1]
    arguments["max_tokens"] = 200
    with pytest.raises(ValueError, match="0 of 5"):
        held_out(
            tokenizer,
            make_dialogue,
            Split.HELD_OUT_VALUES,
            300,
            count=5,
            **arguments,  # type: ignore[arg-type]  # a dictionary of several types
        )


@pytest.mark.parametrize("guess", [0.5, 2.1, 9.0])
def test_long_documents_are_found_where_dialogues_may_be_hardly_longer(guess: float) -> None:
    """Most dialogues of the corpus talk too long for it; and the guess may be a bad one."""
    found = held_out(
        load_tokenizer(WEIGHTS),
        generate.make_dialogue,
        Split.HELD_OUT_VALUES,
        1500,
        count=4,
        max_tokens=2048,
        characters_per_token=guess,
        seed=1,
    )
    # It raises where it does not find them.
    assert len(found) == 4
