"""The model card: what the demo model is, written from its run's log and its measured accuracy.

    python bench/demo_accuracy.py --json accuracy.json
    python -m radixserve.demo.card --run demo-run --accuracy accuracy.json

Writes ``MODEL_CARD.md`` into the run's directory, or where ``--out`` says. Every figure in it comes
from these two files; the prose says only what holds for every run of ``train.py``, and what is
given as ``--remark``: how long it took and why, where the weights are that it began with.
"""

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from radixserve.errors import CheckpointError

LOG = "log.jsonl"
NAME = "MODEL_CARD.md"
_WIDTH = 96

_TEMPLATE = """\
---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# The demo model of radixserve

A language model of {parameters} parameters that answers questions about a document in its system
prompt. It is small enough to be part of a package and to run on any processor, and it shows what a
server with a prefix cache is for: many conversations over one document.

`radixserve serve` serves it. It is an ordinary checkpoint (Qwen3 architecture, bfloat16), so any
library that loads those loads this directory.

## What it can do

Put a document of short facts into the system message, as lines, as prose or as tables: about
people, places, rooms, products, orders, dishes, books, courses, events, trains, cars, animals or
plants. Then

- ask for one of these facts, or for two at once;
- go on from there ("and how much is it?");
- ask the other way round ("who lives in X?"), or whether something is so: less reliably;
- ask for something that is not in the document, and be told so;
- tell it something about yourself, and ask for it later;
- greet it, ask what it is, thank it.

It answers in one sentence, in English. How often it is right, by kind of question and length of
the document, is told below. Document and conversation together may have
{max_positions:,} tokens, about {max_characters:,} characters.

## What it cannot do

Anything else. It knows nothing about the world, does not reason, calculate or translate, writes
nothing of its own, and follows no instructions. What it says about a document can be wrong, the
more often the less a question resembles those it was trained on; the figures below are for
questions that the training's generator made. It has no notion of what is harmful. It is a
demonstration: do not use it for anything that matters.

## What it was trained on

Text that the training script makes while it runs (`radixserve/demo/corpus`): documents of invented
facts, and dialogues about them. No other text, and no other model's output. Names and values are
drawn at random, so that an answer has to be read from the document. Some names and values, and
some ways to ask, are kept from training, to measure with.

    python -m radixserve.demo.corpus                 (prints such a dialogue)

## Measured accuracy

Answers that are exactly the expected sentence, in percent, generated greedily by the server's
engine in {dtype} for {num_questions} questions. Lengths are those of the document, in tokens; "all"
takes the lengths, or the kinds, together. {identical}

    {measured_by}

### Names and values that training never showed

{values}

### The same, and ways to ask that training never showed

{phrasings}

### What it was meant to reach

In brackets, where the share lies with 95% confidence: other questions would give other figures.

{targets}

## How it was trained

    {command}

On {machine}: {steps} steps of {tokens_per_step:,} tokens, {tokens} in all (padding included), in
{minutes} minutes by the clock ({sessions}).{begun_with}{remark} Seed {seed}. The same
command{begun_so}, in one session or in several with `--resume`, makes the same text and the same
batches anywhere, and the same weights up to rounding.

{layers} layers, width {hidden}, {heads} heads of {head_dim} ({kv_heads} of keys and values), inner
width {intermediate}, {vocab:,} tokens (byte-level BPE, learnt from such text too), tied embeddings.
Muon for matrices (rate {matrix_rate}), AdamW for the rest ({other_rate}); rows of {lengths} tokens,
one after the other; loss on all answers and, weighted {text_weight:g}, on {text_share:.0%} of the
other text.
"""


def card(log: Sequence[Mapping[str, Any]], accuracy: Mapping[str, Any], *, remark: str = "") -> str:
    """The card's text. ``remark``: sentences about the run, behind how long it took.

    *Raises* ``CheckpointError`` if the run is not done, or the accuracy lacks a split.
    """
    plan, sessions = log[0]["plan"], [entry["session"] for entry in log if "session" in entry]
    last = next((entry for entry in reversed(log) if "elapsed_s" in entry), {"step": 0})
    if last["step"] != plan["num_steps"]:
        raise CheckpointError(
            f"the run has done {last['step']} of {plan['num_steps']} steps; a card is for a whole "
            "one: --resume it first"
        )
    missing = {"values", "phrasings"} - set(accuracy["right"])
    if missing:
        raise CheckpointError(
            f"the accuracy says nothing about {', '.join(sorted(missing))}; measure with "
            "bench/demo_accuracy.py"
        )
    shape = plan["shape"]
    count = len(sessions)
    begun_with = _begun_with(log)
    text = _TEMPLATE.format(
        parameters=f"{log[0]['num_parameters'] / 1e6:.1f} million",
        characters_per_token=plan["characters_per_token"],
        max_positions=shape["max_positions"],
        max_characters=round(shape["max_positions"] * plan["characters_per_token"] / 100) * 100,
        tokens=f"{last['tokens'] / 1e6:.0f} million",
        steps=f"{plan['num_steps']:,}",
        dtype=accuracy["dtype"],
        num_questions=f"{accuracy['num_questions']:,}",
        identical=_identity(accuracy["differing"]),
        values=table(accuracy["right"]["values"]),
        phrasings=table(accuracy["right"]["phrasings"]),
        targets=_targets(accuracy["targets"]),
        measured_by=accuracy["command"],
        command=_command(log[0]["command"], plan["num_steps"]),
        begun_with=begun_with,
        begun_so=", begun with those weights" if begun_with else "",
        remark=f" {remark.strip()}" if remark.strip() else "",
        machine="; then ".join(dict.fromkeys(session["machine"] for session in sessions)),
        minutes=f"{last['elapsed_s'] / 60:.0f}",
        sessions="one session" if count == 1 else f"{count} sessions together",
        seed=plan["seed"],
        matrix_rate=plan["matrix_rate"],
        other_rate=plan["other_rate"],
        tokens_per_step=plan["tokens_per_step"],
        lengths=", ".join(f"{stage['length']:,}" for stage in plan["stages"]),
        text_share=plan["text_share"],
        text_weight=plan["text_weight"],
        layers=shape["num_layers"],
        hidden=shape["hidden_size"],
        heads=shape["num_heads"],
        head_dim=shape["head_dim"],
        kv_heads=shape["num_kv_heads"],
        intermediate=shape["intermediate_size"],
        vocab=shape["vocab_size"],
    )
    return "\n\n".join(map(_filled, text.split("\n\n")))


def _filled(block: str) -> str:
    """A paragraph in lines of equal length; anything else as it is."""
    if block.startswith(("---", "#", "- ", "|", "    ")):
        return block
    end = "\n" if block.endswith("\n") else ""
    return textwrap.fill(block, _WIDTH, break_long_words=False, break_on_hyphens=False) + end


def table(of_split: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    """One split's cells, [right, answers] by kind and length, in Markdown: kinds downward, lengths
    across, shares in percent."""
    columns = sorted(
        {length for cells in of_split.values() for length in cells},
        key=lambda length: (length == "all", length if length == "all" else int(length)),
    )
    head = [f"{length} tokens" if length != "all" else length for length in columns]
    lines = [["kind", *head, "answers"], ["---"] * (len(head) + 2)]
    for kind in sorted(of_split, key=lambda kind: (kind == "all", kind)):
        cells = of_split[kind]
        shown = [_percent(cells.get(column)) for column in columns]
        lines.append([kind, *shown, f"{cells['all'][1]:,}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(cell: Sequence[int] | None) -> str:
    return "" if cell is None else f"{100 * cell[0] / cell[1]:.1f}"


def interval(right: int, answers: int) -> str:
    """Between what shares, in percent, the true one lies with 95% confidence: "81.8 to 91.0".

    Wilson's score interval, as if each answer were drawn by itself; those of a dialogue are not.
    """
    share, z = right / answers, NormalDist().inv_cdf(0.975)
    middle = share + z * z / (2 * answers)
    spread = z * math.sqrt(share * (1 - share) / answers + (z / (2 * answers)) ** 2)
    low, high = ((middle + side * spread) / (1 + z * z / answers) for side in (-1, 1))
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _targets(reached: Sequence[Mapping[str, Any]]) -> str:
    lines = [["answers", "at least", "measured"], ["---"] * 3]
    for one in reached:
        share = _percent((one["right"], one["answers"]))
        verdict = "met" if one["is_met"] else "missed"
        measured = f"{share} ({interval(one['right'], one['answers'])}), {verdict}"
        lines.append([one["target"], f"{one['least_percent']:g}", measured])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_WAYS = {"on": "with the prefix cache", "off": "without it", "small": "in a pool too small for it"}


def _identity(differing: Mapping[str, int]) -> str:
    first, *others = differing
    if not others:
        return f"Asked {_WAYS[first]}."
    compared = " and ".join(_WAYS[way] for way in others)
    counts = " and ".join(f"{differing[way]:,}" for way in others if differing[way])
    what = f"{counts} answers differ" if counts else "every answer is the same"
    return f"Asked {_WAYS[first]}, then {compared}: {what}."


def _begun_with(log: Sequence[Mapping[str, Any]]) -> str:
    """Which weights it began with, if they were another training's."""
    found = next((entry["begun_with"] for entry in log if "begun_with" in entry), None)
    if found is None:
        return ""
    return f" It began with an earlier training's `model.safetensors`, of SHA-256 `{found}`."


def _command(given: str, num_steps: int) -> str:
    """The command without a number of steps that it says twice."""
    steps = f" --steps {num_steps}"
    return given.removesuffix(steps) if given.count(steps) > 1 else given


def main(arguments: list[str] | None = None) -> int:
    """Write the card of a run."""
    parser = argparse.ArgumentParser(prog="python -m radixserve.demo.card")
    parser.add_argument("--run", type=Path, required=True, help="the training's directory")
    parser.add_argument("--accuracy", type=Path, required=True, help="what the benchmark wrote")
    parser.add_argument(
        "--remark", default="", help="sentences about the run, behind how long it took"
    )
    parser.add_argument("--out", type=Path, help=f"the card (default: {NAME} beside the log)")
    chosen = parser.parse_args(arguments)
    try:
        log = [json.loads(line) for line in (chosen.run / LOG).read_text().splitlines()]
        text = card(log, json.loads(chosen.accuracy.read_text()), remark=chosen.remark)
    except (OSError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (chosen.out or chosen.run / NAME).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
