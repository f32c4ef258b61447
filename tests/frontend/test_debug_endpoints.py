"""``/debug/...``: what runs, without what is said."""

import asyncio
import json

from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, config_of, serving

KEYS = "acme:0123456789-acme-key,ops+admin:0123456789-ops-key"


async def test_requests_in_flight_tasks_and_stacks() -> None:
    engine = FakeEngine()
    engine.gate.hold(2)
    config = config_of(debug_endpoints=True, api_keys=KEYS)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "canary"}],
        "stream": True,
        "cache_salt": "canary",
    }
    acme, ops = ({"x-api-key": f"0123456789-{name}-key"} for name in ("acme", "ops"))
    async with (
        asyncio.timeout(TIMEOUT_S),
        serving(engine, config) as server,
        server.client() as client,
        server.client() as other,
    ):
        async with client.stream("POST", CHAT, json=body, headers=acme) as response:
            lines = response.aiter_lines()
            while '"content":"b"' not in await anext(lines):
                pass
            shown = (await other.get("/debug/requests", headers=ops)).json()["requests"]
            stream, own = shown
            assert 0 <= own["age_s"] <= stream["age_s"]
            stream.pop("age_s")
            assert stream == {
                "request_id": response.headers["x-request-id"],
                "tenant": "acme",
                "endpoint": CHAT,
                "status": 200,
                "stream": True,
                "prompt_tokens": 24,
                "cached_tokens": 16,
                "generated_tokens": 2,
            }
            assert own["endpoint"] == "/debug/requests"
            tasks = (await other.get("/debug/tasks", headers=ops)).json()["tasks"]
            assert any("EventSourceResponse" in task["name"] for task in tasks)
            assert all(task["name"] and isinstance(task["stack"], list) for task in tasks)
            threads = (await other.get("/debug/stacks", headers=ops)).json()["threads"]
            stacks = {thread["name"]: thread["stack"] for thread in threads}
            assert any(call.startswith("stacks (") for call in stacks["MainThread"])
            assert "canary" not in json.dumps([shown, tasks, threads])
            engine.gate.release()
        # What has ended is gone: this waits for it.
        while len((await other.get("/debug/requests", headers=ops)).json()["requests"]) > 1:
            pass
