"""A checkpoint's JSON file, read with suspicion.

A ``config.json`` comes from strangers: fields may be absent, null, or of another type than
expected. ``JsonConfig`` gives each field out under the type that the reader names, or raises an
error that says file, field and what was found. It knows no field by name.

An absent field and a null one both take ``default``; whoever must tell them apart asks ``in``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radixserve.errors import CheckpointError

REQUIRED: Any = object()
"""As ``default``: the field must be there."""


@dataclass(frozen=True, slots=True)
class JsonConfig:
    """The fields of one JSON object, and where they were read, for error messages."""

    source: str
    fields: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.fields

    def get(self, key: str) -> Any:
        """The field as it stands; None if it is absent."""
        return self.fields.get(key)

    def integer(self, key: str, default: Any = REQUIRED, *, minimum: int = 1) -> int:
        """A whole number of at least ``minimum``. *Raises* ``CheckpointError``."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.wrong(key, f"a whole number of at least {minimum}")
        return value

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A finite number greater than 0. *Raises* ``CheckpointError``."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        if not 0 < value < float("inf"):
            raise self.wrong(key, "a positive, finite number")
        return float(value)

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        """True or false. *Raises* ``CheckpointError``."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def child(self, key: str) -> "JsonConfig":
        """A nested object; an empty one if it is absent or null. *Raises* ``CheckpointError``."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return JsonConfig(f"{self.source}: {key}", value)

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """The error that says that a field holds something else than expected."""
        found = json.dumps(self.fields[key])[:200] if key in self.fields else "nothing"
        return CheckpointError(f"{self.source}: {key} must be {expected}, found {found}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.fields.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise CheckpointError(
                f"{self.source}: {key} is missing; the file is incomplete, "
                "fetch the checkpoint again"
            )
        return default


def read_json(path: Path) -> JsonConfig:
    """Read one JSON object from a file. *Raises* ``CheckpointError`` if there is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; is {path.parent} a checkpoint?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(fields).__name__}")
    return JsonConfig(str(path), fields)
