"""Which format a checkpoint speaks: told by its chat template, which teaches it to the model.

Knows templates as text only. A format that nothing tells of is None: guessing would turn content
into calls.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from radixserve.text.tool_calls.format import ToolFormat
from radixserve.text.tool_calls.hermes import HermesFormat
from radixserve.text.tool_calls.llama3 import Llama3Format
from radixserve.text.tool_calls.mistral import MistralFormat

TOOL_FORMATS: Final[Mapping[str, ToolFormat]] = MappingProxyType(
    {each.name: each for each in (HermesFormat(), Llama3Format(), MistralFormat())}
)


def find_tool_format(template: str, special_tokens: Collection[str]) -> ToolFormat | None:
    """The format that a template (its source) teaches, if it is one of ours."""
    if "<tool_call>" in template:
        # Some write XML between the same markers.
        return (
            None if "<function=" in template or "<arg_key>" in template else TOOL_FORMATS["hermes"]
        )
    if "[TOOL_CALLS]" in template:
        return TOOL_FORMATS["mistral"]
    if "<|python_tag|>" in template:
        return TOOL_FORMATS["llama3"]
    # Llama 3.2's small models are taught to answer with bare JSON.
    if '"parameters": ' in template and "<|python_tag|>" in special_tokens:
        return TOOL_FORMATS["llama3"]
    return None
