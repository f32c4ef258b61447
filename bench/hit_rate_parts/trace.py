"""A trace: when which prompts came, as chains of block ids. No text, no policy.

A line of a trace file (the format of Mooncake's FAST'25 release) is one JSON object:

    {"timestamp": 27000, "input_length": 1300, "output_length": 52, "hash_ids": [0, 7, 8]}

``timestamp`` counts milliseconds. A hash id names a block of 512 prompt tokens *and all before it*,
so equal ids mean equal prefixes; the last block of a prompt may hold fewer tokens, and is then
another block than a full one that begins alike. So a block may be taken for a page, and a prompt's
tokens may be made up: every token of a block is the block's number. Two prompts then agree exactly
as far as their ids do, and not one token further, which is what the ids say.

``output_length`` is of no interest to trace mode, and may be missing there.

*Source*: https://github.com/kvcache-ai/Mooncake (FAST25-release/traces).
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radixserve.ids import TokenArray

MOONCAKE_BLOCK_TOKENS = 512


class TraceError(ValueError):
    """A trace file that cannot be read; says where and why."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One prompt: its arrival, and its blocks from the first token on."""

    time_s: float
    num_tokens: int
    blocks: tuple[int, ...]
    """Numbers below 2**31; ``len(blocks) == ceil(num_tokens / block_tokens)``."""
    num_reply_tokens: int | None = None
    """How many tokens were generated; None if the trace does not say."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of time, and how many tokens a full block has."""

    name: str
    block_tokens: int
    requests: tuple[TraceRequest, ...]

    @property
    def num_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return sum(request.num_tokens for request in self.requests)

    def prompt(self, request: TraceRequest) -> TokenArray:
        """The tokens that stand for a request's prompt, int32[num_tokens]."""
        tokens = np.repeat(np.array(request.blocks, dtype=np.int32), self.block_tokens)
        return tokens[: request.num_tokens]

    def block_lengths(self, request: TraceRequest) -> list[int]:
        """Tokens in each of a request's blocks: full ones, and what is left for the last."""
        lengths = [self.block_tokens] * len(request.blocks)
        if lengths:
            lengths[-1] = request.num_tokens - self.block_tokens * (len(lengths) - 1)
        return lengths


def read_trace(path: Path, *, block_tokens: int = MOONCAKE_BLOCK_TOKENS) -> Trace:
    """Read a trace file, gzipped if its name ends in ``.gz``.

    *Raises* ``TraceError`` that names the line and what is wrong with it.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                return _parse(path, lines, block_tokens)
        with path.open(encoding="utf-8") as lines:
            return _parse(path, lines, block_tokens)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read as a trace: {error}") from error


def _parse(path: Path, lines: Iterable[str], block_tokens: int) -> Trace:
    numbers: dict[int, int] = {}
    requests: list[TraceRequest] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _parse_line(line, block_tokens, numbers)
        except TraceError as error:
            raise TraceError(f"{path}, line {number}: {error}") from error
        requests.append(request)
    if not requests:
        raise TraceError(f"{path}: no request in it; expected one JSON object a line")
    # Stable: requests of one millisecond keep their order in the file.
    requests.sort(key=lambda request: request.time_s)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Trace(name, block_tokens, tuple(requests))


def _parse_line(line: str, block_tokens: int, numbers: dict[int, int]) -> TraceRequest:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise TraceError(f"not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise TraceError(f"expected an object, got {type(entry).__name__}")
    for key in ("timestamp", "input_length", "hash_ids"):
        if key not in entry:
            raise TraceError(f"{key!r} is missing; expected timestamp, input_length and hash_ids")
    time_ms, num_tokens, ids = entry["timestamp"], entry["input_length"], entry["hash_ids"]
    # In Python true is an integer; in a trace it is a mistake.
    if isinstance(time_ms, bool) or not isinstance(time_ms, int | float):
        raise TraceError(f"timestamp is {time_ms!r}; expected milliseconds, a number")
    if isinstance(num_tokens, bool) or not isinstance(num_tokens, int) or num_tokens < 1:
        raise TraceError(f"input_length is {num_tokens!r}; expected a positive integer")
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise TraceError("hash_ids is not a list of integers")
    expected = -(-num_tokens // block_tokens)
    if len(ids) != expected:
        raise TraceError(
            f"{len(ids)} hash_ids for {num_tokens} tokens; expected {expected} "
            f"at {block_tokens} tokens a block"
        )
    num_reply_tokens = entry.get("output_length")
    if num_reply_tokens is not None and (
        isinstance(num_reply_tokens, bool)
        or not isinstance(num_reply_tokens, int)
        or num_reply_tokens < 0
    ):
        raise TraceError(f"output_length is {num_reply_tokens!r}; expected an integer, 0 or more")
    blocks = tuple(numbers.setdefault(one, len(numbers)) for one in ids)
    return TraceRequest(time_ms / 1000, num_tokens, blocks, num_reply_tokens)
