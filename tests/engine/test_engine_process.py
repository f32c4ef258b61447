"""What only a process of its own can show: starting, failing to start, and being orphaned. What
happens when it dies is in ``test_supervised_process.py``.

Starting one takes seconds (torch), so the tests share one where they do not kill it.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.client import EngineClient, Exit
from radixserve.engine.messages import Abort
from radixserve.engine.request_stream import RequestStream
from radixserve.errors import (
    CheckpointError,
    ConfigError,
    EngineDeadError,
    RadixServeError,
    UnsupportedModelError,
)
from radixserve.ids import RequestId
from tests.engine.reference import family_prompts

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPTS = family_prompts(seed=3)
SETTINGS: dict[str, Any] = {"dtype": "float32", "num_pages": 100, "num_threads": 1}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(noise_dir: Path) -> AsyncIterator[AsyncEngine]:
    started = await AsyncEngine.start(EngineConfig(model=str(noise_dir), **SETTINGS))
    yield started
    await started.aclose()


async def read(stream: RequestStream) -> tuple[str, list[int], str | None]:
    """Text, tokens and finish reason of a stream of one choice."""
    deltas = [delta async for delta in stream]
    return (
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.token_ids],
        deltas[-1].finish_reason if deltas else None,
    )


async def test_what_nobody_has_asked_for_is_computed_while_it_is_idle(engine: AsyncEngine) -> None:
    prefix = [32 + position * 11 % 90 for position in range(300)]
    engine.prefill_ahead(prefix)
    async with asyncio.timeout(60):
        # Told of itself, without anybody's asking.
        while engine.stats.prefilled_tokens < len(prefix):
            await asyncio.sleep(0)
    stream = await engine.submit([*prefix, 63], SamplingParams(max_tokens=1))
    (delta,) = [delta async for delta in stream]
    assert delta.num_cached_tokens == len(prefix)


async def test_info_arrives_and_streams_equal_the_offline_api(
    engine: AsyncEngine, noise_dir: Path
) -> None:
    params = [SamplingParams(seed=row, temperature=1.0, max_tokens=16) for row in range(8)]
    with LLM(str(noise_dir), **SETTINGS) as llm:
        assert replace(engine.info, load_seconds=0) == replace(llm.info, load_seconds=0)
        expected = llm.generate(PROMPTS[:8], params)
    streams = [
        await engine.submit(prompt, own) for prompt, own in zip(PROMPTS, params, strict=False)
    ]
    answers = await asyncio.gather(*map(read, streams))
    assert answers == [(out.text, out.token_ids, out.finish_reason) for out in expected]


async def test_pages_come_back_from_clients_that_go_away(engine: AsyncEngine) -> None:
    params = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)

    async def leave(number: int) -> None:
        stream = await engine.submit(PROMPTS[number % 32], params)
        try:
            if number % 3:
                await anext(stream)
        finally:
            await stream.aclose()

    clients = [asyncio.create_task(leave(number)) for number in range(40)]
    for client in clients[::4]:
        await asyncio.sleep(0)
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    # Each answer brings the engine's newest figures along; messages keep their order.
    one = SamplingParams(max_tokens=1)
    while engine._supervisor._sends:
        await read(await engine.submit([1], one))
    await read(await engine.submit([1], one))
    stats = engine.stats
    assert (stats.num_waiting, stats.num_running) == (0, 0)
    assert stats.cache.in_use_pages == 0
    assert stats.cache.free_pages + stats.cache.cached_pages == stats.cache.total_pages
    assert stats.generated_tokens < 40 * 300


async def test_stop_string_ends_the_choice_in_the_engine(engine: AsyncEngine) -> None:
    params: dict[str, Any] = {"temperature": 0, "max_tokens": 1200, "ignore_eos": True}
    text, _, _ = await read(await engine.submit([72, 105], SamplingParams(**params)))
    stop = text[20:24]
    before = engine.stats.generated_tokens
    cut, _, reason = await read(
        await engine.submit([72, 105], SamplingParams(**params, stop=(stop,)))
    )
    assert (cut, reason) == (text[: text.index(stop)], "stop")
    await read(await engine.submit([1], SamplingParams(max_tokens=1)))
    # The abort races with the steps, but not with a thousand of them.
    assert engine.stats.generated_tokens - before < 1200


# -- starting, or not -----------------------------------------------------------------------------


async def test_what_prevents_the_start_arrives_as_what_it_is(
    noise_dir: Path, tmp_path: Path
) -> None:
    alien = tmp_path / "alien"
    shutil.copytree(noise_dir, alien)
    config = json.loads((alien / "config.json").read_text())
    (alien / "config.json").write_text(json.dumps(config | {"architectures": ["AlienForCausalLM"]}))
    cases: list[tuple[type[RadixServeError], str, dict[str, Any]]] = [
        (CheckpointError, "no directory here", {"model": "/nowhere/at/all"}),
        (UnsupportedModelError, "AlienForCausalLM", {"model": str(alien)}),
        (ConfigError, "lower max_model_len", {"model": str(noise_dir), "kv_cache_gib": 1e-4}),
    ]
    started = await asyncio.gather(
        *(AsyncEngine.start(EngineConfig(num_threads=1, **own)) for _, _, own in cases),
        return_exceptions=True,
    )
    for (kind, words, _), error in zip(cases, started, strict=True):
        assert type(error) is kind
        assert words in str(error)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let the next engine process run ``body`` in place of the engine."""
    script = tmp_path / "stand_in.py"
    find = "endpoint = next(word for word in sys.argv if word.startswith('ipc://'))"
    script.write_text(f"import sys\n{find}\n{body}\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


async def start_client() -> EngineClient:
    client, _ = await EngineClient.start(EngineConfig(), on_message=lambda message: None)
    return client


SPEAK = """
import zmq
from radixserve.engine.messages import *
from radixserve.types import *
from radixserve.sampling.params import SamplingDefaults
socket = zmq.Context().socket(zmq.PAIR)
socket.connect(endpoint)
sys.stdin.readline()
cache = CacheInfo(free_pages=1, cached_pages=0, in_use_pages=0, total_pages=1, page_size=1)
step = Step([], EngineStats(num_waiting=0, num_running=0, cache=cache))
info = EngineInfo(
    model="", model_dir="", architecture="", num_parameters=0, device="", dtype="", attention="",
    max_model_len=1, vocab_size=1, page_size=1, num_pages=1, kv_cache_bytes=1, eos_token_ids=[],
    sampling_defaults=SamplingDefaults(), load_seconds=0,
)
"""


@pytest.mark.parametrize("body", ["sys.exit(3)", "sys.stdin.readline(); sys.exit(3)"])
async def test_dying_while_starting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    stand_in(tmp_path, monkeypatch, body)
    with pytest.raises(EngineDeadError, match=r"ended while starting \(exit status 3\)"):
        await start_client()


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [
        ("Failed('ConfigError', 'too small')", ConfigError, "too small"),
        ("Failed('RadixServeError', 'hm')", RadixServeError, "hm"),
        ("Failed('annotations', 'no class')", EngineDeadError, "no class"),
        ("Failed('Unheard', 'of')", EngineDeadError, "of"),
        ("step", EngineDeadError, "began with Step"),
    ],
)
async def test_first_words_decide(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    kind: type[RadixServeError],
    words: str,
) -> None:
    stand_in(tmp_path, monkeypatch, f"{SPEAK}\nsocket.send(encode({message}))\nsys.stdin.read()")
    with pytest.raises(kind, match=words) as caught:
        await start_client()
    assert type(caught.value) is kind


@pytest.mark.parametrize("words", [b"gibberish", b""])
async def test_an_engine_that_talks_nonsense_is_ended_and_told_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    words: bytes,
) -> None:
    """Otherwise its streams would wait forever for messages that nobody reads any more."""
    stand_in(
        tmp_path,
        monkeypatch,
        f"{SPEAK}\nsocket.send(encode(Ready(info)))\nsocket.send({words!r})\nsys.stdin.read()",
    )
    client = await start_client()
    assert await client.ended() == Exit(-signal.SIGKILL, "its message was not understood")
    assert "not understood" in caplog.text
    await client.aclose()


async def test_an_engine_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(
        tmp_path,
        monkeypatch,
        f"{SPEAK}\nsocket.send(encode(Ready(info)))\nimport signal\nwhile True: signal.pause()",
    )
    monkeypatch.setattr("radixserve.engine.client.EXIT_TIMEOUT_S", 0.05)
    client = await start_client()
    assert client.is_alive
    await client.aclose()
    assert client.exit_status == -signal.SIGKILL
    assert "killed" in caplog.text
    with pytest.raises(EngineDeadError, match="exit status -9"):
        await client.send(Abort(RequestId("r")))


async def test_an_engine_that_cannot_be_killed_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that hangs in the kernel, on a disk that does not answer, does not end by any signal."""
    stand_in(
        tmp_path,
        monkeypatch,
        f"{SPEAK}\nsocket.send(encode(Ready(info)))\nimport signal\nwhile True: signal.pause()",
    )
    for name in ("EXIT_TIMEOUT_S", "KILL_TIMEOUT_S"):
        monkeypatch.setattr(f"radixserve.engine.client.{name}", 0.05)
    client = await start_client()
    with monkeypatch.context() as patch:
        patch.setattr(client._process, "kill", lambda: None)
        await client.aclose()
    assert "cannot be ended: left behind" in caplog.text
    assert client.exit_status is None
    client._process.kill()
    assert (await client.ended()).status == -signal.SIGKILL


# -- dying ----------------------------------------------------------------------------------------


ORPHANING = """
import asyncio, logging, sys
from radixserve.config import EngineConfig
from radixserve.engine.client import EngineClient

async def main():
    config = EngineConfig(model=sys.argv[1], num_pages=20, num_threads=1, dtype="float32")
    client, info = await EngineClient.start(config, on_message=lambda message: None)
    print("ready", client.pid, flush=True)
    await asyncio.Event().wait()

logging.basicConfig(level=logging.INFO)
asyncio.run(main())
"""


async def test_an_orphaned_engine_ends(noise_dir: Path) -> None:
    """However its client died: killed, it cannot say goodbye."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ORPHANING,
        str(noise_dir),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert (await parent.stdout.readline()).startswith(b"ready")
    parent.kill()
    # Both hold the pipe's other end: it is at its end only when the engine has ended too.
    _, errors = await parent.communicate()
    assert b"the client is gone; the engine ends" in errors
