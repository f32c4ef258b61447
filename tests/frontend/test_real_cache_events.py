"""The real server, watched and recorded: what a router sees, and what is left after a kill -9."""

import gzip
import hashlib
import json
import signal
import struct
from pathlib import Path
from typing import Any

import httpx
import xxhash

from tests.frontend.http_calls import COMPLETIONS
from tests.frontend.numbered_events import events_of
from tests.frontend.real_server import MODEL, TIMEOUT_S, running_server


def router_hashes(namespace: str, tokens: list[int], page_size: int) -> list[str]:
    """What a router computes, by the README."""
    state = int.from_bytes(hashlib.sha256(namespace.encode()).digest()[:8], "little")
    hashes = []
    for start in range(0, len(tokens) - page_size + 1, page_size):
        page = struct.pack(f"<Q{page_size}i", state, *tokens[start : start + page_size])
        state = xxhash.xxh3_64_intdigest(page)
        hashes.append(f"{state:016x}")
    return hashes


async def test_a_router_follows_it_and_its_trace_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "traffic.jsonl.gz"
    first, second = list(range(60, 100)), [*range(60, 92), *range(200, 240)]
    body = {"model": MODEL, "max_tokens": 1, "ignore_eos": True}
    with running_server("--record-trace", str(path)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
            (await client.post(COMPLETIONS, json={**body, "prompt": first})).raise_for_status()
            held: set[str] = set()
            expected = {*router_hashes("", first, 16)}
            async with client.stream("GET", "/cache/events") as response:
                events = events_of(response)
                number, name, data = await anext(events)
                assert (number, name) == (0, "snapshot")
                assert (data["page_size"], data["num_pages"]) == (16, 2)
                assert data["root"] == "141cfc9842c4b0e3"
                prompts: list[dict[str, Any]] = [
                    {"prompt": second},
                    {"prompt": second, "cache_salt": "salt"},
                    {"prompt": second},
                ]
                for prompt in prompts:
                    (await client.post(COMPLETIONS, json=body | prompt)).raise_for_status()
                    expected |= {*router_hashes(prompt.get("cache_salt", ""), second, 16)}
                assert len(expected) == 2 + 2 + 4
                numbers = []
                while held != expected:
                    number, name, data = await anext(events)
                    assert name == "stored"
                    assert data["parent"] is None or data["parent"] in held
                    assert not held & {*data["hashes"]}
                    held |= {*data["hashes"]}
                    numbers.append(number)
                assert numbers == list(range(1, len(numbers) + 1))
                (await client.post("/cache/clear", json={})).raise_for_status()
                while held:
                    _, name, data = await anext(events)
                    assert name in ("removed", "cleared")
                    held = set() if name == "cleared" else held - {*data["hashes"]}
                async with client.stream(
                    "POST",
                    COMPLETIONS,
                    json={**body, "prompt": first, "max_tokens": 4000, "stream": True},
                ) as answer:
                    await anext(answer.aiter_lines())
                    server.process.send_signal(signal.SIGKILL)
                    server.process.wait()
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert [(line["input_length"], line["output_length"]) for line in lines] == [
        (40, 1),
        (72, 1),
        (72, 1),
        (72, 1),
    ]
    assert [line["hash_ids"] for line in lines] == [[0], [1], [2], [1]]
