"""Server-sent events that have numbers and names, as a client reads them while they come."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[int, str, Any]]:
    """(id, name, data) of each event."""
    number, name = -1, ""
    async for line in response.aiter_lines():
        key, _, value = line.partition(": ")
        match key:
            case "id":
                number = int(value)
            case "event":
                name = value
            case "data":
                yield number, name, json.loads(value)
