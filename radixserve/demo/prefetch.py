"""Batches made ahead, in processes of their own, in order.

Which process makes a batch and when does not matter to what is in it (``batches.py``). Processes
are spawned, leave Ctrl-C to the trainer, and end when it ends, however that happens.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait

from tokenizers import Tokenizer

from radixserve.demo.batches import Batch, DialogueMaker, make_batch
from radixserve.demo.schedule import Plan

AHEAD = 4
"""Batches made or being made before they are asked for, by each process."""

_worker: tuple[Plan, Tokenizer, DialogueMaker] | None = None
"""What a worker's batches are made with. Set once, in workers only."""


def batches(
    plan: Plan,
    tokenizer: Tokenizer,
    make_dialogue: DialogueMaker,
    *,
    first_step: int,
    num_workers: int,
) -> Generator[Batch, None, None]:
    """The batches of the steps from ``first_step`` to the last. ``make_dialogue`` must be a
    module's function. Close the generator to end the processes; with no workers there are none."""
    steps = iter(range(first_step, plan.num_steps))
    if num_workers == 0:
        for step in steps:
            yield make_batch(plan, step, tokenizer, make_dialogue)
        return
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(plan, tokenizer.to_str(), make_dialogue),
    )
    try:
        ahead: deque[Future[Batch]] = deque()
        for step in steps:
            ahead.append(pool.submit(_make, step))
            if len(ahead) > AHEAD * num_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(plan: Plan, tokenizer: str, make_dialogue: DialogueMaker) -> None:
    global _worker  # noqa: PLW0603
    _worker = (plan, Tokenizer.from_str(tokenizer), make_dialogue)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The library's own threads would take the cores from the training.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # A trainer that was killed tells nobody.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is no main process"
    wait([parent.sentinel])
    os._exit(1)


def _make(step: int) -> Batch:
    assert _worker is not None, "the worker has not been started"
    plan, tokenizer, make_dialogue = _worker
    return make_batch(plan, step, tokenizer, make_dialogue)
