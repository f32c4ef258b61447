"""The benchmark's workers for other engines: protocol, processes, and what they time."""

import json
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from peers_parts.llama_python import NoLlamaError, checked_python
from peers_parts.llama_server import _complete
from peers_parts.llama_worker import Worker as LlamaWorker
from peers_parts.serving import serve
from peers_parts.transformers_worker import Worker, in_parts
from peers_parts.worker_process import WorkerError, WorkerProcess, worker_environment
from peers_parts.workload import Workload
from tests.support.checkpoints import make_checkpoint


class Arithmetic:
    """A worker of two verbs."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def fail(self) -> None:
        raise RuntimeError("as asked")


def test_the_worker_answers_each_line_with_one() -> None:
    lines = iter(['{"op": "add", "a": 1, "b": 2}\n', '{"op": "fail"}\n', '{"op": "nothing"}\n', ""])
    said: list[str] = []
    serve(Arithmetic(), lambda: next(lines), said.append)
    answers = [json.loads(line) for line in said]
    assert answers[:2] == [{"ok": 3}, {"error": "RuntimeError: as asked"}]
    assert "nothing" in answers[2]["error"]
    assert len(answers) == 3


FAKE = """
import os, sys
from peers_parts.serving import serve
class Worker:
    def echo(self, value):
        return [value, os.environ.get("GOMP_SPINCOUNT")]
    def fail(self):
        raise ValueError("no such thing")
    def die(self):
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)
def write(line):
    print(line, flush=True)
serve(Worker(), sys.stdin.readline, write)
"""


def test_a_worker_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    with WorkerProcess([sys.executable, "-c", FAKE]) as process:
        assert process.ask("echo", value={"a": [1, 2]}) == [{"a": [1, 2]}, None]
        with pytest.raises(WorkerError, match="fail: ValueError: no such thing"):
            process.ask("fail")
        # An error is an answer: the next request is served.
        assert process.ask("echo", value=5) == [5, None]
        with pytest.raises(WorkerError, match="ended with 3 in die: last words"):
            process.ask("die")
    assert worker_environment(has_default_spin=False)["GOMP_SPINCOUNT"] == "7"


def test_transformers_tells_its_prefill_and_its_steps(tmp_path: Path) -> None:
    """Else its prefill was in what the tables call decode tokens/s, and it had no floor."""
    worker = Worker()
    worker.load(str(make_checkpoint("qwen3", tmp_path)))
    prompts = Workload(2, 0, 40, 4).prompts()
    plain, batched = worker.plain(prompts, 4), worker.batched(prompts, 0, 4)
    for found in (plain, batched):
        assert len(found["step_ms"]) == 3
        assert min(found["prefill_s"], *found["step_ms"]) > 0
        assert found["prefill_s"] + sum(found["step_ms"]) / 1e3 < found["total_s"]
    assert plain["tokens"] == batched["tokens"]
    # The second prompt begins at 4 s, the first ends at 6 s.
    for late_s in (-0.01, 0.0, 0.01):
        second = [4.0, 5.0, 6.0 + late_s, 6.1, 6.2]
        parts = in_parts(1.0, [[2.0, 3.0, 4.0, 5.0, 6.0], second])
        assert parts["prefill_s"] == 3.0
        assert parts["step_ms"] == pytest.approx([1000.0, 1000.0 + late_s * 1e3])


class FakeLibrary:
    """Of llama.cpp, what a run without tokens of its own takes: a second to clear the cache."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def llama_get_memory(self, context: object) -> None:
        pass

    def llama_memory_clear(self, memory: object, has_data: bool) -> None:
        self.now_s += 1.0


def test_clearing_llamas_cache_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    worker = LlamaWorker.__new__(LlamaWorker)
    worker._llama, worker._context, worker._num_sequences = library, None, 1
    monkeypatch.setattr(worker, "_prefill", lambda parts, position: np.array([5], np.int32))
    monkeypatch.setattr(time, "perf_counter", lambda: library.now_s)
    found = worker.run([[1, 2]], 0, 1)
    assert (library.now_s, found["total_s"], found["tokens"]) == (1.0, 0.0, [[5]])


def test_a_server_that_dies_over_a_request_is_told() -> None:
    """And the rest of the bench goes on."""

    def die(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("gone", request=request)

    with (
        httpx.Client(transport=httpx.MockTransport(die)) as client,
        pytest.raises(RuntimeError, match="no answer: RemoteProtocolError: gone"),
    ):
        _complete(client, "http://nowhere", [65], 2)


def test_a_python_without_llama_cpp_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoLlamaError, match=r"got .*nowhere.* \(pip install 'llama-cpp-python"):
        checked_python(tmp_path / "nowhere")
