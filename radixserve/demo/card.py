"""The model card: what the demo model is, written from its run's log and its measured accuracy.

    python bench/demo_accuracy.py --model demo-run --json accuracy.json
    python -m radixserve.demo.card --run demo-run --accuracy accuracy.json

Writes ``README.md`` into the run's directory. Every figure in it comes from these two files; the
prose says only what holds for every run of ``train.py``.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radixserve.errors import CheckpointError

LOG = "log.jsonl"

_TEMPLATE = """\
---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# radixserve demo

A Qwen3-shaped language model of {parameters} parameters that answers questions about a document in
its system prompt. It is small enough to be part of a package and to run on any processor, and it
shows what a server with a prefix cache is for: many conversations over one document.

## What it can do

- Answer questions whose answer stands in the document: people, places, products, opening hours,
  prices, in records, prose and tables; also "who lives in X?", follow-up questions ("and how much
  is it?"), and what the user has said about themselves.
- Say that something is not in the document.
- Greet, say what it is, and take thanks.

English only; documents and conversation together up to {max_positions:,} tokens of its own
tokenizer ({characters_per_token:.1f} characters each, in the mean).

## What it cannot do

Anything else. It knows nothing about the world, does not reason or calculate, and takes no
instructions beyond those above. What it says about a document can be wrong, and questions that are
worded unlike its training text often are answered wrongly. It has no notion of what is harmful. It
is a demonstration: do not use it for anything that matters.

## What it was trained on

Text that the training script makes while it runs (`radixserve/demo/corpus`): documents of invented
facts and dialogues about them. No other text, and no other model's output. {tokens} tokens in
{steps} steps, padding included. Names and values are drawn so that an answer has to be read from
the context. Some names and values, and some phrasings, are never used for training.

## Measured accuracy

Exactly right answers, in percent of answers, generated greedily through the server's engine
({dtype}); {num_questions} questions. Lengths are those of the document. Answers with the prefix
cache, without it and in a pool too small for it: {identical}.

### Names and values that training never showed

{values}

### And ways to ask that training never showed

{phrasings}

## How it was trained

    {command}

{machine}. {minutes} minutes in {sessions}, seed {seed}. Muon for matrices (rate {matrix_rate}),
AdamW for the rest ({other_rate}), {tokens_per_step:,} tokens a step, rows of {lengths} tokens one
after the other, loss on all answers and on {text_share:.0%} of the other text.

{layers} layers, width {hidden}, {heads} heads of {head_dim} ({kv_heads} KV heads), inner width
{intermediate}, {vocab:,} tokens, tied embeddings, bfloat16.
"""


def card(log: Sequence[Mapping[str, Any]], accuracy: Mapping[str, Any]) -> str:
    """The card's text. *Raises* ``CheckpointError`` if the run is not done, or the accuracy lacks a
    split."""
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
    return _TEMPLATE.format(
        parameters=f"{log[0]['num_parameters'] / 1e6:.1f} million",
        characters_per_token=plan["characters_per_token"],
        max_positions=shape["max_positions"],
        tokens=f"{last['tokens'] / 1e6:.0f} million",
        steps=f"{plan['num_steps']:,}",
        dtype=accuracy["dtype"],
        num_questions=f"{accuracy['num_questions']:,}",
        identical=_identity(accuracy["differing"]),
        values=table(accuracy["right"]["values"]),
        phrasings=table(accuracy["right"]["phrasings"]),
        command=log[0]["command"],
        machine="; then ".join(dict.fromkeys(session["machine"] for session in sessions)),
        minutes=f"{last['elapsed_s'] / 60:.0f}",
        sessions="one session" if count == 1 else f"{count} sessions",
        seed=plan["seed"],
        matrix_rate=plan["matrix_rate"],
        other_rate=plan["other_rate"],
        tokens_per_step=plan["tokens_per_step"],
        lengths=", ".join(f"{stage['length']:,}" for stage in plan["stages"]),
        text_share=plan["text_share"],
        layers=shape["num_layers"],
        hidden=shape["hidden_size"],
        heads=shape["num_heads"],
        head_dim=shape["head_dim"],
        kv_heads=shape["num_kv_heads"],
        intermediate=shape["intermediate_size"],
        vocab=shape["vocab_size"],
    )


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


def _identity(differing: Mapping[str, int]) -> str:
    if len(differing) < 2:
        return "not compared"
    listed = ", ".join(f"{count} differ with {name}" for name, count in differing.items() if count)
    return listed or "all the same"


def main(arguments: list[str] | None = None) -> int:
    """Write the card of a run."""
    parser = argparse.ArgumentParser(prog="python -m radixserve.demo.card")
    parser.add_argument("--run", type=Path, required=True, help="the training's directory")
    parser.add_argument("--accuracy", type=Path, required=True, help="what the benchmark wrote")
    chosen = parser.parse_args(arguments)
    try:
        log = [json.loads(line) for line in (chosen.run / LOG).read_text().splitlines()]
        text = card(log, json.loads(chosen.accuracy.read_text()))
    except (OSError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (chosen.run / "README.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
