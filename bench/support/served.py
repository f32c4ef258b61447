"""A real server in a process of its own, and requests to it whose first tokens are timed."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support.ending import wait_or_kill

START_S = 180.0


@contextlib.contextmanager
def served(model: str, *flags: str, **environ: str) -> Iterator[str]:
    """``radixserve serve`` with these flags and variables on a free port; yields its URL. Ends it
    afterwards.

    *Raises* ``RuntimeError``, with what it has said, if it does not start.
    """
    with tempfile.TemporaryDirectory() as directory:
        said = Path(directory) / "said"
        command = [sys.executable, "-m", "radixserve_frontend", "serve", model, "--port", "0"]
        with said.open("w") as out:
            process = subprocess.Popen(
                [*command, *flags], stdout=out, stderr=out, env=os.environ | environ
            )
        try:
            yield _url(process, said)
        finally:
            process.terminate()
            wait_or_kill(process, 30)


def _url(process: "subprocess.Popen[bytes]", said: Path) -> str:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        found = re.search(r"http://[\d.]+:\d+", said.read_text())
        if found:
            return found.group()
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{said.read_text()}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    status: int
    """0: the connection failed, or the stream broke off."""
    sent_s: float
    first_s: float
    """Seconds from sending to the first token; to the whole answer, if it was no 200."""
    done_s: float
    """Seconds from sending to the end."""
    num_tokens: int
    """Tokens received; all that were asked for, if the status is 200."""

    def num_tokens_before(self, end_s: float) -> float:
        """How many of them had come by then, if they came evenly from the first to the last."""
        took_s = self.done_s - self.first_s
        had_s = end_s - self.sent_s - self.first_s
        return self.num_tokens * min(1.0, max(0.0, had_s / took_s if took_s > 0 else 1.0))


async def complete(
    client: httpx.AsyncClient, prompt: list[int], num_tokens: int, **extras: Any
) -> Outcome:
    """Stream one completion of exactly ``num_tokens`` tokens. *Cost*: a line scan per event."""
    body = {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        # With them every token is told of, be it half a character.
        "logprobs": 0,
        "stream_options": {"include_usage": True},
        **extras,
    }
    headers = extras.pop("headers", None)
    body.pop("headers", None)
    sent_s = time.perf_counter()
    first_s, received, is_done = 0.0, 0, False
    try:
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
            if response.status_code != 200:
                await response.aread()
                took_s = time.perf_counter() - sent_s
                return Outcome(response.status_code, sent_s, took_s, took_s, 0)
            async for line in response.aiter_lines():
                # Pings and the roles of what has not begun are no tokens.
                if not line.startswith("data: "):
                    continue
                first_s = first_s or time.perf_counter() - sent_s
                is_done = line == "data: [DONE]"
                if '"completion_tokens":' in line:
                    received = int(line.partition('"completion_tokens":')[2].split(",")[0])
    except (httpx.HTTPError, asyncio.CancelledError):
        is_done = False
    done_s = time.perf_counter() - sent_s
    return Outcome(200 if is_done else 0, sent_s, first_s, done_s, received)
