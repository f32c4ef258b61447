"""Who may ask: finds out whose key a request bears, before anything of its body is read.

    Authorization: Bearer KEY      or      x-api-key: KEY

No key, or nobody's: 401, in the shape of the route's dialect. What only administrators may do is
marked at the routes (``app.py``): there, 403. Where no keys are configured this layer is left out,
and everybody is ``caller.ANYBODY``.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from radixserve_frontend.caller import Caller, attach_caller, caller_of
from radixserve_frontend.http_errors import HttpError, error_answer
from radixserve_frontend.key_store import KeyStore
from radixserve_frontend.record import record_of

_BEARER: Final = b"bearer "

_NOBODY: Final = Caller()
"""Who needs no key for what is open may do nothing else."""


class Authentication:
    """Wraps the router. ``open_paths`` need no key, nor do requests that are ``also_open``."""

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyStore,
        open_paths: Collection[str],
        also_open: Callable[[Scope], bool],
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)
        self._also_open = also_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope):
            attach_caller(scope, _NOBODY)
            await self._app(scope, receive, send)
            return
        presented = _presented_key(scope)
        look_up = None if presented is None else partial(self._keys.caller_of, presented)
        caller = None if look_up is None else look_up()
        record = record_of(scope)
        if caller is None:
            answer = error_answer(_unknown(is_missing=presented is None))
            record.outcome, record.error_code = "error", answer.code
            await answer.response(record.shape_error)(scope, receive, send)
            return
        attach_caller(scope, caller, look_up)
        record.tenant = caller.tenant
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open_paths or self._also_open(scope)


def check_admin(scope: Scope) -> None:
    """*Raises* ``HttpError`` (403) unless the caller is an administrator."""
    if not caller_of(scope).is_admin:
        raise HttpError(
            403,
            "this endpoint tells of all tenants, or touches them: it needs an administrator's key",
            code="admin_key_required",
        )


def _presented_key(scope: Scope) -> bytes | None:
    """The key that a request bears. Two headers may not contradict each other: the first wins."""
    for name, value in scope["headers"]:
        if name == b"x-api-key" and value:
            return bytes(value)
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            return bytes(value[len(_BEARER) :].strip())
    return None


def _unknown(*, is_missing: bool) -> HttpError:
    what = (
        "there is no API key; send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
        if is_missing
        else "the API key is not valid here"
    )
    return HttpError(
        401, what, code="invalid_api_key", headers={"WWW-Authenticate": 'Bearer realm="radixserve"'}
    )
