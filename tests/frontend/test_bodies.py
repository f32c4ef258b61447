"""Bodies that wait to be made ready to run count as those on their way do."""

import asyncio
import threading
from typing import Any

import pytest

from radixserve_frontend.app import create_app
from radixserve_frontend.body import Bodies
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES, error_of
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, calling, config_of

BIG = {"model": MODEL, "prompt": "a" * 600}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "a" * 600}),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 600}]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "a" * 600}]}),
        ("/tokenize", {"prompt": "a" * 600}),
        ("/cache/explain", {"prompt": "a" * 600}),
    ],
)
async def test_a_body_counts_until_it_is_ready(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    app = create_app(engine, config_of())
    app.state.bodies = Bodies(max_total_bytes=1000, timeout_s=TIMEOUT_S)
    has_begun, may_end = threading.Event(), threading.Event()
    encode = engine.tokenizer.encode

    def slowly(text: str, **options: Any) -> list[int]:
        has_begun.set()
        assert may_end.wait(TIMEOUT_S)
        return encode(text, **options)

    monkeypatch.setattr(engine.tokenizer, "encode", slowly)
    async with calling(app) as client:
        first = asyncio.create_task(client.post(path, json={"model": MODEL, **body}))
        assert await asyncio.to_thread(has_begun.wait, TIMEOUT_S)
        try:
            refused = error_of(await client.post(COMPLETIONS, json=BIG), 503)
            assert refused["code"] == "overloaded"
        finally:
            may_end.set()
        assert (await first).status_code == 200
        again = {"model": MODEL, "messages": MESSAGES}
        assert (await client.post(CHAT, json=again)).status_code == 200
        assert (await client.post(COMPLETIONS, json=BIG)).status_code == 200
