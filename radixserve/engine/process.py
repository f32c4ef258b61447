"""The engine in a process of its own: ``python -m radixserve.engine.process ENDPOINT LEVEL``.

The step loop never waits for tokenizing, SSE or slow clients, and they never wait for it. The
process reads its settings (one line of JSON) from standard input, loads the model, connects to the
client's socket, and then alternates between messages and steps:

    drain messages -> answer -> step -> send what it added -> drain ...        (while there is work)
    wait for a message, or for what a thread does: grammars, files             (while there is none)

Questions are answered for ``ANSWER_S`` between two steps: who asks much waits, and nobody else.

A step may also be a chore: what was computed is copied to where the disk's threads write it. These
are done while there is nothing else, one by one, so that a message never waits for more than one.

Standard input stays open as long as the client lives; its end means that nobody is left to serve,
and the process ends, however the client died: it first keeps on disk, for some two seconds, what it
can (``EngineCore.close``). Signals that ask to stop may reach every process at once (a terminal's
interrupt, a service manager's SIGTERM); they are the client's to answer, since it drains first.
Nothing here knows text or HTTP.
"""

import gc
import logging
import signal
import sys
import time
from collections import deque

import msgspec
import zmq

from radixserve.config import EngineConfig
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.engine.disk_watch import LOOK_S
from radixserve.engine.messages import (
    Abort,
    Answer,
    Ask,
    CacheEvents,
    Failed,
    FromEngine,
    NotAnswered,
    Ping,
    Pong,
    PrefillAhead,
    Question,
    Ready,
    Reply,
    SetPublic,
    Step,
    Submit,
    TreeChanged,
    WatchCache,
    WatchFailed,
    WatchTree,
    decode_to_engine,
    encode,
)
from radixserve.engine.questions import reply_to
from radixserve.engine.wake import Wake
from radixserve.errors import RadixServeError
from radixserve.types import TokenDelta

logger = logging.getLogger(__name__)

ANSWER_S = 0.001
"""How long questions are answered before the next step; one is, however long it takes."""
LINGER_MS = 2000
"""How long the last messages may take to leave when the process ends."""


def main() -> int:
    """Serve one client until it goes. Returns the exit status: 0 unless start-up failed."""
    endpoint, log_level = sys.argv[1:]
    logging.basicConfig(level=int(log_level), format="%(levelname)s engine: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What reloads a server is sent to all of its processes by some service managers.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(endpoint)
        try:
            core = build_core(config, progress=True)
        except RadixServeError as error:
            _send(socket, Failed(type(error).__name__, str(error)))
            return 1
        # What was loaded stays; the collector need not look through it ever again.
        gc.collect()
        gc.freeze()
        # Not before: while the model loads there is nothing to drain.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _send(socket, Ready(core.info))
        stats = core.stats()
        if stats.tiers is not None:
            # What the directory holds shows before anybody has asked for any of it.
            _send(socket, Step([], stats, []))
        with Wake() as wake:
            core.call_when_ready(wake.ring)
            _serve(core, socket, wake)
            core.close()
    return 0


def _serve(core: EngineCore, socket: "zmq.Socket[bytes]", wake: Wake) -> None:
    """Alternate between messages and steps until the client is gone."""
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    poller.register(wake.fd, zmq.POLLIN)
    asked: deque[Ask] = deque()
    while True:
        sleep_ms = int(1000 * LOOK_S) if core.has_work else None
        must_go_on = core.can_step or core.tree_feed.has_news or bool(asked)
        ready = dict(poller.poll(0 if must_go_on else sleep_ms))
        if sys.stdin.fileno() in ready:
            logger.info("the client is gone; the engine ends")
            return
        deltas: list[TokenDelta] = []
        if socket in ready:
            deltas += _drain(core, socket, asked)
        _answer(core, socket, asked)
        if wake.fd in ready:
            wake.clear()
        had_work, can_step = core.has_work, core.can_step
        # Otherwise it would wait for a thread, and not hear messages.
        if can_step:
            deltas += core.step()
        # Also without deltas: the figures must not stand still while a long prompt is computed, or
        # while pages go to the disk.
        if had_work or can_step or deltas:
            _send(socket, Step(deltas, core.stats(), core.admitted if can_step else []))
        _send_cache_events(core, socket)
        _send_tree(core, socket)


def _drain(core: EngineCore, socket: "zmq.Socket[bytes]", asked: deque[Ask]) -> list[TokenDelta]:
    """Take in every message that has arrived; questions are added to ``asked``. Returns what aborts
    have ended."""
    deltas: list[TokenDelta] = []
    while True:
        try:
            data = socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return deltas
        match decode_to_engine(data):
            case Submit(request):
                core.add(request)
            case Abort(request_id, index):
                deltas += core.abort(request_id, index)
            case WatchCache(snapshot=None):
                core.unwatch_cache()
            case WatchCache(number):
                # What came before it goes first, to those who watch already.
                _send_cache_events(core, socket)
                _send(socket, _watch(core, number))
            case WatchTree(None):
                core.tree_feed.unwatch()
            case WatchTree(int(picture)):
                core.tree_feed.watch(picture)
            case SetPublic(prefixes):
                core.set_public_prefixes(prefixes)
            case PrefillAhead(prompt_ids, namespace, tenant):
                core.prefill_ahead(prompt_ids, namespace, tenant)
            case Ask() as ask:
                asked.append(ask)
            case Ping():
                _send(socket, Pong())


def _answer(core: EngineCore, socket: "zmq.Socket[bytes]", asked: deque[Ask]) -> None:
    """Answer the oldest questions, and forget them."""
    end_s = time.monotonic() + ANSWER_S
    while asked:
        ask = asked.popleft()
        _send(socket, Answer(ask.number, _reply(core, ask.question)))
        if time.monotonic() >= end_s:
            return


def _reply(core: EngineCore, question: Question) -> Reply:
    """The reply, or that there is none: a question must not cost anybody an answer."""
    try:
        return reply_to(core, question)
    except Exception as error:
        logger.exception("a question could not be answered: %s", type(question).__name__)
        return NotAnswered(f"{type(error).__name__}: {error}")


def _watch(core: EngineCore, number: int | None) -> CacheEvents | WatchFailed:
    """A snapshot of the cache, whose events are noted from now on; or that this has failed."""
    try:
        return CacheEvents(core.watch_cache(), number)
    except Exception:
        logger.exception("the cache cannot be watched")
        core.unwatch_cache()
        return WatchFailed()


def _send_cache_events(core: EngineCore, socket: "zmq.Socket[bytes]") -> None:
    events = core.take_cache_events()
    if events:
        _send(socket, CacheEvents(events))


def _send_tree(core: EngineCore, socket: "zmq.Socket[bytes]") -> None:
    if not core.tree_feed.has_news:
        return
    try:
        news = core.tree_feed.take(is_busy=core.can_step)
        if news is not None:
            _send(socket, TreeChanged(core.tree_feed.picture, news))
    except Exception:
        logger.exception("the tree cannot be watched")
        core.tree_feed.unwatch()
        _send(socket, WatchFailed(is_tree=True))


def _send(socket: "zmq.Socket[bytes]", message: FromEngine) -> None:
    socket.send(encode(message))


if __name__ == "__main__":
    sys.exit(main())
