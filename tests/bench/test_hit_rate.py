"""The hit-rate bench: traces read, policies against cases counted by hand, the bound a bound."""

import gzip
import json
import random
from pathlib import Path

import pytest

import hit_rate
from hit_rate_parts.belady import next_uses, run_belady
from hit_rate_parts.policies import SIMULATORS
from hit_rate_parts.prompts import Piece, Prompt, as_trace
from hit_rate_parts.sglang import run_sglang
from hit_rate_parts.tally import Tally
from hit_rate_parts.trace import Trace, TraceError, TraceRequest, read_trace
from hit_rate_parts.vllm import run_vllm
from hit_rate_parts.workloads import WORKLOADS, generate, generate_prompts


def trace_of(*chains: str, block_tokens: int = 4, last_tokens: int | None = None) -> Trace:
    """A request a second for each chain of blocks, one letter a block; full ones if not told."""
    requests = []
    for second, chain in enumerate(chains):
        missing = 0 if last_tokens is None else block_tokens - last_tokens
        num_tokens = len(chain) * block_tokens - missing
        requests.append(TraceRequest(float(second), num_tokens, tuple(map(ord, chain))))
    return Trace("letters", block_tokens, tuple(requests))


def random_trace(seed: int) -> Trace:
    """Chains that grow out of each other, last blocks partial, some prompts alike."""
    rng = random.Random(seed)
    chains: list[tuple[int, ...]] = [()]
    requests: list[TraceRequest] = []
    time_s = 0.0
    num_blocks = 0
    for _ in range(300):
        time_s += rng.expovariate(0.5)
        if rng.random() < 0.15 and requests:
            old = rng.choice(requests)
            requests.append(TraceRequest(time_s, old.num_tokens, old.blocks))
            continue
        stem = rng.choice(chains[-40:])
        num_new = rng.randint(1, 4)
        fresh = tuple(range(num_blocks, num_blocks + num_new))
        num_blocks += num_new
        num_partial = rng.randint(1, 4)
        blocks = stem[: rng.randint(0, len(stem))] + fresh
        requests.append(TraceRequest(time_s, 4 * len(blocks) - 4 + num_partial, blocks))
        # A partial block is another block than the one that fills it.
        chains.append(blocks if num_partial == 4 else blocks[:-1])
    return Trace(f"random {seed}", 4, tuple(requests))


def found(tally: Tally) -> tuple[int, int]:
    return tally.num_hit_tokens, tally.num_hit_blocks


# Traces


LINE = {"timestamp": 2500, "input_length": 700, "output_length": 9, "hash_ids": [41, 7]}


@pytest.mark.parametrize("name", ["small.jsonl", "small.jsonl.gz"])
def test_a_trace_is_read_plain_or_zipped(tmp_path: Path, name: str) -> None:
    later = {"timestamp": 3000, "input_length": 512, "hash_ids": [41]}
    text = "\n".join(json.dumps(line) for line in (later, LINE)) + "\n\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    trace = read_trace(path)
    assert (trace.name, trace.block_tokens, trace.num_tokens) == ("small", 512, 1212)
    first, second = trace.requests
    assert (first.time_s, second.time_s) == (2.5, 3.0)
    assert (first.num_reply_tokens, second.num_reply_tokens) == (9, None)
    assert first.blocks[0] == second.blocks[0] != first.blocks[1]
    assert trace.block_lengths(first) == [512, 188]
    prompt = trace.prompt(first)
    assert prompt.dtype == "int32"
    assert (prompt[:512] == trace.prompt(second)).all()
    assert len(prompt) == 700
    assert (prompt[512:] != prompt[0]).all()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "expected an object, got list"),
        (json.dumps({"timestamp": 1, "input_length": 5}), "'hash_ids' is missing"),
        (json.dumps({**LINE, "timestamp": "now"}), "timestamp is 'now'"),
        (json.dumps({**LINE, "timestamp": True}), "timestamp is True"),
        (json.dumps({**LINE, "input_length": 0}), "input_length is 0; expected a positive"),
        (json.dumps({**LINE, "hash_ids": [1, "2"]}), "hash_ids is not a list of integers"),
        (json.dumps({**LINE, "hash_ids": [1]}), "1 hash_ids for 700 tokens; expected 2"),
        (json.dumps({**LINE, "output_length": -1}), "output_length is -1; expected an integer"),
        (json.dumps({**LINE, "output_length": True}), "output_length is True"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + line + "\n")
    with pytest.raises(TraceError, match="line 2") as error:
        read_trace(path)
    assert complaint in str(error.value)


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl.gz"
    empty.write_text("\n")
    broken.write_bytes(b"not gzip")
    with pytest.raises(TraceError, match="no request in it"):
        read_trace(empty)
    for path in (broken, tmp_path / "missing.jsonl"):
        with pytest.raises(TraceError, match="cannot be read as a trace"):
            read_trace(path)
    assert hit_rate.main(["--trace", str(broken)]) == 1


def test_generated_blocks_are_equal_exactly_as_far_as_their_prompts_are() -> None:
    system, long = Piece(("system",), 5), Piece(("question", 1), 6)
    reply = Piece(("reply",), 7)
    prompts = [
        Prompt(1.0, (system, long), reply),
        Prompt(0.0, (system, Piece(("question", 1), 3)), reply),
        Prompt(2.0, (system, Piece(("question", 2), 6)), reply),
    ]
    short, one, two = as_trace("three", prompts, 4).requests
    assert (short.num_tokens, one.num_tokens) == (8, 11)
    assert one.num_reply_tokens == 7
    assert one.blocks[:2] == short.blocks
    assert two.blocks[0] == one.blocks[0]
    assert not set(two.blocks[1:]) & set(one.blocks)


@pytest.mark.parametrize("name", [name for name in WORKLOADS if "+" not in name])
def test_a_seed_makes_a_workload(name: str) -> None:
    trace = generate(name, 3)
    assert trace == generate(name, 3)
    times = [request.time_s for request in trace.requests]
    assert times == sorted(times)
    assert all(
        len(request.blocks) == -(-request.num_tokens // 512) and request.num_tokens > 0
        for request in trace.requests
    )
    parents: dict[int, int] = {}
    for request in trace.requests:
        for above, block in zip((-1, *request.blocks), request.blocks, strict=False):
            assert parents.setdefault(block, above) == above, "one block behind two prefixes"


def test_scans_are_half_of_the_traffic_and_never_come_back() -> None:
    plain, polluted = generate("short-chat", 1), generate("short-chat+scan", 1)
    assert 1.9 < polluted.num_tokens / plain.num_tokens < 2.1
    assert plain != generate("short-chat", 2)
    no_limit = 10**6
    assert run_belady(plain, no_limit).num_hit_tokens == (
        run_belady(polluted, no_limit).num_hit_tokens
    )


def test_cold_requests_are_one_in_ten_and_find_nothing() -> None:
    plain, mixed = generate_prompts("short-chat", 1), generate_prompts("short-chat+cold", 1)
    cold = [prompt for prompt in mixed if prompt.pieces[0].name[0] == "cold"]
    assert [prompt for prompt in mixed if prompt.pieces[0].name[0] != "cold"] == plain
    assert len(cold) == len(mixed) - len(plain) == pytest.approx(0.1 * len(mixed), abs=1)
    assert len({prompt.pieces[0].name for prompt in cold}) == len(cold)


# Policies, by hand


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("lru", (8 + 10, 2 + 3)),
        ("return-time", (8 + 10, 2 + 3)),
        ("default", (8 + 10, 2 + 3)),
        ("belady", (8 + 10, 2 + 3)),
        # Its last block is partial, and has no hash.
        ("vllm", (8 + 8, 2 + 2)),
        # The very last token must run.
        ("sglang", (8 + 9, 2 + 2)),
    ],
)
def test_without_pressure_everything_seen_is_found(policy: str, expected: tuple[int, int]) -> None:
    trace = trace_of("abp", "abc", "x", "abc", last_tokens=2)
    assert trace.num_tokens == 10 + 10 + 2 + 10
    assert found(SIMULATORS[policy](trace, 100)) == expected


def test_lru_evicts_what_was_used_longest_ago() -> None:
    # Three pages: c takes a's place, so a is missed and takes b's, and so on; c c is found.
    trace = trace_of("a", "b", "c", "d", "a", "d", "b")
    assert found(SIMULATORS["lru"](trace, 3)) == (4, 1)


def test_belady_keeps_what_comes_back_first() -> None:
    trace = trace_of("a", "b", "c", "a", "b", "a")
    assert next_uses(trace)[0] == {ord("a"): 3}
    assert next_uses(trace)[5] == {ord("a"): 6}
    # Of two pages, c must go somewhere: for b, whose use is later than a's. Then b for c.
    assert found(run_belady(trace, 2)) == (8, 2)


def test_belady_keeps_a_prefix_rather_than_what_hangs_below_it() -> None:
    # The second request's e never returns; of a, b (both used at once) b is dropped first.
    trace = trace_of("ab", "e", "ab", "ab")
    assert found(run_belady(trace, 2)) == (4 + 8, 1 + 2)


def test_vllm_finds_whole_blocks_only_and_recomputes_the_last() -> None:
    assert found(run_vllm(trace_of("abc", "abc", last_tokens=3), 9)) == (8, 2)
    assert found(run_vllm(trace_of("abc", "abc"), 9)) == (8, 2)


def test_vllm_evicts_the_tail_of_what_was_freed_together_first() -> None:
    # Three blocks of four hold abc; d takes the free one, e takes c: the tail goes first.
    assert found(run_vllm(trace_of("abc", "d", "e", "abcx"), 4)) == (8, 2)


def test_a_partial_block_takes_a_place_in_vllms_queue() -> None:
    # a's and b's partial tails wait in the queue too: with 4 blocks the third request's two come
    # out of the tails' and of a's places.
    full = trace_of("ap", "bq", "cr", "az", last_tokens=1)
    assert found(run_vllm(full, 6)) == (4, 1)
    assert found(run_vllm(full, 4)) == (0, 0)


def test_sglang_evicts_whole_leaves() -> None:
    # abc is one leaf; one token too many drops all of it, where page by page would keep ab.
    trace = trace_of("abc", "d", "e", "abc")
    assert found(run_sglang(trace, 4)) == (0, 0)
    assert found(SIMULATORS["lru"](trace, 4)) == (8, 2)


def test_sglang_splits_where_prompts_part_and_keeps_the_shared_half() -> None:
    trace = trace_of("abc", "abd", "e", "abf")
    # Room for 5: e takes c's place, c having been used longest ago; a and b are found twice.
    assert found(run_sglang(trace, 5)) == (16, 4)


@pytest.mark.parametrize("policy", sorted(SIMULATORS))
def test_what_does_not_fit_is_refused_and_hurts_nobody(policy: str) -> None:
    tally = SIMULATORS[policy](trace_of("ab", "cdefgh", "abz"), 4)
    assert tally.num_refused == 1
    assert tally.num_requests == 3
    assert found(tally) == (8, 2)


# Policies, in general


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("capacity", [40, 70, 150])
def test_nobody_beats_the_bound(seed: int, capacity: int) -> None:
    trace = random_trace(seed)
    bound = run_belady(trace, capacity)
    # SGLang's pages are tokens: its cache holds more partial blocks than there are pages here.
    for name in sorted(set(SIMULATORS) - {"sglang"}):
        tally = SIMULATORS[name](trace, capacity)
        assert tally.num_requests == len(trace.requests)
        assert tally.num_tokens == trace.num_tokens
        assert tally.num_refused == 0
        assert 0 < tally.num_hit_blocks <= bound.num_hit_blocks, name


@pytest.mark.parametrize("policy", sorted(SIMULATORS))
def test_a_run_can_be_repeated(policy: str) -> None:
    trace = random_trace(9)
    assert SIMULATORS[policy](trace, 30) == SIMULATORS[policy](trace, 30)


# The script


def test_the_script_prints_a_table_and_one_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, "timestamp": 9000}) + "\n")
    arguments = [
        "--trace",
        str(path),
        "--policy",
        "lru,belady",
        "--capacity-blocks",
        "2,1",
        "--json",
    ]
    assert hit_rate.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("machine:")
    assert "two: 2 requests, 1,400 prompt tokens, 2 distinct blocks of 512" in lines[2]
    assert lines[3].split() == ["blocks", "1", "2"]
    # A prompt that fills the cache leaves no page to copy its partial last one into.
    assert lines[4].split() == ["lru", "0.0", "36.6"]
    assert lines[5].split() == ["belady", "0.0", "50.0"]
    results = json.loads(lines[-1])["results"]
    assert [(row["policy"], row["capacity_blocks"]) for row in results] == [
        ("lru", 1), ("lru", 2), ("belady", 1), ("belady", 2),
    ]  # fmt: skip
    assert results[3]["token_hit_rate"] == 0.5
    assert results[0]["num_refused"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policy", "lru,fifo"], "'fifo' is none of"),
        (["--workload", "chess"], "'chess' is none of"),
        (["--capacity-blocks", "many"], "expected 1000 or 1000,2000"),
        (["--capacity-blocks", "4,0"], "0 blocks; expected at least one"),
        (["--block-tokens", "0"], "--block-tokens is 0; expected at least 1"),
        (["--load", "0.5"], "--load is of --mode serving"),
        (["--mode", "serving", "--load", "0"], "--load is 0.0; expected a share above 0"),
        (["--mode", "serving", "--policy", "lru,vllm"], "--policy vllm cannot serve"),
        (["--mode", "serving", "--requests", "0"], "--requests is 0; expected at least 1"),
        (["--mode", "serving", "--max-running", "4096"], "expected one for each of the 4096"),
        (["--mode", "serving", "--step-seconds", "1,2"], "expected three, as 0.02,1e-4,5e-4"),
        (["--mode", "serving", "--step-seconds", "0,1,1"], "a step must take time"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        hit_rate.main(arguments)
    assert complaint in capsys.readouterr().err


def test_the_plot_is_written(tmp_path: Path) -> None:
    recorded, path = tmp_path / "one.jsonl", tmp_path / "rates.svg"
    recorded.write_text(json.dumps(LINE) + "\n")
    arguments = ["--trace", str(recorded), "--policy", "vllm,belady", "--capacity-blocks", "2,8"]
    assert hit_rate.main([*arguments, "--plot", str(path)]) == 0
    drawing = path.read_text()
    for written in ("one", "token hit rate, %", "capacity, blocks of 512 tokens"):
        assert f"<!-- {written} -->" in drawing
    assert "<!-- vllm -->" in drawing
    assert "<!-- belady (the bound) -->" in drawing
