"""Many streams read by one thread, as cheaply as possible: sockets, and counting in bytes.

A client that parses would need more of its core than the server does, and then measure itself.
"""

import json
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

_END: Final = b"data: [DONE]"


@dataclass(slots=True)
class Stream:
    """One streamed answer, and when its tokens came."""

    number: int
    connection: socket.socket
    token: bytes
    """What each token's event holds, and no other."""
    received_ns: list[int] = field(default_factory=list)
    tail: bytes = b""
    """The end of what came last, which may hold half of what is counted."""
    is_complete: bool = False


def stream_all(
    url: str, bodies: Sequence[Mapping[str, Any]], *, path: str, token: bytes, stagger_s: float
) -> list[Stream]:
    """Ask for all, ``stagger_s`` between one and the next, and read them to their ends."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    streams: list[Stream] = []
    with selectors.DefaultSelector() as selector:
        num_open = 0
        next_s = time.monotonic()
        while num_open or len(streams) < len(bodies):
            if len(streams) < len(bodies) and time.monotonic() >= next_s:
                number = len(streams)
                connection = socket.create_connection((address.hostname, address.port))
                connection.sendall(_request(path, bodies[number]))
                stream = Stream(number, connection, token)
                streams.append(stream)
                selector.register(connection, selectors.EVENT_READ, stream)
                num_open += 1
                next_s += stagger_s
            wait_s = max(0.0, next_s - time.monotonic()) if len(streams) < len(bodies) else None
            for key, _ in selector.select(wait_s):
                if not _read(key.data):
                    selector.unregister(key.fileobj)
                    key.data.connection.close()
                    num_open -= 1
    return streams


def _read(stream: Stream) -> bool:
    """Take what has come. False: that was the end."""
    data = stream.connection.recv(65536)
    now_ns = time.monotonic_ns()
    seen = stream.tail + data
    count = seen.count(stream.token)
    if count:
        stream.received_ns += [now_ns] * count
    if _END in seen:
        stream.is_complete = True
        return False
    # Behind the last whole token nothing is counted twice.
    last = seen.rfind(stream.token)
    stream.tail = seen[
        max(len(seen) - len(stream.token), last + len(stream.token) if count else 0) :
    ]
    return bool(data)


def _request(path: str, body: Mapping[str, Any]) -> bytes:
    content = json.dumps(body).encode("ascii")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode("ascii") + content
