"""``cache_control`` with the real engine: what is marked outlives what is not, and is counted."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixserve.engine.async_engine import AsyncEngine
from radixserve_frontend.app import create_app
from radixserve_frontend.config import ServerConfig
from support.noise_model import write_noise_model
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.frontend.http_fixtures import calling

NUM_PAGES = 64
SYSTEM = "The rules of the house, in full. " * 5
MARK = {"cache_control": {"type": "ephemeral"}}


class Asking:
    """Sends messages and reads what they cost."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(self, question: str, system: str, **marked: Any) -> dict[str, int]:
        response = await self._client.post(
            "/v1/messages",
            json={
                "model": "noise",
                "max_tokens": 4,
                "temperature": 0,
                "system": [{"type": "text", "text": system, **marked}],
                "messages": [{"role": "user", "content": question}],
            },
        )
        assert response.status_code == 200, response.text
        usage = response.json()["usage"]
        counted = await self._client.post(
            "/v1/messages/count_tokens",
            json={
                "model": "noise",
                "system": system,
                "messages": [{"role": "user", "content": question}],
            },
        )
        parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        assert sum(usage[part] for part in parts) == counted.json()["input_tokens"]
        return {part.removesuffix("_tokens"): usage[part] for part in parts}


@pytest.fixture
async def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asking]:
    use_in_process_client(monkeypatch)
    write_noise_model(tmp_path)
    config = ServerConfig(
        model=str(tmp_path),
        served_model_name="noise",
        dtype="float32",
        num_pages=NUM_PAGES,
        num_threads=1,
    )
    engine = await AsyncEngine.start(config)
    async with calling(create_app(engine, config)) as client:
        yield Asking(client)
    core = client_of(engine).core
    core.check_invariants()
    assert core.cache_info().in_use_pages == 0
    await engine.aclose()


async def flood(ask: Asking) -> None:
    """More than the pool holds, twice."""
    for number in range(8):
        await ask("?", f"{number} says what nobody will ever ask again. " * 5)


@pytest.mark.parametrize("is_marked", [False, True])
async def test_a_marked_prefix_outlives_a_flood(ask: Asking, is_marked: bool) -> None:
    marked = MARK if is_marked else {}
    first = await ask("One?", SYSTEM, **marked)
    assert first["cache_read_input"] == 0
    # The mark ends where the first turn begins. The tokens are bytes, and three special ones.
    head = len(f"|system\n{SYSTEM}|\n|user\n")
    assert first["cache_creation_input"] == (head if is_marked else 0)
    again = await ask("Another?", SYSTEM, **marked)
    assert again["cache_read_input"] == head
    assert again["cache_creation_input"] == 0

    await flood(ask)
    after = await ask("A third?", SYSTEM, **marked)
    if is_marked:
        # By whole pages: what hangs on the marked page had its own copy of the rest.
        assert after["cache_read_input"] >= head // 16 * 16
    else:
        assert after["cache_read_input"] < head // 2
