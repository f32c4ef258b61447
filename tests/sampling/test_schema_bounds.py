"""Number ranges: no answer breaks one."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.sampling.constraint import Constraint
from radixserve.sampling.grammar_compiler import GrammarCompiler
from radixserve.sampling.schema_bounds import MARGIN, with_sound_bounds
from tests.sampling.constraining import spec

COMPILER = GrammarCompiler(lambda: [bytes([byte]) for byte in range(255)], num_workers=1)
BOUNDS = st.integers(-60, 60).map(lambda eighths: Decimal(eighths) / 8)


def accepts(schema: dict[str, Any], text: str) -> bool:
    """Whether the text is an answer, and not only the beginning of one."""
    grammar = COMPILER.compile(spec("json_schema", json.dumps(schema)))
    constraint = Constraint(grammar, end_token_ids=[254])
    constraint.replay(list(text.encode()))
    return bool(constraint.wait()[254 // 32] >> 254 % 32 & 1)


@given(
    st.sampled_from(("minimum", "exclusiveMinimum")),
    st.sampled_from(("maximum", "exclusiveMaximum")),
    BOUNDS,
    st.integers(1, 24).map(lambda eighths: Decimal(eighths) / 8),
)
@settings(max_examples=25)
def test_the_bounds_hold(low_key: str, high_key: str, low: Decimal, width: Decimal) -> None:
    high = low + width
    schema = {"type": "number", low_key: float(low), high_key: float(high)}
    middle = low + width / 2
    for value in (low, high, middle, low - 1, high + 1):
        is_above = value > low or (value == low and low_key == "minimum")
        is_below = value < high or (value == high and high_key == "maximum")
        found = accepts(schema, format(value.normalize(), "f"))
        assert not found or (is_above and is_below), (schema, value)
        # Of a number that is a bound, not all spellings are taken.
        if value == middle:
            assert found, (schema, value)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "0"),
        ({"exclusiveMinimum": -3, "exclusiveMaximum": -2.5}, "-3"),
        ({"exclusiveMaximum": 0, "minimum": -0.5}, "-0"),
        ({"exclusiveMaximum": -7, "exclusiveMinimum": -7.125}, "-7"),
    ],
)
def test_known_to_be_read_too_widely(schema: dict[str, Any], text: str) -> None:
    assert not accepts({"type": "number", **schema}, text)


def test_nothing_else_is_changed() -> None:
    moved = {"exclusiveMinimum": 1, "maximum": 1.5}
    schema = {
        "const": moved,
        "enum": [moved],
        "anyOf": [{"exclusiveMinimum": 0, "maximum": 1}, {"exclusiveMinimum": 0.5, "maximum": 0.7}],
        "properties": {"exclusiveMinimum": {"type": "string"}, "maximum": True},
        "exclusiveMinimum": True,
        "maximum": 10**400,
        "$defs": {"a": moved},
    }
    expected = {**schema, "$defs": {"a": {"exclusiveMinimum": 1 + MARGIN, "maximum": 1.5}}}
    assert with_sound_bounds(schema) == expected
