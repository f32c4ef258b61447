"""What tools must be like, in whatever dialect they came: few, named apart, of bounded size.

Everything that is done with tools (rendering them, compiling grammars of them) costs in proportion
to their size or more, and some of it is recursive; so both are bounded here, first.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from radixserve.errors import InvalidRequestError
from radixserve_frontend.validation import show

MAX_TOOLS: Final = 128
"""As for OpenAI."""
MAX_TOOLS_BYTES: Final = 2**19
"""Of all the tools together, as JSON."""
MAX_SCHEMA_DEPTH: Final = 64

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """*Raises* ``InvalidRequestError`` (param "tools"). *Cost*: O(size of the tools)."""
    if len(tools) > MAX_TOOLS:
        raise _refusal(f"{len(tools)} tools were sent; at most {MAX_TOOLS} are accepted")
    names: set[str] = set()
    for number, tool in enumerate(tools):
        function = tool["function"]
        where = f"tools[{number}].function"
        name = function["name"]
        if not _NAME.fullmatch(name):
            raise _refusal(
                f"{where}.name is {show(name)}; names are 1 to 128 letters, digits, dots, dashes "
                "and underscores"
            )
        if name in names:
            raise _refusal(f"{where}.name is {show(name)}, as another tool's")
        names.add(name)
        parameters = function.get("parameters") or {}
        check_depth(parameters, f"{where}.parameters", "tools")
        if parameters.get("type", "object") != "object":
            raise _refusal(
                f"{where}.parameters describes {show(parameters['type'])}; arguments are an "
                '"object"'
            )
    num_bytes = len(json.dumps(list(tools))) if tools else 0
    if num_bytes > MAX_TOOLS_BYTES:
        raise _refusal(
            f"the tools have {num_bytes} bytes of JSON; at most {MAX_TOOLS_BYTES} are accepted"
        )


def check_depth(value: Any, where: str, param: str) -> None:
    """*Raises* ``InvalidRequestError`` if JSON data is nested too deeply. Does not recurse."""
    level = [value]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise InvalidRequestError(f"{where} is nested more than {MAX_SCHEMA_DEPTH} deep", param=param)


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="tools")
