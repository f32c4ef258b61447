"""What the device can do at best, by torch's own means: the ceilings that everything is held to.

Copy bandwidth counts bytes read plus written. Sizes are far beyond the cache, and copies alternate
between buffers. bf16 products take random data: a GPU clocks higher on zeros. The engine parts
measure copy bandwidth again in their own process (``copy_bytes_per_s``), so that a share is always
of what the same device did minutes before.
"""

from functools import partial
from typing import Any

import torch

from gpu.bench import Bench
from gpu.clock import event

_MIB = 1 << 20


def copy_bytes_per_s(bench: Bench) -> float:
    """The best sustained rate of a copy within the device, bytes read plus written."""
    sizes = (1 * _MIB,) if bench.dry_run else (512 * _MIB, 2048 * _MIB)
    return float(max(_copy(bench, size)["bytes_per_s"] for size in sizes))


def matmul_flops_per_s(bench: Bench) -> float:
    """The best rate of a bf16 product."""
    shape = (64, 64, 64) if bench.dry_run else (8192, 8192, 8192)
    return float(_matmul(bench, shape)["flops_per_s"])


def run(bench: Bench) -> None:
    """Measure all ceilings."""
    dry = bench.dry_run
    copies = [
        _copy(bench, size * _MIB)
        for size in bench.each((1,) if dry else (64, 256, 1024, 4096), "copies")
    ]
    reads = [
        _read(bench, size * _MIB, how)
        for size in bench.each((1,) if dry else (256, 1024, 4096), "reads")
        for how in ("sum", "max")
    ]
    shapes = (
        ((64, 64, 64),)
        if dry
        else ((4096, 4096, 4096), (8192, 8192, 8192), (8192, 4096, 14336), (16384, 8192, 8192))
    )
    products = [_matmul(bench, shape) for shape in bench.each(shapes, "products")]
    bench.results.update(copies=copies, reads=reads, products=products)
    best_copy = max(row["bytes_per_s"] for row in copies)
    bench.results["copy_bytes_per_s"] = best_copy
    bench.results["read_bytes_per_s"] = max(row["bytes_per_s"] for row in reads)
    bench.results["matmul_flops_per_s"] = max(row["flops_per_s"] for row in products)
    if bench.device.type == "cuda":
        bench.results["launch"] = _launches(bench)
    else:
        bench.skip("launch latency", "needs a CUDA device")
    bench.gate(
        "a copy is a copy",
        _copies_right(bench.device),
        "a copied buffer equals its source; the rates themselves have nothing to be held to",
    )
    bench.table("Copies", copies, ("MiB", "GB/s", "timed_by"))
    bench.table("Reads", reads, ("MiB", "how", "GB/s", "timed_by"))
    bench.table("bf16 products", products, ("m", "n", "k", "TFLOP/s", "timed_by"))
    if "launch" in bench.results:
        bench.table("Launches", [bench.results["launch"]], list(bench.results["launch"]))


def _copy(bench: Bench, num_bytes: int) -> dict[str, Any]:
    pairs = max(1, -(-512 * _MIB // num_bytes)) if bench.device.type == "cuda" else 1
    calls = []
    for _ in range(pairs):
        source = torch.empty(num_bytes, dtype=torch.uint8, device=bench.device).random_(0, 256)
        calls.append(partial(torch.empty_like(source).copy_, source))
    timing = bench.clock.time(calls)
    rate = 2 * num_bytes / timing.us * 1e6
    return {
        "MiB": num_bytes // _MIB, "GB/s": rate / 1e9, "bytes_per_s": rate, **timing.as_dict()
    }  # fmt: skip


def _read(bench: Bench, num_bytes: int, how: str) -> dict[str, Any]:
    data = torch.empty(num_bytes // 4, dtype=torch.float32, device=bench.device).normal_()
    timing = bench.clock.time([data.sum if how == "sum" else data.amax])
    rate = num_bytes / timing.us * 1e6
    return {
        "MiB": num_bytes // _MIB,
        "how": how,
        "GB/s": rate / 1e9,
        "bytes_per_s": rate,
        **timing.as_dict(),
    }


def _matmul(bench: Bench, shape: tuple[int, int, int]) -> dict[str, Any]:
    m, n, k = shape
    left = torch.randn(m, k, device=bench.device, dtype=torch.bfloat16)
    right = torch.randn(n, k, device=bench.device, dtype=torch.bfloat16)
    timing = bench.clock.time([partial(torch.nn.functional.linear, left, right)])
    rate = 2 * m * n * k / timing.us * 1e6
    return {
        "m": m, "n": n, "k": k, "TFLOP/s": rate / 1e12, "flops_per_s": rate, **timing.as_dict()
    }  # fmt: skip


def _launches(bench: Bench) -> dict[str, Any]:
    """Microseconds of a kernel that does nothing: in a recording, queued by itself, and a whole
    recording of one kernel launched from the host."""
    one = torch.zeros(1, device=bench.device)
    add = partial(one.add_, 1)
    in_graph = bench.clock.time([add])
    begin, end = event(), event()
    for _ in range(100):
        add()
    bench.clock.wait()
    begin.record()
    for _ in range(1000):
        add()
    end.record()
    end.synchronize()
    queued_us = float(begin.elapsed_time(end))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        add()
    graph.replay()
    bench.clock.wait()
    begin.record()
    for _ in range(1000):
        graph.replay()
    end.record()
    end.synchronize()
    return {
        "kernel_in_graph_us": round(in_graph.us, 3),
        "kernel_queued_us": round(queued_us, 3),
        "graph_replay_us": round(float(begin.elapsed_time(end)), 3),
    }


def _copies_right(device: torch.device) -> bool:
    source = torch.randn(1 << 16, device=device)
    return torch.equal(torch.empty_like(source).copy_(source), source)
