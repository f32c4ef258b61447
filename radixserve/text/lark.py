"""Grammars in llguidance's Lark dialect, put together from pieces.

Knows the dialect's spelling and no grammar in particular. A special token is one token, spelt by
its id; any other marker is text, whatever tokens it comes in.

*Source*: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
from collections.abc import Mapping
from typing import Any

from radixserve.sampling.grammar import GrammarSpec

ANY = "/(?s:.*)/"
"""Any text, line ends included."""


_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Between the parts of a JSON text. Without a bound, models that lose their thread never stop."""


def literal(text: str) -> str:
    """A terminal that is this very text."""
    # DEL is the one character that JSON takes raw and Lark does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def token(token_id: int) -> str:
    """One token. Only in rules, not in terminals."""
    return f"<[{token_id}]>"


def regex(source: str) -> str:
    """A terminal that is a regular expression (Rust's)."""
    escaped: list[str] = []
    is_escape = False
    for char in source:
        if char == "/" and not is_escape:
            escaped.append("\\")
        is_escape = char == "\\" and not is_escape
        escaped.append(char)
    return f"/{''.join(escaped)}/" if source else '""'


def json_schema(schema: Mapping[str, Any]) -> str:
    """A rule's body: JSON that is valid by this schema."""
    return f"%json {json.dumps(schema, ensure_ascii=False)}"


def embed(spec: GrammarSpec) -> str:
    """A rule's body: what ``spec`` admits."""
    match spec.kind:
        case "json_schema":
            return json_schema(_with_bounded_space(json.loads(spec.source)))
        case "regex":
            return regex(spec.source)
        case "lark":
            return f"%lark {{\n{spec.source}\n}}"


def _with_bounded_space(schema: dict[str, Any]) -> dict[str, Any]:
    own = schema.get("x-guidance")
    style = own if isinstance(own, dict) else {}
    return {**schema, "x-guidance": {"whitespace_pattern": _WHITESPACE, **style}}


def one_of(texts: tuple[str, ...]) -> GrammarSpec:
    """The grammar of a choice between texts."""
    return GrammarSpec(kind="lark", source="start: " + " | ".join(map(literal, texts)))
