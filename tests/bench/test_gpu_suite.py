"""The GPU suite's own logic: its arithmetic, its gates, its file. No GPU needed.

Two dry runs of real parts prove that a green run ends with 0, and that a red gate takes its figures
away and ends with 1.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gpu_suite
from gpu import figures, layers, parts, results, shapes, targets
from gpu.bench import Bench
from gpu.clock import CudaClock
from gpu.cores import Answer
from gpu.engine_gate import Noise, gate_graphs
from gpu.idle import Activity, device_activities, middle, replays_as_one
from gpu.sampling_data import SampleData
from gpu.tests import counts
from radixserve.model.config import ModelConfig
from radixserve.model.layout import count_parameters
from radixserve_kernels.sample.cases import BENCH_CASES, SampleCase
from radixserve_kernels.sample.reference import kept_reference

ROOT = Path(__file__).resolve().parents[2]


def report(status: str = "green", *, dry_run: bool = False, **found: Any) -> results.Report:
    made = results.new_report({"gpu": "some GPU"}, dry_run=dry_run)
    return {**made, "status": status, "results": found}


def dry_run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    out = tmp_path / "suite.json"
    done = subprocess.run(
        [sys.executable, "bench/gpu_suite.py", "--dry-run", "--out", str(out), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert out.exists(), done.stderr
    return done.returncode, json.loads(out.read_text()), done.stdout


def test_a_green_dry_run_ends_with_0_and_names_what_it_left_out(tmp_path: Path) -> None:
    code, document, said = dry_run(tmp_path, "--only", "ceilings")
    ceilings = document["parts"]["ceilings"]
    assert (code, ceilings["status"], ceilings["error"]) == (0, "green", None)
    assert ceilings["results"]["copy_bytes_per_s"] > 0
    assert [skipped["what"] for skipped in ceilings["skipped"]] == ["launch latency"]
    assert "times mean nothing" in said
    assert all(row["met"] is None for row in document["targets"])
    assert json.loads(said.splitlines()[-1])["parts"] == document["parts"]


def test_a_red_gate_takes_its_shares_away_and_no_others(tmp_path: Path) -> None:
    results.save(tmp_path / "suite.json", results.merge(None, "tests", report()))
    code, document, said = dry_run(tmp_path, "--only", "kernels", "--fail-gate", "decode*")
    kernels = document["parts"]["kernels"]
    assert (code, kernels["status"], kernels["error"]) == (1, "red", None)
    found = kernels["results"]
    assert found["target_decode_share"] is None
    assert all(row["share of copy"] is None for row in found["attention"]["decode"])
    assert found["target_prefill_share"] > 0
    assert found["attention"]["verify"][0]["share of copy"] > 0
    assert found["target_shared_ratio"] == found["attention"]["shared"][0]["times"] > 0
    red = {gate["name"] for gate in kernels["gates"] if not gate["green"]}
    assert red == {row["case"] for row in found["attention"]["decode"]}
    # Its gate would have been green: what made it red is said.
    assert "made red by --fail-gate; was: error" in said
    # What an earlier call has found is still there.
    assert document["parts"]["tests"]["status"] == "green"


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    out = tmp_path / "suite.json"
    done = subprocess.run(
        [sys.executable, "bench/gpu_suite.py", "--only", "ceilings", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    ceilings = json.loads(out.read_text())["parts"]["ceilings"]
    assert (done.returncode, ceilings["status"], ceilings["results"]) == (1, "error", {})
    assert "finds no GPU" in ceilings["error"]


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown part nonsense; there are tests, ceilings"):
        parts.find("tests,nonsense")
    assert [part.name for part in parts.find("peers, ceilings")] == ["ceilings", "peers"]
    assert len(parts.find("engine")) == 4
    assert parts.find(None) == list(parts.PARTS)


def test_the_calls_run_every_part_once_within_eight_minutes() -> None:
    named = [name for call in parts.CALLS for name in call]
    assert sorted(named) == sorted(part.name for part in parts.PARTS)
    minutes = {part.name: part.minutes for part in parts.PARTS}
    assert all(sum(minutes[name] for name in call) <= 8 for call in parts.CALLS)
    assert sum(minutes.values()) <= parts.ALL_MINUTES
    assert all(sum(minutes[name] for name in call) <= parts.CALL_MINUTES for call in parts.CALLS), (
        "no part of a call starves"
    )
    in_full = parts.budgets(parts.find(None), 60 * parts.ALL_MINUTES)
    assert all(in_full[part.name] >= 60 * part.minutes for part in parts.PARTS)


@pytest.mark.parametrize(
    ("arguments", "minutes"),
    [
        ([], parts.ALL_MINUTES),
        (["--only", "tests"], parts.CALL_MINUTES),
        (["--minutes", "3"], 3.0),
        (["--dry-run"], 30.0),
    ],
)
def test_a_call_has_the_time_its_parts_take(
    arguments: list[str], minutes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", *arguments])
    assert gpu_suite._arguments().minutes == minutes


def test_a_budget_is_divided_by_cost() -> None:
    chosen = parts.find("ceilings,kernels")
    shares = parts.budgets(chosen, 100.0)
    assert sum(shares.values()) == pytest.approx(100.0)
    assert shares["kernels"] / shares["ceilings"] == pytest.approx(3.0 / 0.4)


@given(st.integers(0, 40), st.integers(0, 40))
def test_causal_pairs_are_those_that_a_mask_leaves(num_new: int, before: int) -> None:
    mask = torch.ones(num_new, before + num_new).tril(before)
    assert figures.causal_pairs(num_new, before + num_new) == int(mask.sum())


def test_the_floor_of_a_decode_step() -> None:
    token = figures.kv_token_bytes(num_layers=36, num_kv_heads=8, head_dim=128, itemsize=2)
    assert token == 147_456
    floor = figures.decode_floor_s(
        weight_bytes=15e9, context_tokens=1000, token_bytes=token, bytes_per_s=3e12
    )
    assert floor == pytest.approx((15e9 + 147_456_000) / 3e12)
    moved = figures.decode_attention_bytes(
        [4096] * 64, num_heads=32, num_kv_heads=8, head_dim=128, itemsize=2
    )
    assert moved == 64 * (4096 * 2 * 8 + 2 * 32) * 128 * 2


def test_idle_time_is_what_no_kernel_covers() -> None:
    # Unordered; one within another; gaps of 2 and of 10.
    idle = figures.idle_time([(12.0, 20.0), (0.0, 10.0), (1.0, 4.0), (30.0, 40.0)])
    assert (idle.window_us, idle.idle_us, idle.long_idle_us) == (40.0, 12.0, 10.0)
    assert (idle.share, idle.long_share, idle.num_kernels) == (0.3, 0.25, 4)
    with pytest.raises(ValueError, match="at least one kernel"):
        figures.idle_time([])


def test_a_trace_gives_what_ran_on_the_device() -> None:
    events = [
        {"ph": "X", "cat": "kernel", "ts": 10, "dur": 5, "args": {"correlation": 7}},
        {"ph": "X", "cat": "gpu_memcpy", "ts": "20.5", "dur": 1},
        {"ph": "X", "cat": "cuda_runtime", "ts": 0, "dur": 100},
        {"ph": "X", "cat": "gpu_user_annotation", "ts": 0, "dur": 100},
        {"ph": "i", "cat": "kernel", "ts": 12},
        {"ph": "X", "cat": "kernel", "ts": 110, "dur": 0.5},
    ]
    found = device_activities({"traceEvents": events})
    assert found == [
        Activity(10.0, 15.0, 7),
        Activity(20.5, 21.5, None),
        Activity(110.0, 110.5, None),
    ]
    assert middle([(one.begin, one.end) for one in found], 0.1, 0.9) == [(20.5, 21.5)]


def test_idle_time_between_steps_leaves_out_the_gaps_within_a_replay() -> None:
    """Two replays (calls 1 and 4) with gaps of 10 within; between them 20, of which 8 are used."""
    activities = [
        Activity(0.0, 40.0, 1),
        Activity(50.0, 60.0, 1),
        Activity(65.0, 70.0, 2),
        Activity(71.0, 74.0, None),
        Activity(80.0, 90.0, 4),
        Activity(100.0, 112.0, 4),
    ]
    steps = replays_as_one(activities)
    assert steps == [(0.0, 60.0), (65.0, 70.0), (71.0, 74.0), (80.0, 112.0)]
    between = figures.idle_time(steps)
    assert (between.window_us, between.idle_us) == (112.0, 12.0)
    assert figures.idle_time([(one.begin, one.end) for one in activities]).idle_us == 32.0
    with pytest.raises(RuntimeError, match="no replay"):
        replays_as_one(activities[2:4])


def test_a_failed_recording_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch does: its context, when the capture does not end well, leaves its stream current."""
    streams = ["the stream"]

    class Capture:
        def __init__(self, graph: object) -> None:
            del graph

        def __enter__(self) -> None:
            streams.append("the capture's")

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    ran = []
    run, how = CudaClock(torch.device("cuda"))._record([lambda: ran.append(streams[-1])], 2)
    run()
    assert how == "stream"
    assert ran == ["the capture's"] * 2 + ["the stream"] * 2


def test_a_token_beside_the_drawn_one_is_right_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = SampleCase("", 2, 300, spread=1.0, top_p=0.95)
    data = SampleData(case, torch.float32, torch.device("cpu"))
    token_ids, is_sound = data.run()
    assert data.check() == (True, "2 of 2 tokens equal")
    other = torch.stack((token_ids[0], (token_ids[1] + 150) % 300))
    monkeypatch.setattr(data, "run", lambda: (other, is_sound))
    assert data.check() == (False, "1 of 2 tokens equal, 0 beside it")
    # A place within rounding of a border: either of its two tokens.
    until = data.logits[1].double().softmax(0).cumsum(0)
    uniforms = data._uniforms.clone()
    uniforms[1] = until[20] * (1 - 1e-7)
    full = SampleData(SampleCase("", 2, 300, spread=1.0), torch.float32, torch.device("cpu"))
    full._uniforms.copy_(uniforms)
    drawn, _ = full.run()
    assert int(drawn[1]) == 20
    monkeypatch.setattr(full, "run", lambda: (torch.stack((drawn[0], drawn[1] + 1)), is_sound))
    assert full.check() == (True, "1 of 2 tokens equal, 1 beside it")


def test_the_bench_looks_first_at_the_slow_way_to_sample() -> None:
    """More than the 64 blocks that top-p looks into first, and top-k of as many as blocks."""
    first = BENCH_CASES[:3]
    assert [case.rows for case in first] == [64, 256, 64]
    for case in first:
        data = SampleData(replace(case, rows=1), torch.float32, torch.device("cpu"))
        _, is_kept = kept_reference(
            data.logits[0], case.temperature, case.top_k or case.vocab_size, case.top_p, case.min_p
        )
        assert case.temperature == 1.0
        assert int(is_kept.sum()) >= case.vocab_size // 256
    assert layers.COLLECTORS[0].__name__ == "_samples"


def test_first_difference() -> None:
    assert figures.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert figures.first_difference([1, 2, 3], [1, 9, 3]) == 1
    assert figures.first_difference([1, 2, 3], [1, 2]) == 2


def test_a_report_is_green_only_by_its_gates() -> None:
    made = report()
    green, red = {"name": "a", "green": True}, {"name": "b", "green": False}

    def status(gates: list[dict[str, Any]], error: str | None = None) -> str:
        closed = results.close_report({**made, "gates": gates}, error=error, elapsed_s=1.0)
        return str(closed["status"])

    assert status([green]) == "green"
    assert status([green, red]) == "red"
    assert status([]) == "red"
    assert status([green], error="it broke") == "error"


def test_calls_add_up_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "suite.json"
    assert results.load(path) is None
    results.save(path, results.merge(None, "tests", report(passed=3)))
    results.save(path, results.merge(results.load(path), "kernels", report("red")))
    results.save(path, results.merge(results.load(path), "tests", report(passed=4)))
    document = results.load(path)
    assert document is not None
    assert list(document["parts"]) == ["tests", "kernels"]
    assert document["parts"]["tests"]["results"] == {"passed": 4}
    assert [one.name for one in path.parent.iterdir()] == ["suite.json"]
    path.write_text("[1]")
    with pytest.raises(ValueError, match="not a file of this suite"):
        results.load(path)


def test_targets_are_met_missed_or_unmeasured() -> None:
    rows = targets.table(
        {
            "kernels": report(
                target_decode_share=0.9, target_prefill_share=0.7, target_shared_ratio=8.1
            ),
            "engine:qwen3-8b": report(
                "red", target_batch_64_share=None, target_batch_1_share=0.8, target_idle_share=0.02
            ),
            "peers": report(dry_run=True, target_ratio=9.0),
        }
    )
    assert [row["met"] for row in rows] == [True, False, None, True, True, None, True, None]
    assert rows[2]["why"] == "not reached, or its gate is red: see part engine:qwen3-8b"
    assert rows[3]["why"] == "another gate of part engine:qwen3-8b is not green"
    assert rows[5]["why"] == "a dry run measures nothing"
    assert targets.table({})[0]["why"] == "part kernels has not been run"
    lines = targets.markdown(rows).splitlines()
    assert len(lines) == 2 + len(targets.TARGETS)
    assert lines[2].endswith("| at least 85.0% | 90.0% | yes |")
    assert lines[6].endswith(
        "| at most 3.0% | 2.0% (another gate of part engine:qwen3-8b is not green) | yes |"
    )
    assert "| unmeasured (a dry run measures nothing) |  |" in lines[7]


def bench(tmp_path: Path, **options: Any) -> Bench:
    settings = {"budget_s": 100.0, "dry_run": False} | options
    made = results.new_report({}, dry_run=False)
    return Bench("x", torch.device("cpu"), made, tmp_path / "report.json", **settings)


def test_what_there_was_no_time_for_is_told(tmp_path: Path) -> None:
    ours = bench(tmp_path, budget_s=10.0)
    assert ours.has_time("short", 1.0)
    assert not ours.has_time("long", 60.0)
    ours.save()
    (skipped,) = json.loads((tmp_path / "report.json").read_text())["skipped"]
    assert skipped["what"] == "long"
    assert "60 s needed" in skipped["why"]


def test_answers_may_part_only_at_a_tie(tmp_path: Path) -> None:
    ours, noise = bench(tmp_path), Noise(kernels=0.01, torch=0.01, spread=1.0)
    reference = [Answer([1, 2, 3], [0.5, 0.02, 0.5], 0), Answer([4, 5], [0.5, 0.5], 0)]
    same = [Answer([1, 2, 3], [], 0), Answer([4, 5], [], 0)]
    at_a_tie = [Answer([1, 7, 8], [], 0), Answer([4, 5], [], 0)]
    elsewhere = [Answer([1, 2, 3], [], 0), Answer([4, 6], [], 0)]
    too_short = [Answer([1, 2, 3], [], 0), Answer([4], [], 0)]
    assert gate_graphs(ours, reference, same, noise)
    assert gate_graphs(ours, reference, at_a_tie, noise)
    assert not gate_graphs(ours, reference, elsewhere, noise)
    assert not gate_graphs(ours, reference, too_short, noise)
    assert [gate["green"] for gate in ours.report["gates"]] == [True, True, False, False]


def test_junit_files_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(
        '<testsuites><testsuite tests="7" failures="2" errors="1" skipped="1"/></testsuites>'
    )
    assert counts(path) == {"passed": 3, "failed": 2, "errors": 1, "skipped": 1}


# What the publishers count.
PUBLISHED = {
    "qwen3-0.6b": 596_049_920,
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-8b": 8_190_735_360,
    "llama-3.1-8b": 8_030_261_248,
}


@pytest.mark.parametrize("name", list(shapes.SHAPES))
def test_shapes_are_the_published_ones(name: str) -> None:
    config = ModelConfig.from_dir(shapes.write_config(shapes.fields(name)))
    assert count_parameters(config) == PUBLISHED[name]


def test_weights_are_seen_under_the_checkpoints_names_without_a_copy() -> None:
    config = ModelConfig.from_dir(shapes.write_config(shapes.fields("qwen3-8b", tiny=True)))
    device = torch.device("cpu")
    weights = shapes.random_weights(config, dtype=torch.float32, device=device)
    views = shapes.checkpoint_views(config, weights)
    fused = weights["layers.1.qkv.weight"]
    parts_of_it = [views[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts_of_it), fused)
    assert parts_of_it[0].data_ptr() == fused.data_ptr()
    again = shapes.random_weights(config, dtype=torch.float32, device=device)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    # Untied: a decode step reads a row of the embedding, and the whole output layer.
    everything = sum(tensor.nbytes for tensor in weights.values())
    assert shapes.read_bytes(config, weights) == everything - weights["embed_tokens"].nbytes
