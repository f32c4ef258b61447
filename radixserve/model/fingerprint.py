"""Which model's keys and values a page holds, as 32 bytes.

Two engines have the same fingerprint only if either could use the other's pages: the same weights
to the bit, config, rotary embedding, dtype, quantisation and layout of a page. SHA-256 over

    format version | canonical JSON of: config.json, rope as resolved, dtype, page layout,
                     the quantisation, if there is one,
                     and of every weight file its name and the xxh3_128 of its bytes

The format version is to be raised by whoever changes what keys and values a checkpoint gets: pages
of an older radixserve are then not found. What moves them by rounding alone (device, attention
backend, versions of libraries) is not in it.

Weight files are the ones that the model is loaded from, and no others. Their hash need not
withstand an attacker: whoever can write the weights has better ways to change an answer.

*Cost*: reads every weight file once: 16 GB/s measured from the system's page cache, where loading
has just put it. It is only computed where pages outlive the process.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import xxhash
from tqdm.auto import tqdm

from radixserve.model.config import FILE_NAME, ModelConfig
from radixserve.model.json_config import read_json
from radixserve.model.tensor_files import TensorFiles

_FORMAT: Final = b"radixserve-fingerprint-1\n"
_LAYOUT: Final = ("layer", "key or value", "token", "head", "dimension")
"""What the bytes of a page run over, the slowest first (``runner/host_pages.py``)."""
_CHUNK_BYTES: Final = 4 << 20


def fingerprint(
    directory: Path,
    model_config: ModelConfig,
    *,
    dtype: str,
    page_size: int,
    quantization: str = "none",
    progress: bool,
) -> bytes:
    """The fingerprint, 32 bytes, of the checkpoint in ``directory`` computed in ``dtype``
    ("bfloat16") by weights as they are ("none") or of a quantisation ("int8").

    ``progress`` draws a bar on stderr if that is a terminal. *Raises* ``CheckpointError``.
    """
    weights = sorted({tensor.file for tensor in TensorFiles(directory).tensors.values()})
    with tqdm(
        total=sum(file.stat().st_size for file in weights),
        desc="Fingerprinting weights",
        unit="B",
        unit_scale=True,
        # None: draw only on a terminal.
        disable=None if progress else True,
    ) as bar:
        hashes = [(file.name, _hash_file(file, bar.update)) for file in weights]
    described: dict[str, object] = {
        "config": dict(read_json(directory / FILE_NAME).fields),
        "rope": asdict(model_config.rope),
        "weights": hashes,
        "dtype": dtype,
        "layout": _LAYOUT,
        "page_shape": (
            model_config.num_layers,
            2,
            page_size,
            model_config.num_kv_heads,
            model_config.head_dim,
        ),
    }
    # Absent where it was never asked for: pages from before there was any are still found.
    if quantization != "none":
        described["quantization"] = quantization
    canonical = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(_FORMAT + canonical.encode()).digest()


def _hash_file(file: Path, advance: Callable[[int], object]) -> str:
    found = xxhash.xxh3_128()
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    # Unbuffered: straight into the one buffer.
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            found.update(view[:count])
            advance(count)
    return found.hexdigest()
