"""Reading a request's body: of bounded size, of JSON, never buffered beyond that."""

from typing import Final

import anyio
from starlette.requests import Request

from radixserve_frontend.http_errors import HttpError

# How much of an oversized body is read and thrown away, so that a client which does not listen
# while it sends gets to read the 413 instead of a broken connection; and for how long.
_MAX_DISCARDED_BYTES: Final = 256 * 2**20
_MAX_DISCARD_S: Final = 10.0


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The body as sent, at most ``max_bytes`` long; not yet parsed.

    *Raises* ``HttpError`` 415 for another content type than JSON, 413 for a larger body (said by
    its Content-Length or found while counting), 400 for a broken Content-Length;
    ``starlette.requests.ClientDisconnect`` if the client goes away.
    """
    _check_content_type(request)
    declared = _content_length(request)
    if declared is not None and declared > max_bytes:
        await _discard(request)
        raise _too_large(declared, max_bytes)
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            chunks.clear()
            await _discard(request)
            raise _too_large(num_bytes, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type")
    if given is None:
        return
    kind = given.partition(";")[0].strip().lower()
    # Being strict also keeps web pages of other origins out: a browser sends text/plain to anybody,
    # but asks first before it sends JSON.
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise HttpError(
            415,
            f"the content type is {kind[:80]!r}; send the body as JSON with "
            "'Content-Type: application/json'",
            code="unsupported_content_type",
        )


def _content_length(request: Request) -> int | None:
    given = request.headers.get("content-length")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal()):
        raise HttpError(400, f"the Content-Length {given[:40]!r} is not a number")
    return int(given[:20])


async def _discard(request: Request) -> None:
    if "100-continue" in request.headers.get("expect", "").lower():
        return  # The client waits for our word before it sends.
    discarded = 0
    with anyio.move_on_after(_MAX_DISCARD_S):
        while discarded < _MAX_DISCARDED_BYTES:
            message = await request.receive()
            discarded += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


def _too_large(num_bytes: int, max_bytes: int) -> HttpError:
    return HttpError(
        413,
        f"the body has {num_bytes} bytes or more; at most {max_bytes} are accepted "
        "(the server's --max-body-bytes)",
        code="request_too_large",
        headers={"Connection": "close"},
    )
