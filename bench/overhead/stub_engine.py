"""An engine process without a model: it speaks the real protocol, and a token costs it nothing.

Started by the server in the real one's place (``stub_server.py``). Every ``1 / RATE`` seconds it
sends a step with one token for each request, as an engine does whose batch holds them all, and
notes the moment. When told to end it writes the moments down: a line of JSON a request, by the
number that its prompt holds (``#17#``).

Environment: ``STUB_RATE`` (tokens a second), ``STUB_CORE`` (where to run), ``STUB_TIMES`` (file;
its directory gets a tokenizer).
"""

import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq

from overhead import MODEL
from radixserve.engine.messages import (
    Abort,
    Answer,
    Ask,
    FromEngine,
    NotAnswered,
    Ping,
    Pong,
    Ready,
    Step,
    Submit,
    decode_to_engine,
    encode,
)
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingDefaults
from radixserve.types import CacheInfo, EngineInfo, EngineRequest, EngineStats, TokenDelta
from support.byte_tokenizer import write_byte_tokenizer

LETTER: Final = ord("x")


@dataclass(slots=True)
class Running:
    """A request, and when its tokens left."""

    request: EngineRequest
    sent_ns: list[int] = field(default_factory=list)


class Stub:
    """Takes requests, emits tokens."""

    def __init__(self, socket: "zmq.Socket[bytes]", rate: float) -> None:
        self._socket = socket
        self._step_s = 1 / rate
        self._running: dict[RequestId, Running] = {}
        self._ended: list[Running] = []
        self._admitted: list[RequestId] = []

    def serve(self) -> None:
        """Until standard input ends."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        next_s = time.monotonic()
        while True:
            wait_s = next_s - time.monotonic()
            ready = dict(poller.poll(max(0, int(1000 * wait_s)) if self._running else None))
            if sys.stdin.fileno() in ready:
                return
            if self._socket in ready:
                if not self._running:
                    next_s = time.monotonic()
                self._take(self._socket.recv())
            if self._running and time.monotonic() >= next_s:
                self._step()
                # An engine that is late is late; it does not hurry afterwards.
                next_s = max(next_s + self._step_s, time.monotonic())

    def write_times(self, path: Path) -> None:
        """When each request's tokens left."""
        with path.open("w") as file:
            for running in self._ended:
                # Tokens below 256 are bytes.
                text = bytes(token for token in running.request.prompt_ids if token < 256)
                found = re.search(rb"#(\d+)#", text)
                assert found is not None
                number = int(found[1])
                file.write(json.dumps({"number": number, "sent_ns": running.sent_ns}) + "\n")

    def _take(self, data: bytes) -> None:
        match decode_to_engine(data):
            case Submit(request):
                self._running[request.request_id] = Running(request)
                self._admitted.append(request.request_id)
            case Abort(request_id):
                self._running.pop(request_id, None)
            case Ask(number):
                self._send(Answer(number, NotAnswered("this is a stub")))
            case Ping():
                self._send(Pong())

    def _step(self) -> None:
        now_ns = time.monotonic_ns()
        deltas = []
        for request_id, running in tuple(self._running.items()):
            running.sent_ns.append(now_ns)
            is_last = len(running.sent_ns) == running.request.params.max_tokens
            deltas.append(
                TokenDelta(
                    request_id=request_id,
                    index=0,
                    token_ids=[LETTER],
                    finish_reason="length" if is_last else None,
                )
            )
            if is_last:
                self._ended.append(self._running.pop(request_id))
        self._send(Step(deltas, self._stats(), self._admitted))
        self._admitted = []

    def _stats(self) -> EngineStats:
        pages = CacheInfo(
            free_pages=1000, cached_pages=0, in_use_pages=24, total_pages=1024, page_size=16
        )
        return EngineStats(num_waiting=0, num_running=len(self._running), cache=pages)

    def _send(self, message: FromEngine) -> None:
        self._socket.send(encode(message))


def main() -> None:
    """As ``radixserve.engine.process``."""
    endpoint = sys.argv[1]
    os.sched_setaffinity(0, {int(os.environ["STUB_CORE"])})
    sys.stdin.buffer.readline()
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(endpoint)
        times = Path(os.environ["STUB_TIMES"])
        write_byte_tokenizer(times.parent)
        socket.send(encode(Ready(_info(times.parent))))
        stub = Stub(socket, float(os.environ["STUB_RATE"]))
        stub.serve()
    stub.write_times(times)


def _info(model_dir: Path) -> EngineInfo:
    return EngineInfo(
        model=MODEL,
        model_dir=str(model_dir),
        architecture="none",
        num_parameters=0,
        device="none",
        dtype="none",
        attention="none",
        max_model_len=32768,
        vocab_size=512,
        page_size=16,
        num_pages=1 << 20,
        kv_cache_bytes=0,
        eos_token_ids=[],
        sampling_defaults=SamplingDefaults(),
        load_seconds=0.0,
    )


if __name__ == "__main__":
    main()
