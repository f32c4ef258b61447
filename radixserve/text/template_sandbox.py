"""The world in which a checkpoint's chat template runs.

Jinja's immutable sandbox with transformers' conventions: blocks are trimmed, ``raise_exception``,
``strftime_now`` and loop controls exist, ``tojson`` does not escape for HTML, and ``{% generation
%}`` is tolerated. Names with an underscore in front lead nowhere, nothing that a template is given
can be changed by it, and there is no file, module or environment to reach.

What is bounded: ``range`` (Jinja's 100,000), what ``*`` may repeat and how far ``**`` may go, and
the length of the result (by ``chat_template.py``). What is not: Jinja has no clock and no
allocator, so a template can still burn a core in nested loops, or memory through string methods.
Whoever serves a checkpoint trusts its template that far and no further. A *message* only ever costs
what the template makes of its length.

*Source*: https://huggingface.co/docs/transformers/chat_templating_writing
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

MAX_REPEATED = 2**20
"""Longest string, list or tuple that ``*`` may make."""

MAX_POWER_BITS = 2**12
"""Longest integer, in bits, that ``**`` may make."""


Clock = Callable[[], datetime]
"""What time it is for a template."""


class TemplateRefusal(jinja2.TemplateError):
    """The template called ``raise_exception``; the message is its own."""


class TemplateLimitError(jinja2.TemplateError):
    """The template asked for more than it may have."""


def make_environment(clock: Clock = datetime.now) -> jinja2.Environment:
    """A fresh sandbox, to compile one template in. ``clock`` is its only look at the world."""
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    # `lipsum` makes text without bound; classes become functions, behind which there is nothing.
    del environment.globals["lipsum"]
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=lambda format_: clock().strftime(format_),
        dict=_make_dict,
        namespace=_Namespace,
    )
    return environment


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a bound on what one operator can allocate."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**":
            if isinstance(left, int) and isinstance(right, int):
                _check_limit(operator, left.bit_length() * right, MAX_POWER_BITS)
        else:
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                    _check_limit(operator, len(sequence) * count, MAX_REPEATED)
        return super().call_binop(context, operator, left, right)


def _check_limit(operator: str, size: int, limit: int) -> None:
    if size > limit:
        raise TemplateLimitError(f"{operator} would make something of size {size} (limit {limit})")


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` marks the assistant's words for training: here, a
    scope like any other."""

    tags = {"generation"}  # noqa: RUF012 - so Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that reach into Python's objects."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        super().__init__(attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace may not hold the name {name!r}")


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> None:
    raise TemplateRefusal(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja's own filter escapes it for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
