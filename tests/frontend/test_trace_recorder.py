"""Recording traffic: numbers that tell which prefixes are equal, no more; files that last."""

import asyncio
import errno
import gzip
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.errors import ConfigError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve_frontend import server as server_module
from radixserve_frontend.app import create_app
from radixserve_frontend.cli import main
from radixserve_frontend.trace_file import TraceFile
from radixserve_frontend.trace_recorder import BLOCK_TOKENS, BlockNumbers, TraceRecorder
from tests.frontend.fake_engine import FakeEngine, fails
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES, PROMPT
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, calling, config_of, serving


def clock_of(*times_s: float) -> Callable[[], float]:
    return iter(times_s).__next__


def lines_of(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


@pytest.fixture(params=["trace.jsonl", "trace.jsonl.gz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


@pytest.fixture
def recorder(path: Path) -> Iterator[TraceRecorder]:
    made = TraceRecorder(path)
    yield made
    made.close()


# Numbers


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "\ud800"]),
            st.lists(st.integers(0, 1), max_size=4),
            st.integers(1, BLOCK_TOKENS),
        ),
        max_size=12,
    )
)
def test_numbers_are_equal_exactly_where_prefixes_are(
    prompts: list[tuple[str, list[int], int]],
) -> None:
    numbers = BlockNumbers(1000)
    prefixes: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, blocks, num_last in prompts:
        prompt = [token for token in blocks for _ in range(BLOCK_TOKENS)] + [5] * num_last
        given_numbers = numbers.of(prompt, Namespace(name))
        assert len(given_numbers) == -(-len(prompt) // BLOCK_TOKENS)
        for index, number in enumerate(given_numbers):
            prefix = (name, tuple(prompt[: (index + 1) * BLOCK_TOKENS]))
            # Consecutive, in order of first appearance.
            assert number == prefixes.setdefault(prefix, len(prefixes))


def test_what_is_forgotten_is_the_oldest_and_never_before_its_children() -> None:
    numbers = BlockNumbers(4)
    chain = [1] * (3 * BLOCK_TOKENS)
    assert numbers.of(chain, DEFAULT_NAMESPACE) == [0, 1, 2]
    assert numbers.of([2], DEFAULT_NAMESPACE) == [3]
    # Only the chain's end makes room for another.
    assert numbers.of([3], DEFAULT_NAMESPACE) == [4]
    assert numbers.of(chain, DEFAULT_NAMESPACE) == [0, 1, 5]
    assert numbers.of([3], DEFAULT_NAMESPACE) == [4]
    assert numbers.of([2], DEFAULT_NAMESPACE) == [6]
    # One longer than the memory keeps its beginning.
    long = [4] * (6 * BLOCK_TOKENS)
    assert numbers.of(long, DEFAULT_NAMESPACE) == [7, 8, 9, 10, 11, 12]
    assert numbers.of(long, DEFAULT_NAMESPACE) == [7, 8, 9, 10, 13, 14]


def test_the_hashes_cannot_be_guessed() -> None:
    one, other = BlockNumbers(10), BlockNumbers(10)
    one.of([1, 2, 3], DEFAULT_NAMESPACE)
    other.of([1, 2, 3], DEFAULT_NAMESPACE)
    assert not set(one._numbers) & set(other._numbers)


# Files


def test_a_line_says_what_it_should_and_the_file_is_whole_after_each(path: Path) -> None:
    recorder = TraceRecorder(path, clock_of(100.0, 100.25, 101.5, 107.0))
    first = recorder.begin([1] * 600, DEFAULT_NAMESPACE)
    second = recorder.begin([1] * 600, Namespace("salt"))
    first.add(3)
    second.add(1)
    second.add(2)
    expected = []
    for prompt, timestamp, length, ids in ((second, 1500, 3, [2, 3]), (first, 250, 3, [0, 1])):
        prompt.end()
        expected.append(
            {
                "timestamp": timestamp,
                "input_length": 600,
                "output_length": length,
                "hash_ids": ids,
            }
        )
        recorder.flush()
        # As if the process had been killed here.
        assert lines_of(path) == expected
    for _ in range(100):
        recorder.write(b"{}\n")
        assert lines_of(path)[-1] == {}
    recorder.close()
    recorder.close()
    recorder.write(b"{}\n")
    assert len(lines_of(path)) == 102


def test_gzip_makes_it_small(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"]
    for path in paths:
        recorder = TraceRecorder(path)
        for number in range(200):
            recorder.begin([number // 10] * 3000, DEFAULT_NAMESPACE).end()
        recorder.close()
    assert 3 * paths[1].stat().st_size < paths[0].stat().st_size


def test_a_recording_of_nothing_leaves_no_file(path: Path) -> None:
    TraceRecorder(path).close()
    assert not path.exists()
    TraceRecorder(path).close()


def test_what_cannot_be_a_new_file_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text("precious")
    with pytest.raises(ConfigError, match="exists; a trace is never overwritten"):
        TraceRecorder(old)
    assert old.read_text() == "precious"
    for name in ("", ".", "trace\0.jsonl"):
        with pytest.raises(ConfigError, match="is no name of a file; give one"):
            TraceRecorder(Path(name))
    with pytest.raises(ConfigError, match="cannot be made: No such file or directory"):
        TraceRecorder(tmp_path / "nowhere" / "new.jsonl")


def test_a_write_may_take_less_than_all(
    path: Path, recorder: TraceRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    for length in (1, 2, 3):
        recorder.begin([1] * length, DEFAULT_NAMESPACE).end()
    recorder.flush()
    assert [line["input_length"] for line in lines_of(path)] == [1, 2, 3]


@pytest.mark.parametrize("is_restored", [True, False])
def test_a_full_disk_ends_the_recording_with_one_warning(
    path: Path,
    recorder: TraceRecorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_restored: bool,
) -> None:
    recorder.begin([1], DEFAULT_NAMESPACE).end()
    recorder.flush()
    kept = path.read_bytes()
    pwrite = os.pwrite
    calls = itertools.count()

    def full(fd: int, data: bytes, position: int) -> int:
        # Half of it fits; then nothing; what was there may be written again, or not even that.
        match next(calls):
            case 0:
                return pwrite(fd, data[: len(data) // 2], position)
            case 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            case _ if is_restored:
                return pwrite(fd, data, position)
            case _:
                raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING, "radixserve_frontend"):
        for _ in range(3):
            recorder.begin([2], DEFAULT_NAMESPACE).end()
        recorder.flush()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    if is_restored:
        assert path.read_bytes() == kept
        assert len(lines_of(path)) == 1


# Over HTTP, with an engine that computes nothing


async def test_every_prompt_has_its_line_and_choices_are_summed(
    path: Path, recorder: TraceRecorder
) -> None:
    engine = FakeEngine()
    async with calling(create_app(engine, config_of(), recorder)) as client:
        chat = {"model": MODEL, "messages": MESSAGES}
        assert (await client.post(CHAT, json={**chat, "n": 2})).status_code == 200
        assert (await client.post(CHAT, json={**chat, "stream": True})).status_code == 200
        salted = {**chat, "cache_salt": "salt", "max_tokens": 1}
        assert (await client.post(CHAT, json=salted)).status_code == 200
        prompts = {"model": MODEL, "prompt": ["x" * 513, PROMPT, "x" * 512], "max_tokens": 4}
        assert (await client.post(COMPLETIONS, json=prompts)).status_code == 200
        # What the engine refuses is no traffic.
        assert (await client.post(COMPLETIONS, json={**prompts, "max_tokens": 5000})).is_error
    recorder.flush()
    lines = lines_of(path)
    assert [(line["input_length"], line["output_length"], line["hash_ids"]) for line in lines] == [
        (len(PROMPT), 20, [0]),
        (len(PROMPT), 10, [0]),
        (len(PROMPT), 1, [1]),
        (513, 4, [2, 3]),
        (len(PROMPT), 4, [0]),
        (512, 4, [2]),
    ]
    stamps = [line["timestamp"] for line in lines]
    assert stamps == sorted(stamps)
    assert b"Hello" not in path.read_bytes()
    assert set(itertools.chain(*lines)) == {
        "timestamp",
        "input_length",
        "output_length",
        "hash_ids",
    }


async def test_who_leaves_and_what_fails_is_recorded_too(
    path: Path, recorder: TraceRecorder
) -> None:
    engine = FakeEngine()
    engine.gate.hold(3)
    async with serving(engine, recorder=recorder) as server, server.client() as client:
        body = {"model": MODEL, "messages": MESSAGES, "stream": True}
        async with client.stream("POST", CHAT, json=body) as response:
            lines = response.aiter_lines()
            for _ in range(3):
                await anext(lines)
        async with asyncio.timeout(TIMEOUT_S):
            await engine.submitted[0].closed.wait()
        engine.gate.release()
        engine.script = fails("ab", "broken")
        assert (await client.post(CHAT, json={**body, "stream": False})).status_code == 500
    recorder.flush()
    aborted, failed = lines_of(path)
    assert aborted["input_length"] == failed["input_length"] == len(PROMPT)
    assert 1 <= aborted["output_length"] <= 3
    assert failed["output_length"] == 2


class StuckDisk:
    """A file whose first line is not written until it is allowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_stuck = threading.Event()
        self.may_go_on = threading.Event()
        append = TraceFile.append

        def wait(file: TraceFile, line: bytes) -> None:
            self.is_stuck.set()
            assert self.may_go_on.wait(TIMEOUT_S)
            append(file, line)

        monkeypatch.setattr(TraceFile, "append", wait)


async def test_a_disk_that_hangs_holds_no_request_up(
    path: Path, recorder: TraceRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = StuckDisk(monkeypatch)
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1}
    async with calling(create_app(FakeEngine(), config_of(), recorder)) as client:
        for _ in range(2):
            assert (await client.post(CHAT, json=body)).status_code == 200
            assert disk.is_stuck.wait(TIMEOUT_S)
    assert lines_of(path) == []
    disk.may_go_on.set()
    recorder.flush()
    assert len(lines_of(path)) == 2


def test_who_falls_too_far_behind_leaves_prompts_out_and_says_so_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = StuckDisk(monkeypatch)
    recorder = TraceRecorder(path, max_behind=4)
    recorder.begin([1], DEFAULT_NAMESPACE).end()
    assert disk.is_stuck.wait(TIMEOUT_S)
    waiting = [recorder.begin([1] * length, DEFAULT_NAMESPACE) for length in range(2, 9)]
    for prompt in waiting:
        prompt.end()
    disk.may_go_on.set()
    recorder.close()
    assert [line["input_length"] for line in lines_of(path)] == [1]
    assert ["leaves prompts out" in message for message in caplog.messages] == [True]


def test_what_cannot_be_hashed_ends_nothing(
    path: Path, recorder: TraceRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.begin([2**40], DEFAULT_NAMESPACE).end()
    recorder.begin([1, 2], DEFAULT_NAMESPACE).end()
    recorder.flush()
    assert [line["input_length"] for line in lines_of(path)] == [2]
    assert "could not be recorded" in caplog.text


# As a user starts it


def test_an_existing_file_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*args: Any) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(server_module, "serve", unwanted)
    old = tmp_path / "old.jsonl"
    old.write_text("precious")
    assert main(["serve", "--port", "0", "--record-trace", str(old)], {}) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert main(["serve", "--port", "0"], {"RADIXSERVE_RECORD_TRACE": ""}) == 2
    assert "record_trace is empty" in capsys.readouterr().err


def test_the_recording_is_closed_with_the_server(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TraceRecorder | None] = []

    async def served(
        config: Any, listener: Any, recorder: TraceRecorder | None, **others: Any
    ) -> None:
        seen.append(recorder)
        if recorder is not None:
            recorder.begin([1], DEFAULT_NAMESPACE).end()

    monkeypatch.setattr(server_module, "serve", served)
    server_module.run_server(config_of(record_trace=str(path)))
    server_module.run_server(config_of())
    recorded, none = seen
    assert none is None
    assert recorded is not None
    assert not recorded._file.is_open
    assert len(lines_of(path)) == 1
