"""Paged attention: decode against the copy bandwidth, prefill against torch's best.

Every timed configuration is checked first, on the very tensors that are then timed. Decode counts
the bytes it must move (keys, values, queries, results), prefill the multiply-adds of the pairs that
causality leaves; rows behind a common context are timed with its keys read once and by each of
them. Targets 1, 2 and 6 are measured here.
"""

import traceback
from typing import Any

import torch

from gpu import anchors, figures
from gpu.attention_data import AttentionCase, AttentionData, Check, check, difference
from gpu.bench import Bench
from gpu.ceilings import copy_bytes_per_s, matmul_flops_per_s
from gpu.clock import copies_beyond_cache

DECODE_TARGET = "decode 64 x 4096"
PREFILL_TARGET = "prefill 8192"
SHARED_TARGET = "shared, 64 x (8192 + 256)"

FLEX_CASES = (PREFILL_TARGET, "prefill 2048 behind 8192")
"""Where FlexAttention is tried: it compiles anew for every shape."""

FLEX_S = 60.0
"""What FlexAttention may take to compile, and then some."""


def decode_cases() -> list[AttentionCase]:
    """The target first, then the grid, other pages and heads, and split lengths."""
    cases = [AttentionCase(DECODE_TARGET, 64, 1, 4096)]
    cases += [
        AttentionCase(f"decode {rows} x {context}", rows, 1, context)
        for rows in (1, 8, 64, 256)
        for context in (1024, 4096, 16384)
        if (rows, context) != (64, 4096)
    ]
    cases += [
        AttentionCase("decode 64 x 4096, page 64", 64, 1, 4096, page_size=64),
        AttentionCase("decode 64 x 4096, page 256", 64, 1, 4096, page_size=256),
        AttentionCase("decode 64 x 4096, head 64", 64, 1, 4096, head_dim=64),
        AttentionCase("decode 64 x 4096, 16/8 heads", 64, 1, 4096, num_heads=16),
    ]
    for rows, context in ((1, 4096), (8, 4096), (64, 4096), (1, 16384)):
        cases += [
            AttentionCase(
                f"decode {rows} x {context}, splits of {split}", rows, 1, context,
                split_tokens=split,
            )
            for split in (512, 1024, 2048)
        ]  # fmt: skip
    return cases


def prefill_cases() -> list[AttentionCase]:
    """One request's chunks: cold, and behind 8,192 cached tokens."""
    return [
        AttentionCase(PREFILL_TARGET, 1, 8192, 8192),
        AttentionCase("prefill 2048", 1, 2048, 2048),
        AttentionCase("prefill 1024", 1, 1024, 1024),
        AttentionCase("prefill 512 behind 8192", 1, 512, 8704),
        AttentionCase("prefill 2048 behind 8192", 1, 2048, 10240),
        AttentionCase("prefill 8192, head 64", 1, 8192, 8192, head_dim=64),
    ]


def verify_cases() -> list[AttentionCase]:
    """Four drafted tokens and the one before them."""
    return [AttentionCase(f"verify 4, {rows} x 4096", rows, 5, 4096) for rows in (1, 8, 64)]


def shared_cases() -> list[AttentionCase]:
    """Decode rows behind one document, the target first: (shared + own) keys each."""
    return [
        AttentionCase(SHARED_TARGET, 64, 1, 8448, shared_context=8192),
        AttentionCase("shared, 4 x (8192 + 256)", 4, 1, 8448, shared_context=8192),
        AttentionCase("shared, 16 x (1024 + 256)", 16, 1, 1280, shared_context=1024),
        AttentionCase("shared, 256 x (2048 + 256)", 256, 1, 2304, shared_context=2048),
    ]


def run(bench: Bench) -> None:
    """Targets first: what runs out of time is the rest."""
    copy_rate, matmul_rate = copy_bytes_per_s(bench), matmul_flops_per_s(bench)
    bench.results.update(copy_bytes_per_s=copy_rate, matmul_flops_per_s=matmul_rate)
    decode, prefill, verify = decode_cases(), prefill_cases(), verify_cases()
    shared = shared_cases()
    if bench.dry_run:
        tiny: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16}
        decode = [
            AttentionCase(DECODE_TARGET, 2, 1, 40, **tiny),
            AttentionCase("decode 1 x 600", 1, 1, 600, **tiny),
        ]
        prefill = [
            AttentionCase(PREFILL_TARGET, 1, 40, 40, **tiny),
            AttentionCase("prefill 20 behind 40", 1, 20, 60, **tiny),
        ]
        verify = [AttentionCase("verify 4, 2 x 60", 2, 5, 60, **tiny)]
        shared = [AttentionCase(SHARED_TARGET, 2, 1, 280, shared_context=256, **tiny)]
    kinds = ("decode", "prefill", "verify", "shared")
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    bench.results["attention"] = rows
    first = [("decode", decode[0]), ("prefill", prefill[0]), ("shared", shared[0])]
    rest = [("decode", case) for case in decode[1:]] + [("verify", case) for case in verify]
    rest += [("shared", case) for case in shared[1:]]
    rest += [("prefill", case) for case in prefill[1:]]
    for kind, case in bench.each(first + rest, "attention"):
        if not bench.has_time(case.name, 6.0) or not _fits(bench, case):
            continue
        try:
            if kind == "prefill":
                rows[kind].append(_prefill(bench, case, matmul_rate))
            elif kind == "shared":
                rows[kind].append(_shared(bench, case))
            else:
                rows[kind].append(_decode(bench, case, copy_rate))
        except Exception:
            # One configuration must not take the others along.
            bench.gate(case.name, False, traceback.format_exc(limit=4))
    _summarise(bench, rows)


def _fits(bench: Bench, case: AttentionCase) -> bool:
    if bench.device.type != "cuda":
        return True
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(bench.device)[0]
    if case.storage_bytes < 0.8 * free:
        return True
    bench.skip(case.name, f"{case.storage_bytes / 2**30:.1f} GiB of pages do not fit")
    return False


def _decode(bench: Bench, case: AttentionCase, copy_rate: float) -> dict[str, Any]:
    """A batch of short rows: bound by the bytes of its contexts."""
    num_bytes = figures.decode_attention_bytes(
        [case.num_context] * case.num_rows,
        num_heads=case.num_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        itemsize=case.dtype.itemsize,
    )
    copies = copies_beyond_cache(num_bytes, bench.device)
    sets = [AttentionData(case, bench.device, seed) for seed in range(copies)]
    checked = check(sets[0])
    green = bench.gate(case.name, checked.green, checked.detail)
    timing = bench.clock.time([data.run for data in sets])
    share = num_bytes / timing.us * 1e6 / copy_rate
    row = {
        "case": case.name,
        "GB/s": num_bytes / timing.us / 1e3,
        "share of copy": bench.share(share, green=green),
        **_errors(checked),
        **timing.as_dict(),
        "anchors": _anchors(bench, sets[0], anchors.PAGED if copies == 1 else {}, timing.us, green),
    }
    if case.name == DECODE_TARGET:
        bench.results["target_decode_share"] = row["share of copy"]
    return row


def _shared(bench: Bench, case: AttentionCase) -> dict[str, Any]:
    """A batch of decode rows behind a common context, which is read once, and by each of them."""
    copies = copies_beyond_cache(case.storage_bytes, bench.device)
    sets = [AttentionData(case, bench.device, seed) for seed in range(copies)]
    alone = [data.without_levels() for data in sets]
    checked, checked_alone = check(sets[0]), check(alone[0])
    green = bench.gate(case.name, checked.green, checked.detail)
    green &= bench.gate(f"{case.name}, each", checked_alone.green, checked_alone.detail)
    timing = bench.clock.time([data.run for data in sets])
    timing_alone = bench.clock.time([data.run for data in alone])
    row = {
        "case": case.name,
        "each us": timing_alone.us,
        "times": bench.share(timing_alone.us / timing.us, green=green),
        **_errors(checked),
        **timing.as_dict(),
        "anchors": [],
    }
    if case.name == SHARED_TARGET:
        bench.results["target_shared_ratio"] = row["times"]
    return row


def _prefill(bench: Bench, case: AttentionCase, matmul_rate: float) -> dict[str, Any]:
    """One row of many tokens: bound by its products."""
    pairs = figures.causal_pairs(case.num_new, case.num_context)
    flops = figures.attention_flops(pairs, num_heads=case.num_heads, head_dim=case.head_dim)
    data = AttentionData(case, bench.device)
    checked = check(data)
    green = bench.gate(case.name, checked.green, checked.detail)
    timing = bench.clock.time([data.run])
    makers = dict(anchors.PREFILL if bench.device.type == "cuda" else anchors.ON_CPU)
    if case.name not in FLEX_CASES or not bench.has_time(f"FlexAttention, {case.name}", FLEX_S):
        makers.pop("FlexAttention", None)
    tried = _anchors(bench, data, makers, timing.us, green)
    best = min((row["us"] for row in tried if row["us"] is not None), default=None)
    share = best / timing.us if best is not None else None
    row = {
        "case": case.name,
        "TFLOP/s": flops / timing.us / 1e6,
        "share of matmul": bench.share(flops / timing.us * 1e6 / matmul_rate, green=green),
        "share of torch's best": share if green else None,
        **_errors(checked),
        **timing.as_dict(),
        "anchors": tried,
    }
    for anchor in tried:
        if anchor["us"] is not None:
            anchor["TFLOP/s"] = flops / anchor["us"] / 1e6
    if case.name == PREFILL_TARGET:
        bench.results["target_prefill_share"] = row["share of torch's best"]
    return row


def _anchors(
    bench: Bench, data: AttentionData, makers: Any, ours_us: float, green: bool
) -> list[dict[str, Any]]:
    """Time torch's attentions on the same data. One whose result is wrong is no anchor."""
    tried = []
    rows = data.checked_rows()
    truth = torch.cat([data.reference(row) for row in rows]) if makers else None
    for name, make in makers.items():
        found: dict[str, Any] = {"case": data.case.name, "anchor": name, "us": None, "why": None}
        tried.append(found)
        try:
            call = make(data)
            out = torch.cat([call()[data.tokens(row)] for row in rows])
            assert truth is not None
            error = difference(out, truth)
            found["error"] = error
            # Results are of order one; what merely rounds in bf16 stays far below.
            if error > 0.05:
                found["why"] = f"wrong here: error {error:.2e}"
                continue
            timing = bench.clock.time([call])
            found.update(timing.as_dict())
            found["ours is"] = bench.share(timing.us / ours_us, green=green)
        except Exception as error:
            # Each fails in its own way.
            found["us"], found["why"] = None, f"{type(error).__name__}: {str(error)[:200]}"
    return tried


def _errors(checked: Check) -> dict[str, float]:
    return {"error": checked.error, "torch's error": checked.torch_error}


def _summarise(bench: Bench, rows: dict[str, list[dict[str, Any]]]) -> None:
    bytes_columns = ("case", "us", "GB/s", "share of copy", "error", "torch's error", "timed_by")
    for kind in ("decode", "verify"):
        bench.table(f"Attention, {kind}", rows[kind], bytes_columns)
    bench.table(
        "Attention, decode behind a common context: read once, and by each row",
        rows["shared"],
        ("case", "us", "each us", "times", "error", "torch's error", "timed_by"),
    )
    bench.table(
        "Attention, prefill",
        rows["prefill"],
        (
            "case", "us", "TFLOP/s", "share of matmul", "share of torch's best", "error",
            "torch's error", "timed_by",
        ),
    )  # fmt: skip
    tried = [anchor for kind in rows.values() for row in kind for anchor in row["anchors"]]
    bench.table(
        "Torch's own",
        tried,
        ("case", "anchor", "us", "TFLOP/s", "ours is", "error", "timed_by", "why"),
    )
