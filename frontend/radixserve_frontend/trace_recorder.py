"""``--record-trace FILE``: this server's traffic as a trace that ``bench/hit_rate.py`` replays.

One JSON object a line, in the format of Mooncake's published traces, one line a prompt:

    {"timestamp": 27482, "input_length": 1300, "output_length": 52, "hash_ids": [0, 7, 8]}

- ``timestamp``: milliseconds from the start of the recording until the engine accepted the prompt.
- ``output_length``: tokens that were generated for the prompt and taken, all its choices together;
  of an aborted one, those until then.
- ``hash_ids``: a number for each 512 tokens of the prompt (the last block may hold fewer). Equal
  numbers mean equal namespaces and equal tokens up to the block's end. They are given in the order
  in which blocks first arrive.

A line is written when its prompt ends, so lines come in the order of ends: sort by ``timestamp``
where that matters (``bench/hit_rate.py`` does).

Never text, token ids or namespaces, nor anything to guess them from: blocks are told apart by
BLAKE2b keyed with a secret which is drawn at the start and lives in this process alone, and what is
written are only consecutive numbers. Lengths and times are written as they are.

Bounded: at most ``MAX_BLOCKS`` blocks are remembered. Beyond, the block used longest ago is
forgotten, a parent never before its children, and gets a new number if it comes again: the trace
then shows fewer repetitions than there were, at distances beyond ``MAX_BLOCKS`` blocks, which no
cache of that size could have used either.

The file is whole after every line, gzipped (a name that ends in ``.gz``) or not, so a process that
is killed loses only prompts that had not ended. What cannot be written, to a full disk say, ends
the recording with one warning, and nothing else.

*Cost* on the event loop: about 2 ms a 100 000 prompt tokens, and one small write a prompt.
"""

import hashlib
import json
import logging
import secrets
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from radixserve.ids import Namespace
from radixserve_frontend.trace_file import TraceFile

logger = logging.getLogger(__name__)

BLOCK_TOKENS: Final = 512
MAX_BLOCKS: Final = 2**19
"""A block remembered takes about 200 bytes."""


class TraceRecorder:
    """An open recording. *Raises* ``ConfigError`` if the file exists or cannot be made."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = TraceFile(path)
        self._numbers = BlockNumbers(MAX_BLOCKS)
        self._clock = clock
        self._began_s = clock()

    def begin(self, prompt: Sequence[int], namespace: Namespace) -> "RecordedPrompt":
        """A prompt (not empty) arrives. *Cost*: O(tokens)."""
        timestamp = round(1000 * (self._clock() - self._began_s))
        return RecordedPrompt(self, timestamp, len(prompt), self._numbers.of(prompt, namespace))

    def write(self, line: bytes) -> None:
        """Append a line, while that works."""
        if self._file.is_open:
            try:
                self._file.append(line)
            except OSError as error:
                logger.warning("the recording ends here: %s: %s", self._file.path, error)
                self._file.close()

    def close(self) -> None:
        """End the recording; without a single line it leaves no file. Idempotent."""
        self._file.close()


class RecordedPrompt:
    """One prompt from its arrival to its end."""

    __slots__ = ("_hash_ids", "_num_generated", "_num_tokens", "_recorder", "_timestamp")

    def __init__(
        self, recorder: TraceRecorder, timestamp: int, num_tokens: int, hash_ids: list[int]
    ) -> None:
        self._recorder = recorder
        self._timestamp = timestamp
        self._num_tokens = num_tokens
        self._hash_ids = hash_ids
        self._num_generated = 0

    def add(self, num_tokens: int) -> None:
        """So many tokens more were generated for it."""
        self._num_generated += num_tokens

    def end(self) -> None:
        """It has ended, however it did. To be called once."""
        entry = {
            "timestamp": self._timestamp,
            "input_length": self._num_tokens,
            "output_length": self._num_generated,
            "hash_ids": self._hash_ids,
        }
        self._recorder.write(json.dumps(entry).encode("ascii") + b"\n")


class BlockNumbers:
    """Numbers for blocks of prompts, each with all before it: equal prefix, equal number."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._secret = secrets.token_bytes(32)
        self._numbers: OrderedDict[bytes, int] = OrderedDict()
        """By keyed hash, the one used longest ago first."""
        self._next = 0

    def of(self, prompt: Sequence[int], namespace: Namespace) -> list[int]:
        """The numbers of a prompt's blocks, from its first token on. *Mutates* the memory."""
        parent = self._hash(namespace.encode("utf-8", "surrogatepass"), b"")
        # Token ids that no vocabulary holds are refused by the engine before.
        tokens = memoryview(array("i", prompt)).cast("B")
        size = array("i").itemsize * BLOCK_TOKENS
        hashes: list[bytes] = []
        numbers: list[int] = []
        for start in range(0, len(tokens), size):
            parent = self._hash(tokens[start : start + size], parent)
            number = self._numbers.get(parent)
            if number is None:
                number = self._numbers[parent] = self._next
                self._next += 1
            hashes.append(parent)
            numbers.append(number)
        # Backwards: whoever is forgotten is forgotten before its parent.
        for one in reversed(hashes):
            self._numbers.move_to_end(one)
        while len(self._numbers) > self._max_blocks:
            self._numbers.popitem(last=False)
        return numbers

    def _hash(self, block: bytes | memoryview, parent: bytes) -> bytes:
        digest = hashlib.blake2b(parent, digest_size=16, key=self._secret)
        digest.update(block)
        return digest.digest()
