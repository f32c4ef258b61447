"""radixserve: a language-model server that prefills only what its radix-tree cache does not hold.

Public names are loaded when first used, so that ``import radixserve`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from radixserve.llm import LLM, ChoiceOutput, RequestOutput
    from radixserve.sampling.grammar import GrammarSpec
    from radixserve.sampling.params import SamplingParams

__all__ = [
    "LLM",
    "ChoiceOutput",
    "GrammarSpec",
    "RequestOutput",
    "SamplingParams",
    "__version__",
]

_HOMES = {
    "LLM": "radixserve.llm",
    "ChoiceOutput": "radixserve.llm",
    "RequestOutput": "radixserve.llm",
    "GrammarSpec": "radixserve.sampling.grammar",
    "SamplingParams": "radixserve.sampling.params",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import os  # noqa: PLC0415
        from importlib import import_module  # noqa: PLC0415

        from radixserve.threads import spin_briefly  # noqa: PLC0415

        spin_briefly(os.environ)
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
