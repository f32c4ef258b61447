"""Answers under random JSON schemas are JSON and validate, whoever chooses the tokens."""

import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from radixserve import LLM, GrammarSpec, SamplingParams
from tests.engine.schemas import sources

NUM_SCHEMAS = 200
MAX_TOKENS = 250


@pytest.fixture(scope="module")
def llm(loose_dir: Path) -> Iterator[LLM]:
    with LLM(
        str(loose_dir), dtype="float32", num_threads=1, num_pages=2000, max_running=64
    ) as found:
        yield found


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), f"a key comes twice: {pairs}"
    return found


@pytest.mark.parametrize(
    # Greedy models of no talent repeat themselves for ever, unless it costs them something.
    "choosing",
    [{"temperature": 0.0, "frequency_penalty": 1.0}, {"temperature": 1.0}],
    ids=["greedy", "sampled"],
)
def test_whole_answers_validate(llm: LLM, choosing: dict[str, float]) -> None:
    """Numbers are compared as they are written: as floats 0.1999999999999999999 would be 0.2."""
    schemas = sources(NUM_SCHEMAS, seed=5)
    params = [
        SamplingParams(
            seed=number,
            max_tokens=MAX_TOKENS,
            grammar=GrammarSpec(kind="json_schema", source=schema),
            **choosing,  # type: ignore[arg-type]  # a mapping of several fields
        )
        for number, schema in enumerate(schemas)
    ]
    prompts = [f"Describe number {number}: " for number in range(NUM_SCHEMAS)]
    reasons: Counter[str | None] = Counter()
    texts = set()
    for schema, output in zip(schemas, llm.generate(prompts, params), strict=True):
        reasons[output.finish_reason] += 1
        if output.finish_reason == "length":
            continue
        assert output.finish_reason == "stop"
        answer = json.loads(output.text, parse_float=Decimal, object_pairs_hook=unique)
        Draft202012Validator(json.loads(schema)).validate(answer)
        texts.add(output.text)
    # Most come to an end, and they are not all the same few.
    assert reasons["stop"] >= 0.9 * NUM_SCHEMAS, reasons
    assert len(texts) > 0.6 * NUM_SCHEMAS
    llm.check_invariants()
