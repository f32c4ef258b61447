"""The measure of the demo model's answers: what is asked, what is counted, and what fails it."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import demo_accuracy
from demo_accuracy_parts.questions import Question, questions_for
from demo_accuracy_parts.shares import shares
from demo_accuracy_parts.targets import told, verdicts
from radixserve.demo.export import export
from radixserve.demo.network import Network, Shape
from radixserve.demo.tokenizer import load_tokenizer
from radixserve.text.tokenizer import Tokenizer
from tests.support.tiny_dialogues import tiny_tokenizer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(Network(Shape(320, 32, 32, 1, 1, 1, 32)), tiny_tokenizer(), directory)
    return directory


def test_each_question_comes_behind_its_true_history(model_dir: Path) -> None:
    found = questions_for(model_dir, dialogues=1, seed=1, lengths=[256], max_tokens=2048)
    assert {question.split for question in found} == {"values", "phrasings"}
    tokenizer = Tokenizer.from_dir(model_dir)
    backend = load_tokenizer(model_dir)
    num_with_history = 0
    for question, following in pairwise(found):
        assert question.messages[-1]["role"] == "user"
        answer = {"role": "assistant", "content": question.expected}
        if following.messages[:1] == question.messages[:1] and len(following.messages) > 2:
            assert following.messages[:-1] == [*question.messages, answer]
            num_with_history += 1
        room = question.max_tokens - len(backend.encode(question.expected).ids)
        assert room == 9
        assert len(tokenizer.encode_chat(question.messages)) + question.max_tokens <= 2048
    assert num_with_history > 5
    again = questions_for(model_dir, dialogues=1, seed=1, lengths=[256], max_tokens=2048)
    other = questions_for(model_dir, dialogues=1, seed=2, lengths=[256], max_tokens=2048)
    assert again == found != other


def test_shares_are_counted_by_split_kind_and_length() -> None:
    questions = [
        Question("values", 128, "record", [], "", 9),
        Question("values", 512, "record", [], "", 9),
        Question("values", 128, "table", [], "", 9),
        Question("phrasings", 128, "table", [], "", 9),
    ]
    assert shares(questions, [True, False, True, False]) == {
        "values": {
            "record": {"128": [1, 1], "512": [0, 1], "all": [1, 2]},
            "table": {"128": [1, 1], "all": [1, 1]},
            "all": {"128": [2, 2], "512": [0, 1], "all": [2, 3]},
        },
        "phrasings": {
            "table": {"128": [0, 1], "all": [0, 1]},
            "all": {"128": [0, 1], "all": [0, 1]},
        },
    }


def test_targets_are_met_or_missed_over_all_lengths() -> None:
    cells = {
        "values": {
            "record": {"128": [10, 10], "512": [9, 10], "all": [19, 20]},
            "prose": {"128": [19, 20], "all": [19, 20]},
            "table": {"128": [17, 20], "all": [17, 20]},
            "inverse": {"512": [84, 100], "all": [84, 100]},
            "all": {"all": [0, 200]},
        }
    }
    found = {verdict["target"].split(",")[0]: verdict for verdict in verdicts(cells)}
    # Nothing was asked in other phrasings.
    assert list(found) == ["records and prose", "tables", "inverse questions"]
    together = found["records and prose"]
    assert (together["right"], together["answers"], together["is_met"]) == (38, 40, True)
    assert (together["worst_length"], together["worst"]) == (512, [9, 10])
    assert found["tables"]["is_met"]
    assert not found["inverse questions"]["is_met"]
    assert told(together).endswith(
        "at least 95% wanted: met (90.0% at 512 tokens, the worst length)"
    )
    missed = "84.0% of 100 (75.6 to 89.9), at least 85% wanted: NOT MET"
    assert missed in told(found["inverse questions"])
    (other,) = verdicts({"phrasings": {"all": {"128": [9, 10], "all": [9, 10]}}})
    assert other["is_met"]


def test_from_the_command_line(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "accuracy.json"
    flags = [str(model_dir), "--dialogues", "1", "--lengths", "256", "--show", "2"]
    # The engine's settings are flags here too.
    flags += ["--num-threads", "1", "--attention", "torch"]
    monkeypatch.setattr(sys, "argv", ["demo_accuracy.py", *flags, "--json", str(file)])
    answered = demo_accuracy.answers
    asked: list[dict[str, Any]] = []
    wrong_ways = {"small": 1}

    def right_but_once(settings, questions):  # type: ignore[no-untyped-def]  # as there
        _, figures = answered(settings, questions)
        asked.append(settings)
        texts = [f" {question.expected}\n" for question in questions]
        num_wrong = wrong_ways.get(["on", "off", "small"][len(asked) - 1], 0)
        return ["wrong"] * num_wrong + texts[num_wrong:], figures

    def some(*arguments, **named):  # type: ignore[no-untyped-def]  # as there
        found = questions_for(*arguments, **named)
        return found[:6] + found[-6:]

    monkeypatch.setattr(demo_accuracy, "answers", right_but_once)
    # The rest would only take time.
    monkeypatch.setattr(demo_accuracy, "questions_for", some)
    # The pool that differs makes it fail.
    assert demo_accuracy.main() == 1
    assert "error: the cache has changed answers" in capsys.readouterr().err
    result = json.loads(file.read_text())
    assert result["differing"] == {"on": 0, "off": 0, "small": 1}
    assert result["right"]["values"]["all"]["all"][0] == result["right"]["values"]["all"]["all"][1]
    assert result["runs"]["off"]["cached_tokens"] == 0
    assert result["runs"]["on"]["cached_tokens"] > 0
    assert all(verdict["is_met"] for verdict in result["targets"])
    assert [settings["enable_prefix_cache"] for settings in asked[1:2]] == [False]
    assert {settings["attention"] for settings in asked} == {"torch"}
    assert {settings["dtype"] for settings in asked} == {"float32"}
    asked.clear()
    one_way = ["demo_accuracy.py", *flags, "--cache", "on"]
    # In bfloat16 answers may differ.
    monkeypatch.setattr(sys, "argv", [*one_way, "--dtype", "bfloat16"])
    assert demo_accuracy.main() == 0
    assert asked[0]["dtype"] == "bfloat16"
    # All are wrong alike: nothing differs, and every target is missed.
    asked.clear()
    wrong_ways["on"] = 12
    monkeypatch.setattr(sys, "argv", one_way)
    assert demo_accuracy.main() == 1
    assert "error: a target is missed" in capsys.readouterr().err
