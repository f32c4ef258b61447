"""A real server with keys, told to say all it can: nothing that was written to it is in its log."""

import contextlib
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.frontend.real_server import MODEL, TIMEOUT_S, Serving, running_server

ALICE, BOB, OPS = "canary-key-of-alice-1", "canary-key-of-bob-12", "canary-key-of-ops-12"


@dataclass
class Logged:
    """A server whose every word is kept."""

    server: Serving
    keys: Path

    def client(self, key: str) -> httpx.Client:
        url = self.server.url
        return httpx.Client(base_url=url, timeout=TIMEOUT_S, headers={"x-api-key": key})

    def end(self) -> str:
        """Stop it as a supervisor does. Everything that it has said."""
        self.server.process.send_signal(signal.SIGTERM)
        assert self.server.process.wait(TIMEOUT_S) == 0
        return self.server.log()


@contextmanager
def logging_server(directory: Path, *options: str) -> Iterator[Logged]:
    keys = directory / "keys.toml"
    keys.write_text(f'[tenants.alice]\nkeys = ["{ALICE}"]\n')
    keys.chmod(0o600)
    told = ("--api-keys-file", str(keys), "--log-level", "debug", *options)
    with running_server(*told, environ={"RADIXSERVE_API_KEYS": f"ops+admin:{OPS}"}) as server:
        yield Logged(server, keys)


def environ_of_engine(server_pid: int) -> bytes:
    """The variables of the server's child process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(server_pid):
                return (stat.parent / "environ").read_bytes()
    pytest.skip("there is no /proc to look into")


def test_nothing_that_was_written_to_it_is_logged(tmp_path: Path) -> None:
    with logging_server(tmp_path, "--log-format", "json", "--debug-endpoints") as server:
        with server.client(ALICE) as client:
            body = {"model": MODEL, "max_tokens": 8}
            prompt = {"messages": [{"role": "user", "content": "canary-prompt " * 20}]}
            chat = "/v1/chat/completions"
            for more in (
                {"cache_salt": "canary-salt"},
                {"user": "canary-user", "stop": ["canary-stop"]},
                {"model": "canary-model"},
                {"canary_field": 1},
                {"response_format": {"type": "canary-format"}},
                {"stream": True},
            ):
                client.post(chat, json={**body, **prompt, **more}, headers={"X-C": "canary-header"})
            client.post("/v1/completions", json={**body, "prompt": "canary-prompt"})
            client.post("/v1/messages", json={**body, **prompt})
            client.post("/v1/responses", json={**body, "input": "canary-input"})
            client.get("/v1/responses/canary-id")
            client.post("/cache/explain", json={"model": MODEL, "prompt": "canary"})
            client.get("/canary-path", params={"canary": "query"})
            client.get("/v1/models/canary-model")
            client.post(chat, content=b"{canary", headers={"Content-Type": "application/json"})
            # Somebody who goes in the middle.
            long = {**body, **prompt, "max_tokens": 512, "stream": True}
            with client.stream("POST", chat, json=long) as response:
                next(response.iter_lines())
        assert OPS.encode() not in environ_of_engine(server.server.process.pid)
        with server.client(BOB) as client:
            assert client.get("/v1/models").status_code == 401
        server.keys.write_text(f'[tenants.bob]\nkeys = ["{BOB}"]\n')
        server.server.process.send_signal(signal.SIGHUP)
        with server.client(BOB) as client:
            # The signal is on its way; without it the file's times would tell within a second.
            while client.get("/v1/models").status_code == 401:
                pass
        with server.client(OPS) as client:
            assert client.get("/debug/requests").status_code == 200
            assert "canary" not in client.get("/metrics").text
            assert "canary" not in client.get("/debug/tasks").text
        said = server.end()
    assert "canary" not in said.lower()
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    served = [line for line in lines if line["logger"].endswith("access_log")]
    assert {line["tenant"] for line in served} == {"alice", "bob", "ops", None}
    assert any(line["generated_tokens"] == 8 for line in served)
    assert any("keys of" in line.get("message", "") for line in lines)
