"""A language that an answer must stay within, as a caller writes it. Data only.

What a source means is for ``constraint.py`` to say, which compiles it. No torch here.
"""

from dataclasses import dataclass
from typing import Literal

GrammarKind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec:
    """One grammar. Equal ones compile to the same."""

    kind: GrammarKind
    source: str
    """The schema as JSON text; the regular expression; the grammar in llguidance's Lark dialect."""
