"""A checkpoint's safetensors files: which tensors there are, and one of them at a time.

One ``model.safetensors``, or shards named by ``model.safetensors.index.json``. Files are mapped
into memory; a tensor's bytes are read when it is copied, and nothing is kept. This module knows no
model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from radixserve.errors import CheckpointError
from radixserve.model.json_config import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What a file's header says of one tensor."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name of it: "F32", "BF16", ..."""


class TensorFiles:
    """All tensors of one checkpoint directory, by name.

    *Raises* ``CheckpointError`` on construction if a file is missing, torn, or does not hold what
    the index says of it.
    """

    __slots__ = ("_handles", "directory", "tensors")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._handles: dict[Path, Any] = {}
        tensors: dict[str, StoredTensor] = {}
        if (directory / SINGLE_FILE).is_file():
            tensors.update(self._open(directory / SINGLE_FILE))
        elif (directory / INDEX_FILE).is_file():
            tensors.update(self._open_shards(directory / INDEX_FILE))
        else:
            raise _no_weights(directory)
        self.tensors: Mapping[str, StoredTensor] = MappingProxyType(tensors)

    def read(self, name: str) -> torch.Tensor:
        """One tensor on the CPU, a view of the mapped file: copy it, do not write to it."""
        tensor: torch.Tensor = self._handles[self.tensors[name].file].get_tensor(name)
        return tensor

    def _open(self, file: Path) -> dict[str, StoredTensor]:
        try:
            # Typed loosely: some versions ship annotations, some none.
            handle: Any = safe_open(file, framework="pt", device="cpu")
            self._handles[file] = handle
            found = {}
            for name in handle.keys():  # noqa: SIM118 (a handle is not a mapping)
                header = handle.get_slice(name)
                found[name] = StoredTensor(file, tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file} {_why_unreadable(file)} ({error})") from error
        return found

    def _open_shards(self, index: Path) -> dict[str, StoredTensor]:
        weight_map = read_json(index).child("weight_map").fields
        if not weight_map:
            raise CheckpointError(f"{index} has no weight_map; fetch the checkpoint again")
        shards = sorted({str(shard) for shard in weight_map.values()})
        # The index comes from a stranger and must not lead out of the directory.
        outside = [shard for shard in shards if Path(shard).name != shard]
        if outside:
            raise CheckpointError(f"{index} names a file outside its directory: {outside[0]!r}")
        missing = [shard for shard in shards if not (self.directory / shard).is_file()]
        if missing:
            raise CheckpointError(
                f"{index} names {len(shards)} files, of which {len(missing)} are missing: "
                f"{name_some(missing)}; fetch the checkpoint again"
            )
        found: dict[str, StoredTensor] = {}
        for shard in shards:
            found.update(self._open(self.directory / shard))
        misplaced = [
            name
            for name, shard in weight_map.items()
            if name not in found or found[name].file.name != shard
        ]
        if misplaced:
            raise CheckpointError(
                f"{index} names {len(misplaced)} tensors that are not in their file: "
                f"{name_some(misplaced)}; fetch the checkpoint again"
            )
        return found


def name_some(names: list[str], limit: int = 10) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _no_weights(directory: Path) -> CheckpointError:
    pickled = sorted(directory.glob("pytorch_model*.bin"))
    if pickled:
        return CheckpointError(
            f"{directory} holds {pickled[0].name} but no safetensors; pickled weights can run code "
            "and are not read: convert them with transformers' save_pretrained"
        )
    return CheckpointError(f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def _why_unreadable(file: Path) -> str:
    with file.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return "is a git-lfs pointer, not the weights themselves: run 'git lfs pull'"
    return "is torn or not a safetensors file: fetch it again"
