"""Threads that grammars are compiled and followed in: one job after the other, and a deep stack.

Grammars may refer to themselves a long way down. llguidance goes down them by recursion, and a
stack that ends there ends the process. The process that tries a grammar first
(``engine/grammar_guard.py``) has an ordinary stack: what it gets through, these get through.

To wake a thread costs a system call, tens of microseconds; a step hands over a job per choice. So
only a thread that has run out of jobs is woken.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

STACK_BYTES: Final = 128 << 20
"""Of address space: what is not used is never there."""

_Result = TypeVar("_Result")

_starting = threading.Lock()


class DeepThread:
    """Takes jobs, and does them in the order in which they came. Ends when it is forgotten."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._jobs: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._is_awake = False
        with _starting:
            before = threading.stack_size(STACK_BYTES)
            try:
                # The first job is what starts the thread.
                self._executor.submit(self._work).result()
            finally:
                threading.stack_size(before)

    def submit(self, function: Callable[[], _Result]) -> "Future[_Result]":
        """Have ``function`` called. Returns at once. *Cost*: some microseconds, if the thread is
        awake."""
        future: Future[_Result] = Future()
        with self._lock:
            self._jobs.append(lambda: _settle(future, function))
            wakes, self._is_awake = not self._is_awake, True
        if wakes:
            self._executor.submit(self._work)
        return future

    def _work(self) -> None:
        """Do what there is to do."""
        while True:
            with self._lock:
                if not self._jobs:
                    self._is_awake = False
                    return
                job = self._jobs.popleft()
            job()


def _settle(future: "Future[Any]", function: Callable[[], Any]) -> None:
    try:
        result = function()
    except BaseException as error:  # A panic in Rust is no Exception.
        future.set_exception(error)
    else:
        future.set_result(result)
