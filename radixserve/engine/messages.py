"""What the engine process and its client say to each other, and how it is put into bytes.

To the engine: ``Submit``, ``Abort``, ``WatchCache``, ``WatchTree``, ``SetPublic``,
``PrefillAhead``, ``Ask``, ``Ping``. From it: ``Ready`` or ``Failed`` once, then a ``Step`` after
each step, an ``Answer`` to each question, a ``Pong`` to each ``Ping``, and ``CacheEvents`` and
``TreeChanged`` while it is told to. MessagePack by
msgspec, typed on both ends: a message that does not fit its type is refused by the decoder, never
half understood.
"""

import msgspec

from radixserve.cache.tree_log import PathTokens, TreeNews
from radixserve.ids import Namespace, RequestId
from radixserve.types import (
    CacheEvent,
    CacheExplanation,
    CacheStats,
    EngineInfo,
    EngineRequest,
    EngineStats,
    TokenDelta,
)


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Queue a request."""

    request: EngineRequest


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End a request (``index=None``) or one of its choices, if it still lives."""

    request_id: RequestId
    index: int | None = None


class WatchCache(msgspec.Struct, frozen=True, tag=True):
    """Say from now on what comes into the cache and goes, after a snapshot that bears this number;
    None: say it no more."""

    snapshot: int | None


class WatchTree(msgspec.Struct, frozen=True, tag=True):
    """Say from now on which nodes the tree has and what becomes of them, in a picture of this
    number, and no more in those before; None: say it no more."""

    picture: int | None


class SetPublic(msgspec.Struct, frozen=True, tag=True):
    """Let every namespace share these prefixes, and no others; for what is submitted later."""

    prefixes: list[list[int]]


class PrefillAhead(msgspec.Struct, frozen=True, tag=True):
    """Compute this prefix, which intake has checked, when nothing else is to be done, or never.
    Nobody waits for it: there is no reply, and another process is not told of it."""

    prompt_ids: list[int]
    namespace: Namespace
    tenant: str = ""
    """On whose account: tenants take turns."""


class Explain(msgspec.Struct, frozen=True, tag=True):
    """What would this prompt, which intake has checked, find in the cache now?"""

    prompt_ids: list[int]
    namespace: Namespace
    looks_elsewhere: bool
    """Also: does another namespace hold more of it?"""


class ClearCache(msgspec.Struct, frozen=True, tag=True):
    """Drop what is cached and not in use, of one namespace or (None) of all. How many pages became
    free?"""

    namespace: Namespace | None


class ReadCacheStats(msgspec.Struct, frozen=True, tag=True):
    """What are the figures of the cache?"""


class ReadPath(msgspec.Struct, frozen=True, tag=True):
    """Which tokens lie in these spans ``[low, high)`` of the way to a node, of which a picture that
    is still told has told?"""

    serial: int
    spans: list[tuple[int, int]]


Question = Explain | ClearCache | ReadCacheStats | ReadPath


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A question, answered between two steps by an ``Answer`` of the same number."""

    number: int
    question: Question


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Are you there? Answered between two steps by a ``Pong``."""


class Explained(msgspec.Struct, frozen=True, tag=True):
    """Answers ``Explain``."""

    explanation: CacheExplanation


class Cleared(msgspec.Struct, frozen=True, tag=True):
    """Answers ``ClearCache``."""

    num_freed_pages: int


class CacheStatsRead(msgspec.Struct, frozen=True, tag=True):
    """Answers ``ReadCacheStats``."""

    stats: CacheStats


class PathRead(msgspec.Struct, frozen=True, tag=True):
    """Answers ``ReadPath``. None: there is no such node any more, or it is not so deep."""

    tokens: PathTokens | None


class NotAnswered(msgspec.Struct, frozen=True, tag=True):
    """Answers any question: the engine could not, and goes on."""

    error: str


Reply = Explained | Cleared | CacheStatsRead | PathRead | NotAnswered


class Answer(msgspec.Struct, frozen=True, tag=True):
    """The reply to the question of that number."""

    number: int
    reply: Reply


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded; requests are taken from now on."""

    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine could not start. ``kind`` is the name of an error class of ``errors.py``."""

    kind: str
    message: str


class Step(msgspec.Struct, frozen=True, tag=True):
    """What one step, or an abort, added; and the engine's figures after it."""

    deltas: list[TokenDelta]
    stats: EngineStats
    admitted: list[RequestId] = []
    """Who left the queue for the first time in it."""


class CacheEvents(msgspec.Struct, frozen=True, tag=True):
    """What came into the cache and went since the last such message; or, with a number, all that
    is in it just now. Sent while the engine is told to."""

    events: list[CacheEvent]
    snapshot: int | None = None


class TreeChanged(msgspec.Struct, frozen=True, tag=True):
    """What is to be changed in the picture of that number. Sent while the engine is told to."""

    picture: int
    news: TreeNews


class WatchFailed(msgspec.Struct, frozen=True, tag=True):
    """Watching the cache, or the tree, has failed, and has ended for everybody. The engine goes
    on."""

    is_tree: bool = False


class Pong(msgspec.Struct, frozen=True, tag=True):
    """Answers ``Ping``."""


ToEngine = Submit | Abort | WatchCache | WatchTree | SetPublic | PrefillAhead | Ask | Ping
FromEngine = Ready | Failed | Step | CacheEvents | TreeChanged | WatchFailed | Answer | Pong

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def encode(message: ToEngine | FromEngine) -> bytes:
    return _encoder.encode(message)


def decode_to_engine(data: bytes) -> ToEngine:
    """Raises ``msgspec.DecodeError`` or ``ValidationError`` for anything else."""
    decoded: ToEngine = _to_engine.decode(data)
    return decoded


def decode_from_engine(data: bytes) -> FromEngine:
    """Raises ``msgspec.DecodeError`` or ``ValidationError`` for anything else."""
    decoded: FromEngine = _from_engine.decode(data)
    return decoded
