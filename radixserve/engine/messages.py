"""What the engine process and its client say to each other, and how it is put into bytes.

To the engine: ``Submit``, ``Abort``. From it: ``Ready`` or ``Failed`` once, then a ``Step`` after
each step. MessagePack by msgspec, typed on both ends: a message that does not fit its type is
refused by the decoder, never half understood.
"""

import msgspec

from radixserve.ids import RequestId
from radixserve.types import EngineInfo, EngineRequest, EngineStats, TokenDelta


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Queue a request."""

    request: EngineRequest


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End a request (``index=None``) or one of its choices, if it still lives."""

    request_id: RequestId
    index: int | None = None


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


ToEngine = Submit | Abort
FromEngine = Ready | Failed | Step

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
