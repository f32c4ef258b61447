"""Tries grammars before anybody is served under them, in a process that may be lost.

A short grammar can take compilers a century, all memory, or their stack, and a compiler that is a
library takes the server with it. So each grammar is first compiled in a process of its own kind
(``grammar_check.py``), under limits of time and memory. What passes is compiled again where it is
used; what ends that process, or outlives its time, is refused, and the next grammar finds another
process.

    check(spec) ── JSON ──▶ child: compiles ── null, or what is wrong ──▶ returns, or raises

The process ends with whoever started it, or with the guard. Thread-safe; one grammar at a time.
Verdicts are kept, and asking for one waits for nobody. Cost: starting the process, when the first
grammar comes, and what ``grammar_compiler.py`` says; nothing for a grammar tried lately.
"""

import contextlib
import json
import logging
import os
import pickle
import select
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.grammar_compiler import MAX_CACHED_BYTES, GrammarError, check_size

logger = logging.getLogger(__name__)

LIMIT_S: Final = 5.0
"""How long compiling may take."""

LIMIT_BYTES: Final = 2 << 30
"""Of memory, while compiling."""

START_LIMIT_S: Final = 120.0
"""How long it may take to start, on a machine that is busy with other things."""

MAX_VERDICTS: Final = 1024


class GrammarGuard:
    """``load_table`` gives the tokens' bytes (``token_table.py``); it is called for each process
    that is started."""

    def __init__(self, load_table: Callable[[], list[bytes]], *, limit_s: float = LIMIT_S) -> None:
        self._load_table = load_table
        self._limit_s = limit_s
        self._trying = threading.Lock()
        self._child: _Child | None = None
        # Apart from the other: who brings a known grammar does not wait for one that is tried.
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[GrammarSpec, str | None] = OrderedDict()

    def check(self, spec: GrammarSpec) -> None:
        """*Raises* ``GrammarError`` if the grammar cannot be compiled within the limits. Blocks:
        to be called from a thread that nobody waits for."""
        if self.knows(spec):
            return
        with self._trying:
            # Another thread may have brought the same.
            if self.knows(spec):
                return
            error = self._try(spec)
            with self._lock:
                self._verdicts[spec] = error
                while len(self._verdicts) > MAX_VERDICTS or self._num_bytes() > MAX_CACHED_BYTES:
                    self._verdicts.popitem(last=False)
        if error is not None:
            raise GrammarError(error)

    def knows(self, spec: GrammarSpec) -> bool:
        """Whether the grammar has passed lately. Never waits. *Raises* ``GrammarError`` if it has
        failed, or is too long to be tried."""
        check_size(spec)
        with self._lock:
            if spec not in self._verdicts:
                return False
            self._verdicts.move_to_end(spec)
            error = self._verdicts[spec]
        if error is not None:
            raise GrammarError(error)
        return True

    def close(self) -> None:
        """End the process. Idempotent; ``check`` would start another."""
        with self._trying:
            self._drop()

    def _try(self, spec: GrammarSpec) -> str | None:
        """What is wrong with the grammar."""
        if self._child is None:
            self._child = _Child(self._load_table())
        try:
            return self._child.ask(spec, self._limit_s)
        except TimeoutError:
            self._drop()
            return (
                f"the grammar is too complex: compiling it takes more than {self._limit_s:g} s. "
                "Simplify it"
            )
        except (EOFError, BrokenPipeError):
            status = self._drop()
            logger.warning("a grammar has ended the process that tried it (status %s)", status)
            return (
                "the grammar is too complex: compiling it takes too much memory or recurses too "
                "deeply. Simplify it"
            )

    def _drop(self) -> int | None:
        child, self._child = self._child, None
        return None if child is None else child.end()

    def _num_bytes(self) -> int:
        return sum(len(spec.source) for spec in self._verdicts)


class _Child:
    """One process, ready for grammars."""

    def __init__(self, table: list[bytes]) -> None:
        self._process = subprocess.Popen(
            # No modules of the working directory: what lies there is no part of the server.
            [sys.executable, "-P", "-m", "radixserve.engine.grammar_check", str(LIMIT_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # Also if nobody ends it before it is forgotten.
        self._end = weakref.finalize(self, _end, self._process)
        assert self._process.stdin is not None, "it is a pipe"
        assert self._process.stdout is not None, "it is a pipe"
        self._stdin, self._stdout = self._process.stdin, self._process.stdout.fileno()
        self._received = b""
        try:
            pickle.dump(table, self._stdin)
            self._stdin.flush()
            self._answer(START_LIMIT_S)
        except BaseException:
            self.end()
            raise

    def ask(self, spec: GrammarSpec, limit_s: float) -> str | None:
        """The process' verdict. *Raises* ``TimeoutError``; ``EOFError`` or ``BrokenPipeError`` if
        it has ended."""
        self._stdin.write(json.dumps({"kind": spec.kind, "source": spec.source}).encode() + b"\n")
        self._stdin.flush()
        return self._answer(limit_s)

    def end(self) -> int | None:
        """End it, if it has not ended. Returns its status."""
        self._end()
        return self._process.returncode

    def _answer(self, limit_s: float) -> str | None:
        until_s = time.monotonic() + limit_s
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        while b"\n" not in self._received:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            received = os.read(self._stdout, 1 << 16)
            if not received:
                raise EOFError
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        error: str | None = json.loads(line)
        return error


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        # What could not be written before is of no use now.
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()
