"""Random JSON schemas of the kinds that people write, from a seed."""

import json
import random
from typing import Any

_PATTERNS = (
    r"^[a-z]{2,6}$",
    r"^(red|green|blue)-[0-9]{1,3}$",
    r"^\d{4}-\d{2}-\d{2}$",
    r"^[A-Z][a-z]{0,4}( [A-Z][a-z]{0,4})?$",
    r"^#([0-9a-f]{3}|[0-9a-f]{6})$",
)
_NAMES = ("id", "name", "größe", "x y", "tags", "unit_price", "a/b", "note", "is ok?", "v")


class Schemas:
    """Draws schemas whose words are not very long: a model that talks at random comes to an end."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._defs: dict[str, Any] = {}

    def draw(self) -> dict[str, Any]:
        """A schema of its own, with definitions if it refers to any."""
        rng = self._rng
        self._defs = {}
        if rng.random() < 0.4:
            self._defs["item"] = self._leaf()
            self._defs["list"] = {
                "anyOf": [
                    {"type": "null"},
                    {"type": "array", "items": {"$ref": "#/$defs/list"}, "maxItems": 1},
                ]
            }
        schema = rng.choice((self._object, self._object, self._array))(rng.randint(1, 2))
        if self._defs:
            schema["$defs"] = self._defs
        if rng.random() < 0.9:
            schema["x-guidance"] = {"whitespace_flexible": False}
        return schema

    def _any(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        if depth == 0:
            return self._leaf()
        kind = rng.random()
        if kind < 0.2:
            return self._object(depth - 1)
        if kind < 0.4:
            return self._array(depth - 1)
        if kind < 0.5:
            return {"anyOf": [self._any(depth - 1) for _ in range(rng.randint(2, 3))]}
        if kind < 0.65 and self._defs:
            return {"$ref": f"#/$defs/{rng.choice(sorted(self._defs))}"}
        return self._leaf()

    def _leaf(self) -> dict[str, Any]:
        rng = self._rng
        return rng.choice((self._string, self._value, self._number, self._number))()

    def _string(self) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < 0.5:
            return {"type": "string", "pattern": rng.choice(_PATTERNS)}
        if rng.random() < 0.3:
            return {"type": "string", "format": "date"}
        least = rng.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 6)}

    def _value(self) -> dict[str, Any]:
        rng = self._rng
        match rng.randrange(3):
            case 0:
                return {"enum": rng.sample(["a", "bb", "ü", 'q"q', 1, 2.5, None, True, [], {}], 3)}
            case 1:
                return {"const": rng.choice([["x", 1], "only", 0, {"k": [True]}])}
            case _:
                return {"type": ["boolean", "null"]}

    def _number(self) -> dict[str, Any]:
        rng = self._rng
        match rng.randrange(3):
            case 0:
                low = rng.randint(-200, 200)
                return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)}
            case 1:
                return {"type": "integer", "minimum": 0, "exclusiveMaximum": 500, "multipleOf": 5}
            case _:
                below = rng.randint(-50, 50) / rng.choice((1, 4))
                most = below + rng.randint(1, 40) / 8
                return {"type": "number", "exclusiveMinimum": below, "maximum": most}

    def _array(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < 0.2:
            first = [self._any(depth) for _ in range(2)]
            return {"type": "array", "prefixItems": first, "items": False, "minItems": 2}
        least = rng.randint(0, 2)
        return {
            "type": "array",
            "items": self._any(depth),
            "minItems": least,
            "maxItems": least + rng.randint(0, 2),
        }

    def _object(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        names = rng.sample(_NAMES, rng.randint(1, 3))
        return {
            "type": "object",
            "properties": {name: self._any(depth) for name in names},
            "required": [name for name in names if rng.random() < 0.6],
            "additionalProperties": False,
        }


def sources(count: int, seed: int) -> list[str]:
    """So many different schemas, as JSON."""
    schemas = Schemas(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[json.dumps(schemas.draw(), ensure_ascii=False)] = None
    return list(found)
