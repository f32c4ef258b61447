"""The model card says what was trained and measured."""

import json
from pathlib import Path

import pytest

from radixserve.demo import card
from radixserve.demo.training import LOG
from radixserve.errors import CheckpointError

ACCURACY = {
    "dtype": "float32",
    "num_questions": 1234,
    "right": {
        "values": {"record": {"128": [3, 4], "all": [3, 4]}, "all": {"128": [3, 4], "all": [3, 4]}},
        "phrasings": {"all": {"1024": [1, 3], "128": [1, 2], "all": [2, 5]}},
    },
    "targets": [
        {"target": "records", "least_percent": 70.0, "right": 3, "answers": 4, "is_met": True},
        {"target": "others", "least_percent": 90.0, "right": 2, "answers": 5, "is_met": False},
    ],
    "differing": {"on": 0, "off": 0},
    "command": "python bench/demo_accuracy.py --dialogues 9",
}


def words(text: str) -> str:
    """Its words, wherever its lines end."""
    return " ".join(text.split())


def test_the_card_says_what_was_measured(unbroken: Path, tmp_path: Path) -> None:
    log = [json.loads(line) for line in (unbroken / LOG).read_text().splitlines()]
    text = card.card(log, ACCURACY)
    assert "| record | 75.0 | 75.0 | 4 |" in text
    assert "| kind | 128 tokens | 1024 tokens | all | answers |" in text
    assert "| all | 50.0 | 33.3 | 40.0 | 5 |" in text
    assert (
        "| records | 70 | 75.0 (30.1 to 95.4), met |\n| others | 90 | 40.0 (11.8 to 76.9), missed |"
        in text
    )
    assert "    train --seed 3\n" in text
    assert "    python bench/demo_accuracy.py --dialogues 9\n" in text
    assert "0 minutes by the clock (one session). Seed 3." in words(text)
    assert max(map(len, text.partition("### ")[0].splitlines())) <= 100
    way = "Asked with the prefix cache, then without it: every answer is the same."
    assert way in words(text)
    remarked = card.card(log, ACCURACY, remark="It was paused at times. ")
    assert "(one session). It was paused at times. Seed 3." in words(remarked)
    differing = {**ACCURACY, "differing": {"on": 0, "off": 0, "small": 2}}
    ways = "then without it and in a pool too small for it: 2 answers differ."
    assert ways in words(card.card(log, differing))
    alone = card.card(log, {**ACCURACY, "differing": {"off": 0}})
    assert "together. Asked without it." in words(alone)
    twice = [{**log[0], "command": "train --steps 30 --steps 30"}, *log[1:]]
    assert "    train --steps 30\n" in card.card(twice, ACCURACY)
    begun = [log[0], {"begun_with": "ab12"}, *log[1:]]
    whose = "It began with an earlier training's `model.safetensors`, of SHA-256 `ab12`. Twice."
    told = words(card.card(begun, ACCURACY, remark="Twice."))
    assert whose in told
    assert "The same command, begun with those weights, in one session" in told
    assert "The same command, in one session" in words(text)
    with pytest.raises(CheckpointError, match="nothing about phrasings"):
        card.card(log, {**ACCURACY, "right": {"values": {}}})
    with pytest.raises(CheckpointError, match="29 of 30 steps"):
        card.card([entry for entry in log if entry.get("step") != 30], ACCURACY)


def test_an_interval_is_wilsons() -> None:
    assert card.interval(50, 100) == "40.4 to 59.6"
    assert card.interval(0, 10) == "0.0 to 27.8"
    assert card.interval(10, 10) == "72.2 to 100.0"


def test_the_card_is_written_beside_the_model(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "accuracy.json"
    run = tmp_path / "run"
    run.mkdir()
    (run / LOG).write_bytes((unbroken / LOG).read_bytes())
    arguments = ["--run", str(run), "--accuracy", str(file)]
    assert card.main(arguments) == 1
    assert "accuracy.json" in capsys.readouterr().err
    file.write_text(json.dumps(ACCURACY))
    assert card.main(arguments) == 0
    written = (run / "MODEL_CARD.md").read_text()
    assert written.startswith("---\nlanguage: en\n")
    elsewhere = tmp_path / "card"
    assert card.main([*arguments, "--out", str(elsewhere), "--remark", "Twice."]) == 0
    told = words(written).replace("(one session).", "(one session). Twice.")
    assert words(elsewhere.read_text()) == told
