"""How many answers the demo model gets exactly right, by kind of question and length of document.

    python bench/demo_accuracy.py                       (the demo model; some minutes on two cores)
    python bench/demo_accuracy.py demo-run --dialogues 8
    python bench/demo_accuracy.py --json accuracy.json                        (for the model card)
    python bench/demo_accuracy.py --cache on --quantization int8    (what a lossy feature costs)

The project's end-to-end measure of quality: questions about documents of 128 to 1,500 tokens, with
names and values that training never showed, in its phrasings ("values") and in others
("phrasings"). Every answer is generated greedily through the server's own engine, behind the true
history, and is right if it is the expected text, white space at its ends aside. Below the tables
stands which of the project's targets are met. Every setting of the engine is a flag here too, so
that whatever rounds differently can be asked the same questions.

The same is asked with the prefix cache, without it, and in a pool so small that the cache is
evicted all the time. The answers must be the same: in float32, the default here, the engine
promises that. In bfloat16 the last bit may depend on the batch; there differences are only counted.

The exit status is 1 if answers differ in float32, or a target is missed. Last line: one JSON
object. --json also writes it to a file.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from demo_accuracy_parts.questions import Question, questions_for
from demo_accuracy_parts.shares import shares
from demo_accuracy_parts.targets import told, verdicts
from radixserve.config import DEMO_MODEL, EngineConfig
from radixserve.demo.card import table
from radixserve.demo.schedule import EXAM_LENGTHS
from radixserve.llm import LLM
from radixserve.model.resolve import resolve_model
from radixserve.sampling.params import SamplingParams
from radixserve_frontend.flags import add_options

MAX_TOKENS = 2048
"""Of a prompt and its answer: what the demo model was trained for."""
SMALL_POOL_TOKENS = 2304
"""Room for one of the longest prompts and its answer, and hardly anything else."""
PAGE_SIZE = 16
ALWAYS: dict[str, Any] = {"model": DEMO_MODEL, "dtype": "float32", "page_size": PAGE_SIZE}
SETTINGS: dict[str, dict[str, Any]] = {
    "on": {"kv_cache_gib": 1.0},
    "off": {"kv_cache_gib": 1.0, "enable_prefix_cache": False},
    "small": {"num_pages": SMALL_POOL_TOKENS // PAGE_SIZE, "max_running": 8},
}
"""What the three ways to be asked are to the engine. Both give way to the command line."""


def answers(
    settings: Mapping[str, Any], questions: Sequence[Question]
) -> tuple[list[str], dict[str, Any]]:
    """What the model says to each question, and what it took."""
    with LLM(**settings) as llm:
        begun_s = time.perf_counter()
        outputs = llm.chat(
            [question.messages for question in questions],
            [
                SamplingParams(temperature=0.0, max_tokens=question.max_tokens)
                for question in questions
            ],
            progress=True,
        )
        took_s = time.perf_counter() - begun_s
        llm.check_invariants()
    cached = sum(output.num_cached_tokens for output in outputs)
    prompt = sum(len(output.prompt_ids) for output in outputs)
    figures = {"took_s": round(took_s, 1), "prompt_tokens": prompt, "cached_tokens": cached}
    return [output.text for output in outputs], figures


def main() -> int:
    chosen = _parse()
    facts = print_machine()
    engine = {part.name for part in fields(EngineConfig)}
    given = {name: value for name, value in vars(chosen).items() if name in engine}
    always = ALWAYS | given
    model_dir = resolve_model(always["model"])
    questions = questions_for(
        model_dir,
        dialogues=chosen.dialogues,
        seed=chosen.seed,
        lengths=chosen.lengths,
        max_tokens=MAX_TOKENS,
    )
    print(f"{len(questions):,} questions in {chosen.dialogues} dialogues of each sort", flush=True)
    texts: dict[str, list[str]] = {}
    figures: dict[str, dict[str, Any]] = {}
    for cache in chosen.cache:
        texts[cache], figures[cache] = answers(ALWAYS | SETTINGS[cache] | given, questions)
        print(f"cache {cache}: {figures[cache]}", flush=True)
    first = texts[chosen.cache[0]]
    right = [
        text.strip() == question.expected.strip()
        for question, text in zip(questions, first, strict=True)
    ]
    counted = shares(questions, right)
    for split, cells in counted.items():
        print(f"\nheld-out {split}: exactly right, in %\n\n{table(cells)}")
    differing = {
        cache: sum(one != other for one, other in zip(first, others, strict=True))
        for cache, others in texts.items()
    }
    reached = verdicts(counted)
    print("", *map(told, reached), sep="\n")
    print(f"\nanswers that differ from those with cache {chosen.cache[0]}: {differing}")
    if chosen.show:
        _show(questions, first, right, chosen.show)
    result = {
        "bench": "demo_accuracy",
        "command": shlex.join(["python", "bench/demo_accuracy.py", *sys.argv[1:]]),
        "model": always["model"],
        "dtype": always["dtype"],
        "settings": given,
        "machine": facts,
        "seed": chosen.seed,
        "dialogues": chosen.dialogues,
        "num_questions": len(questions),
        "right": counted,
        "targets": reached,
        "differing": differing,
        "runs": figures,
    }
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    complaints = [] if all(verdict["is_met"] for verdict in reached) else ["a target is missed"]
    if any(differing.values()) and always["dtype"] == "float32":
        complaints.append("the cache has changed answers")
    for complaint in complaints:
        print(f"error: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _show(
    questions: Sequence[Question], texts: Sequence[str], right: Sequence[bool], count: int
) -> None:
    """Some of the wrong answers."""
    wrong = [index for index, is_right in enumerate(right) if not is_right]
    for index in wrong[:: max(1, len(wrong) // count)][:count]:
        question = questions[index]
        print(
            f"\n[{question.split}, {question.length}, {question.kind}] "
            f"{question.messages[-1]['content']}\n  expected: {question.expected}\n"
            f"  got:      {texts[index]}"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--dialogues",
        type=int,
        default=16,
        help="of each split and length, more of short ones (default: 16)",
    )
    add("--seed", type=int, default=1, help="of the dialogues (default: 1)")
    add(
        "--lengths", type=int, nargs="+", default=list(EXAM_LENGTHS), help="of documents, in tokens"
    )
    add(
        "--cache",
        nargs="+",
        choices=tuple(SETTINGS),
        default=list(SETTINGS),
        help="ways to be asked; the table is of the first (default: all)",
    )
    add("--show", type=int, default=0, help="print so many of the wrong answers")
    add("--json", type=Path, help="also write the result to this file")
    add_options(parser, EngineConfig)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
