"""From the architecture's name, as ``config.json`` gives it, to the family that serves it."""

from collections.abc import Mapping
from types import MappingProxyType

from radixserve.errors import CheckpointError, UnsupportedModelError
from radixserve.model.family import Family
from radixserve.model.json_config import JsonConfig
from radixserve.model.llama import LLAMA
from radixserve.model.mistral import MISTRAL
from radixserve.model.qwen2 import QWEN2
from radixserve.model.qwen3 import QWEN3

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.architecture: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}
)


def find_family(config: JsonConfig) -> Family:
    """The family that ``architectures`` names.

    *Raises* ``UnsupportedModelError`` for any other, ``CheckpointError`` if none is named.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1:
        raise CheckpointError(
            f"{config.source}: architectures must name one architecture, found {names!r}; "
            "is this the config of a causal language model?"
        )
    family = FAMILIES.get(names[0]) if isinstance(names[0], str) else None
    if family is None:
        raise UnsupportedModelError(
            f"{config.source}: architecture {names[0]!r} is not supported; "
            f"supported are {', '.join(FAMILIES)}"
        )
    return family
