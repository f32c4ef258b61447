"""The process that tries grammars: ``python -m radixserve.engine.grammar_check MEMORY_BYTES``.

Standard input brings a table of tokens (a pickle), then grammars (JSON, one a line). Standard
output answers each, the table included, with a line of JSON: an error message or null. It ends with
its input. Whatever a grammar does to it, ``grammar_guard.py``, which started it, notices.
"""

import contextlib
import json
import pickle
import resource
import signal
import sys
from pathlib import Path

from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.grammar_compiler import GrammarCompiler, GrammarError


def main() -> None:
    """Answer until there is nothing more to answer."""
    # A terminal's interrupt is its parent's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    table: list[bytes] = pickle.load(sys.stdin.buffer)
    # What it kept would count against the memory that the next grammar may take.
    compiler = GrammarCompiler(lambda: table, num_workers=1, keeps=False)
    compiler.prepare()
    _limit_memory(int(sys.argv[1]))
    _answer(None)
    for line in sys.stdin.buffer:
        given = json.loads(line)
        try:
            compiler.compile(GrammarSpec(kind=given["kind"], source=given["source"]))
        except GrammarError as error:
            _answer(str(error))
        else:
            _answer(None)


def _limit_memory(num_bytes: int) -> None:
    """Allow so much more than there is already, and leave no image behind when it ends badly."""
    # Some systems have no such figures, or no such limits.
    with contextlib.suppress(OSError, ValueError):
        num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit_bytes = num_pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(error: str | None) -> None:
    sys.stdout.write(json.dumps(error) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
