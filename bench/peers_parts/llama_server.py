"""llama-cpp-python's own server over HTTP. It runs one request at a time and keeps the KV cache of
the last one, whose prefix the next one finds: what its user gets.
"""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from peers_parts.peer import Measured
from peers_parts.worker_process import worker_environment
from peers_parts.workload import Workload
from support.ending import wait_or_kill

START_S = 120.0
REQUEST_S = 600.0


def measure_server(
    python: Path, model: Path, workload: Workload, threads: int, *, has_default_spin: bool
) -> Measured:
    """One run of the workload, its prompts one after another; the server's start and one short
    request before it are not counted.

    *Raises* ``RuntimeError`` if the server does not start or a request fails.
    """
    with (
        _served(python, model, workload, threads, has_default_spin) as url,
        httpx.Client(timeout=REQUEST_S) as client,
    ):
        # Prompts share nothing with this one but, perhaps, the first letter.
        _complete(client, url, [0x41] * 16, 2)
        begun = time.perf_counter()
        counts = [_complete(client, url, prompt, workload.new) for prompt in workload.prompts()]
        total_s = time.perf_counter() - begun
    if sum(counts) < workload.num_new * 0.9:
        raise RuntimeError(f"{workload.num_new} tokens asked for, {sum(counts)} received")
    return Measured(sum(counts), total_s)


def _complete(client: httpx.Client, url: str, prompt: list[int], new: int) -> int:
    """Tokens of one answer. *Raises* ``RuntimeError`` unless the prompt arrived token for token."""
    body = {"prompt": bytes(prompt).decode(), "max_tokens": new, "temperature": 0.0}
    try:
        answer = client.post(f"{url}/v1/completions", json=body)
    except httpx.TransportError as error:
        raise RuntimeError(f"no answer: {type(error).__name__}: {error}") from error
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text[:300]}")
    usage = answer.json()["usage"]
    if usage["prompt_tokens"] != len(prompt):
        raise RuntimeError(f"{len(prompt)} tokens sent, {usage['prompt_tokens']} received")
    return int(usage["completion_tokens"])


@contextlib.contextmanager
def _served(
    python: Path, model: Path, workload: Workload, threads: int, has_default_spin: bool
) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "model": str(model),
        "host": "127.0.0.1",
        "port": str(port),
        "n_ctx": str(workload.context + 64),
        "n_batch": "2048",
        "n_ubatch": "512",
        "n_threads": str(threads),
        "n_threads_batch": str(threads),
        "flash_attn": "true",
        # By default it computes and keeps the logits of every token of the prompt.
        "logits_all": "false",
        "verbose": "false",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [str(python), "-m", "llama_cpp.server", *flags],
            stdout=said,
            stderr=said,
            env=worker_environment(has_default_spin=has_default_spin),
        )
        url = f"http://127.0.0.1:{port}"
        try:
            if not _has_started(url, process):
                said.seek(0)
                raise RuntimeError(f"llama.cpp's server did not start: {said.read()[-1000:]}")
            yield url
        finally:
            process.terminate()
            wait_or_kill(process, 10)


def _has_started(url: str, process: "subprocess.Popen[bytes]") -> bool:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v1/models").status_code == 200:
                return True
        time.sleep(0.2)
    return False
