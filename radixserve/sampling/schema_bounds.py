"""Number ranges that llguidance (1.9) reads too widely, told so that it reads them right.

Where a range excludes a whole number and ends before the next one, as (0, 0.5] and [-3.5, -3) do,
the excluded number is accepted all the same. There the bound is moved inwards by a little: numbers
that are closer to it than ``MARGIN`` are lost, which an answer can do without, and no answer breaks
its schema.

Cost: O(schema).
"""

import math
from typing import Any, Final

MARGIN: Final = 1e-6

_VALUES = frozenset({"const", "enum", "default", "examples", "x-guidance"})
"""Keywords whose contents are no schemas."""


def with_sound_bounds(schema: Any) -> Any:
    """The schema, or a list or mapping of schemas, with such bounds moved."""
    if isinstance(schema, list):
        return [with_sound_bounds(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    sound = {
        key: value if key in _VALUES else with_sound_bounds(value) for key, value in schema.items()
    }
    low, high = _number(sound, "exclusiveMinimum"), _number(sound, "exclusiveMaximum")
    least, most = _number(sound, "minimum"), _number(sound, "maximum")
    upper = min(bound for bound in (high, most, math.inf) if bound is not None)
    lower = max(bound for bound in (low, least, -math.inf) if bound is not None)
    if low is not None and low.is_integer() and upper < low + 1:
        sound["exclusiveMinimum"] = low + MARGIN
    if high is not None and high.is_integer() and lower > high - 1:
        sound["exclusiveMaximum"] = high - MARGIN
    return sound


def _number(schema: dict[str, Any], key: str) -> float | None:
    value = schema.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
