"""A worker's own end: requests on standard input, answers on standard output, a JSON line each.

Knows no engine, and needs nothing but Python.
"""

import json
import os
import sys
from collections.abc import Callable


def serve(worker: object, read_line: Callable[[], str], write_line: Callable[[str], None]) -> None:
    """Answer one request a line, ``{"op": name, ...arguments}``, until there are no more: with
    ``{"ok": result}``, or ``{"error": text}`` if it raised."""
    while line := read_line():
        request = json.loads(line)
        try:
            answer = {"ok": getattr(worker, request.pop("op"))(**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        write_line(json.dumps(answer))


def serve_stdio(worker: object) -> None:
    """Do it over standard input and output. What else is printed goes to standard error, native
    code's included."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def write_line(line: str) -> None:
        answers.write(line + "\n")
        answers.flush()

    serve(worker, sys.stdin.readline, write_line)
