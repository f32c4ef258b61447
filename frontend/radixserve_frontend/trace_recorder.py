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

Hashing and writing are a thread's work, in the order in which prompts arrived: the event loop only
hands over, and neither a slow disk nor a long prompt holds a stream up. At most ``MAX_BEHIND``
pieces of work wait for it; beyond, prompts are left out of the recording, and one warning says so.
"""

import hashlib
import json
import logging
import secrets
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Full, Queue
from typing import Final

from radixserve.ids import Namespace
from radixserve_frontend.trace_file import TraceFile

logger = logging.getLogger(__name__)

BLOCK_TOKENS: Final = 512
MAX_BLOCKS: Final = 2**19
"""A block remembered takes about 200 bytes."""
MAX_BEHIND: Final = 4096
"""Two pieces of work a prompt. What waits holds the prompts' tokens."""


class TraceRecorder:
    """An open recording. *Raises* ``ConfigError`` if the file exists or cannot be made."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_behind: int = MAX_BEHIND,
    ) -> None:
        self._file = TraceFile(path)
        self._numbers = BlockNumbers(MAX_BLOCKS)
        self._clock = clock
        self._began_s = clock()
        self._work: Queue[Callable[[], None] | None] = Queue(max_behind)
        self._has_lost = False
        self._thread = threading.Thread(target=self._run, name="trace recorder", daemon=True)
        self._thread.start()

    def begin(self, prompt: Sequence[int], namespace: Namespace) -> "RecordedPrompt":
        """A prompt (not empty) arrives. It must not change any more. Never waits, never raises."""
        recorded = RecordedPrompt(
            self, round(1000 * (self._clock() - self._began_s)), num_tokens=len(prompt)
        )

        def number() -> None:
            recorded.hash_ids = self._numbers.of(prompt, namespace)

        recorded.is_lost = not self.do(number)
        return recorded

    def do(self, work: Callable[[], None]) -> bool:
        """Let the thread do something, after all that it was given before. False: it is too far
        behind, and will not."""
        try:
            self._work.put_nowait(work)
        except Full:
            if not self._has_lost:
                self._has_lost = True
                logger.warning(
                    "the recording leaves prompts out: %s is written too slowly", self._file.path
                )
            return False
        return True

    def write(self, line: bytes) -> None:
        """Append a line, while that works. On the thread."""
        if self._file.is_open:
            try:
                self._file.append(line)
            except OSError as error:
                logger.warning("the recording ends here: %s: %s", self._file.path, error)
                self._file.close()

    def flush(self) -> None:
        """Wait until everything handed over is in the file."""
        self._work.join()

    def close(self) -> None:
        """Write what there is, and end the recording; without a single line it leaves no file.
        Idempotent. May wait for the disk."""
        if self._thread.is_alive():
            self._work.put(None)
            self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                if work is None:
                    return
                work()
            except Exception:
                # Whatever it was, the next line may work, and requests must not feel it.
                logger.exception("a prompt could not be recorded")
            finally:
                self._work.task_done()


class RecordedPrompt:
    """One prompt from its arrival to its end."""

    __slots__ = ("_num_generated", "_num_tokens", "_recorder", "_timestamp", "hash_ids", "is_lost")

    def __init__(self, recorder: TraceRecorder, timestamp: int, *, num_tokens: int) -> None:
        self._recorder = recorder
        self._timestamp = timestamp
        self._num_tokens = num_tokens
        self._num_generated = 0
        self.hash_ids: list[int] | None = None
        """Its blocks' numbers, once the thread has found them."""
        self.is_lost = False
        """The recording goes on without it."""

    def add(self, num_tokens: int) -> None:
        """So many tokens more were generated for it."""
        self._num_generated += num_tokens

    def end(self) -> None:
        """It has ended, however it did. To be called once. Never waits, never raises."""
        if not self.is_lost:
            self._recorder.do(self._write)

    def _write(self) -> None:
        if self.hash_ids is None:
            return  # Finding its numbers failed, and the log says so.
        entry = {
            "timestamp": self._timestamp,
            "input_length": self._num_tokens,
            "output_length": self._num_generated,
            "hash_ids": self.hash_ids,
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
