"""``GET`` and ``DELETE /v1/responses/{id}``, and ``GET /v1/responses/{id}/input_items``."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from radixserve.errors import InvalidRequestError
from radixserve_frontend.caller import caller_of
from radixserve_frontend.http_errors import HttpError, json_response
from radixserve_frontend.openai.responses.store import ResponseStore, StoredResponse
from radixserve_frontend.validation import show

_MAX_LISTED: Final = 100


class StoredResponsesEndpoint:
    """What is remembered of answers, for the tenant who got them."""

    path = "/v1/responses/{response_id}"

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def retrieve(self, request: Request) -> Response:
        """The response as it was sent. *Raises* ``HttpError`` 404."""
        if request.query_params.get("stream") == "true":
            raise InvalidRequestError(
                "a stored response cannot be streamed again; leave stream out", param="stream"
            )
        return json_response(self._find(request).response)

    async def delete(self, request: Request) -> Response:
        """Forget it. *Raises* ``HttpError`` 404."""
        response_id = request.path_params["response_id"]
        if not self._store.delete(caller_of(request.scope).tenant, response_id):
            raise _unknown(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """The items that came with the request itself, the newest first unless asked otherwise.

        *Raises* ``HttpError`` 404, ``InvalidRequestError`` for a bad ``limit`` or ``order``.
        """
        items = [*self._find(request).input_items]
        query = request.query_params
        if _one_of(query.get("order"), "order", ("desc", "asc")) == "desc":
            items.reverse()
        after = query.get("after")
        if after is not None:
            places = [place for place, item in enumerate(items) if item["id"] == after]
            items = items[places[0] + 1 :] if places else []
        limit = _limit(query.get("limit"))
        listed = items[:limit]
        listing: dict[str, Any] = {
            "object": "list",
            "data": listed,
            "first_id": listed[0]["id"] if listed else "",
            "last_id": listed[-1]["id"] if listed else "",
            "has_more": len(items) > limit,
        }
        return json_response(listing)

    def _find(self, request: Request) -> StoredResponse:
        response_id = request.path_params["response_id"]
        stored = self._store.get(caller_of(request.scope).tenant, response_id)
        if stored is None:
            raise _unknown(response_id)
        return stored


def _unknown(response_id: str) -> HttpError:
    return HttpError(
        404, f"the response {show(response_id)} is not known here", code="response_not_found"
    )


def _one_of(given: str | None, name: str, accepted: tuple[str, ...]) -> str:
    if given is None:
        return accepted[0]
    if given not in accepted:
        raise InvalidRequestError(
            f"{name} is {show(given)}; it must be one of {', '.join(accepted)}", param=name
        )
    return given


def _limit(given: str | None) -> int:
    if given is None:
        return 20
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:4]) <= _MAX_LISTED):
        raise InvalidRequestError(
            f"limit is {show(given)}; it must be an integer in [1, {_MAX_LISTED}]", param="limit"
        )
    return int(given)
