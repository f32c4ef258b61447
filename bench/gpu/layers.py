"""The small kernels at the models' shapes: norm, activation, rotation and storing, page copies,
penalties, sampling; against the copy bandwidth and against what torch would do.

All are bound by memory, so each counts the bytes it must move. A configuration is checked before it
is timed, with the tests' bound: the error against float64 is at most twice torch's own at the same
dtype; copies and choices have to be equal.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from gpu.bench import Bench
from gpu.ceilings import copy_bytes_per_s
from gpu.clock import Call, copies_beyond_cache

DTYPE = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Measured:
    """One operation at one shape, checked and ready to be timed."""

    name: str
    num_bytes: int
    ours: Sequence[Call]
    """The same work on different memory."""
    theirs: Sequence[Call]
    """Torch's way to do it."""
    green: bool
    detail: str


Jobs = list[tuple[str, Callable[[], Measured]]]


def run(bench: Bench) -> None:
    """Every kernel at its bench shapes."""
    copy_rate = copy_bytes_per_s(bench)
    bench.results["copy_bytes_per_s"] = copy_rate
    jobs: Jobs = []
    for collect in COLLECTORS:
        try:
            jobs += collect(bench)
        except Exception:
            # One op's absence must not take the others along.
            bench.gate(collect.__name__.strip("_"), False, traceback.format_exc(limit=4))
    rows: list[dict[str, Any]] = []
    bench.results["layers"] = rows
    for name, make in bench.each(jobs, "layers"):
        if not bench.has_time(name, 3.0):
            continue
        try:
            rows.append(_row(bench, make(), copy_rate))
        except Exception:
            # Nor one shape's failure the other shapes.
            bench.gate(name, False, traceback.format_exc(limit=4))
    bench.table(
        "Small kernels",
        rows,
        ("op", "us", "GB/s", "share of copy", "torch us", "times torch", "timed_by", "check"),
    )


def _row(bench: Bench, op: Measured, copy_rate: float) -> dict[str, Any]:
    green = bench.gate(op.name, op.green, op.detail)
    timing = bench.clock.time(op.ours, budget_s=0.2)
    torch_timing = bench.clock.time(op.theirs, budget_s=0.2)
    rate = op.num_bytes / timing.us * 1e6
    return {
        "op": op.name,
        "GB/s": rate / 1e9,
        "share of copy": bench.share(rate / copy_rate, green=green),
        "torch us": torch_timing.us,
        "torch timed by": torch_timing.how,
        "times torch": bench.share(torch_timing.us / timing.us, green=green),
        "check": op.detail,
        **timing.as_dict(),
    }


def _judge(pairs: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> tuple[bool, str]:
    """Of (ours, torch's, truth): whether ours is at most twice as wrong, and how wrong each is."""
    ours = max(_error(out, truth) for out, _, truth in pairs)
    theirs = max(_error(out, truth) for _, out, truth in pairs)
    largest = max(truth.abs().max().item() for _, _, truth in pairs)
    # One rounding to the dtype of the largest result, for where torch is right by luck.
    slack = largest * torch.finfo(DTYPE).eps / 2
    return ours <= 2 * theirs + slack, f"error {ours:.2e}, torch's {theirs:.2e}"


def _error(out: torch.Tensor, truth: torch.Tensor) -> float:
    worst = (out.double() - truth.double()).abs().max().item()
    return float(worst) if worst == worst else float("inf")  # noqa: PLR0124 (false for NaN)


def _chosen(bench: Bench, bench_cases: Sequence[Any], test_cases: Sequence[Any]) -> list[Any]:
    """The bench's shapes, or in a dry run two small ones that are not empty."""
    if not bench.dry_run:
        return list(bench_cases)
    return [case for case in test_cases if getattr(case, "num_tokens", 1) > 0][:2]


def _norms(bench: Bench) -> Jobs:
    from radixserve_kernels.rms_norm import cases  # noqa: PLC0415 (each op by itself)
    from radixserve_kernels.rms_norm.kernel import add_rms_norm, rms_norm  # noqa: PLC0415
    from radixserve_kernels.rms_norm.reference import (  # noqa: PLC0415
        add_rms_norm_reference,
        rms_norm_reference,
    )

    eps = 1e-6

    def torch_add(hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden.add_(update), weight.shape, weight, eps)

    def make(case: Any, name: str, with_update: bool) -> Measured:
        inputs = cases.make_inputs(case, DTYPE, bench.device)
        rows = case.num_tokens * case.hidden * DTYPE.itemsize
        num_bytes = (4 if with_update else 2) * rows
        count = copies_beyond_cache(num_bytes, bench.device)
        weight = inputs.weight
        if not with_update:
            truth = rms_norm_reference(inputs.hidden, weight, eps)
            theirs = F.rms_norm(inputs.hidden, weight.shape, weight, eps)
            green, detail = _judge([(rms_norm(inputs.hidden, weight, eps), theirs, truth)])
            sets = [inputs.hidden.clone() for _ in range(count)]
            return Measured(
                name,
                num_bytes,
                [partial(rms_norm, one, weight, eps) for one in sets],
                [partial(F.rms_norm, one, weight.shape, weight, eps) for one in sets],
                green,
                detail,
            )
        streams = [inputs.hidden.clone() for _ in range(3)]
        ours = add_rms_norm(streams[0], inputs.update, weight, eps)
        plain = torch_add(streams[1], inputs.update, weight)
        truth = add_rms_norm_reference(streams[2], inputs.update, weight, eps)
        green, detail = _judge([(ours, plain, truth)])
        same = torch.equal(streams[0], streams[2])
        pairs = [(inputs.hidden.clone(), inputs.update.clone()) for _ in range(count)]
        return Measured(
            name,
            num_bytes,
            [partial(add_rms_norm, *pair, weight, eps) for pair in pairs],
            [partial(torch_add, *pair, weight) for pair in pairs],
            green and same,
            detail + ("" if same else ", THE SUMS DIFFER"),
        )

    jobs: Jobs = []
    for case in _chosen(bench, cases.BENCH_CASES, cases.TEST_CASES):
        for kind, with_update in (("rms_norm", False), ("add_rms_norm", True)):
            name = f"{kind} {case.num_tokens} x {case.hidden}"
            jobs.append((name, partial(make, case, name, with_update)))
    return jobs


def _activations(bench: Bench) -> Jobs:
    from radixserve_kernels.silu_mul import cases  # noqa: PLC0415
    from radixserve_kernels.silu_mul.kernel import silu_mul  # noqa: PLC0415
    from radixserve_kernels.silu_mul.reference import silu_mul_reference  # noqa: PLC0415

    def plain(gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def make(case: Any, name: str) -> Measured:
        gate_up = cases.make_gate_up(case, DTYPE, bench.device)
        num_bytes = 3 * case.num_tokens * case.inner * DTYPE.itemsize
        green, detail = _judge([(silu_mul(gate_up), plain(gate_up), silu_mul_reference(gate_up))])
        sets = [gate_up.clone() for _ in range(copies_beyond_cache(num_bytes, bench.device))]
        return Measured(
            name,
            num_bytes,
            [partial(silu_mul, one) for one in sets],
            [partial(plain, one) for one in sets],
            green,
            detail,
        )

    jobs: Jobs = []
    for case in _chosen(bench, cases.BENCH_CASES, cases.TEST_CASES):
        name = f"silu_mul {case.num_tokens} x {case.inner}"
        jobs.append((name, partial(make, case, name)))
    return jobs


def _stores(bench: Bench) -> Jobs:
    from radixserve.model.ops import HeadShape, Norm  # noqa: PLC0415
    from radixserve.model.rope import Rotation  # noqa: PLC0415
    from radixserve.model.torch_ops import TorchOps  # noqa: PLC0415
    from radixserve_kernels.kv_store import cases  # noqa: PLC0415
    from radixserve_kernels.kv_store.kernel import kv_store  # noqa: PLC0415
    from radixserve_kernels.kv_store.reference import kv_store_reference  # noqa: PLC0415

    def rotation(inputs: Any) -> Rotation:
        cos, sin = inputs.angles[inputs.positions].unsqueeze(1).chunk(2, dim=-1)
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((sin.neg(), sin), dim=-1))

    def ours(inputs: Any, qkv: torch.Tensor, storage: torch.Tensor) -> torch.Tensor:
        return kv_store(
            qkv, inputs.weight, inputs.eps, inputs.angles, inputs.positions,
            storage[1, 0], storage[1, 1], inputs.slots,
        )  # fmt: skip

    def make(case: Any, name: str) -> Measured:
        inputs = cases.make_inputs(case, DTYPE, bench.device)
        shape = HeadShape(case.num_heads, case.num_kv_heads, case.head_dim)
        norm = None if inputs.weight is None else Norm(inputs.weight, inputs.eps)
        turned = rotation(inputs)

        def plain(qkv: torch.Tensor, storage: torch.Tensor) -> torch.Tensor:
            return TorchOps().rotate_and_store(
                qkv, shape, norm, turned, storage[1, 0], storage[1, 1], inputs.slots
            )

        stores = [torch.zeros_like(inputs.storage) for _ in range(2)]
        exact = torch.zeros_like(inputs.storage, dtype=torch.float64)
        got, torchs = ours(inputs, inputs.qkv, stores[0]), plain(inputs.qkv, stores[1])
        truth = kv_store_reference(
            inputs.qkv, inputs.weight, inputs.eps, inputs.angles, inputs.positions,
            exact[1, 0], exact[1, 1], inputs.slots,
        )  # fmt: skip
        green, detail = _judge([(got, torchs, truth), (stores[0], stores[1], exact)])
        # Read: the projection, angles; written: queries, keys, values.
        num_bytes = 2 * inputs.qkv.nbytes + case.num_tokens * case.head_dim * DTYPE.itemsize
        count = copies_beyond_cache(num_bytes, bench.device)
        sets = [(inputs.qkv.clone(), torch.zeros_like(inputs.storage)) for _ in range(count)]
        return Measured(
            name,
            num_bytes,
            [partial(ours, inputs, *one) for one in sets],
            [partial(plain, *one) for one in sets],
            green,
            detail,
        )

    jobs: Jobs = []
    for case in _chosen(bench, cases.BENCH_CASES, cases.TEST_CASES):
        heads = f"{case.num_heads}/{case.num_kv_heads} heads of {case.head_dim}"
        name = f"kv_store {case.num_tokens} x {heads}{', normed' if case.has_norm else ''}"
        jobs.append((name, partial(make, case, name)))
    return jobs


def _page_copies(bench: Bench) -> Jobs:
    from radixserve_kernels.page_copy import cases  # noqa: PLC0415
    from radixserve_kernels.page_copy.kernel import page_copy  # noqa: PLC0415
    from radixserve_kernels.page_copy.reference import page_copy_reference  # noqa: PLC0415

    def make(case: Any, name: str) -> Measured:
        # Made on the device: the storage of a whole model takes the host seconds.
        heads = (case.page_size, case.num_kv_heads, case.head_dim)
        storage = torch.empty(
            (case.num_layers, 2, case.num_pages, *heads), dtype=DTYPE, device=bench.device
        ).normal_()
        pages = torch.randperm(case.num_pages, device=bench.device)
        count = min(case.num_copies, case.num_pages // 2)
        sources, targets = pages[:count].clone(), pages[count : 2 * count].clone()
        expected = storage.clone()
        page_copy_reference(expected, sources, targets)
        page_copy(storage, sources, targets)
        same = torch.equal(storage, expected)
        page_bytes = storage[:, :, 0].numel() * DTYPE.itemsize
        return Measured(
            name,
            2 * count * page_bytes,
            [partial(page_copy, storage, sources, targets)],
            [partial(page_copy_reference, expected, sources, targets)],
            same,
            "equal" if same else "THE PAGES DIFFER",
        )

    jobs: Jobs = []
    for case in _chosen(bench, cases.BENCH_CASES, cases.TEST_CASES):
        name = f"page_copy {case.num_copies}, {case.num_layers} layers, head {case.head_dim}"
        jobs.append((name, partial(make, case, name)))
    return jobs


def _penalties(bench: Bench) -> Jobs:
    from radixserve_kernels.penalize import cases  # noqa: PLC0415
    from radixserve_kernels.penalize.kernel import penalize  # noqa: PLC0415
    from radixserve_kernels.penalize.reference import penalize_reference  # noqa: PLC0415

    def plain(
        logits: torch.Tensor,
        logits_rows: torch.Tensor,
        tallies: torch.Tensor,
        slots: torch.Tensor,
        penalties: torch.Tensor,
    ) -> torch.Tensor:
        """The formula on all rows at once; a row without penalties has an empty history."""
        x = logits.index_select(0, logits_rows).float()
        tally = tallies.index_select(0, slots.clamp(min=0)) * (slots >= 0).unsqueeze(-1)
        repetition, presence, frequency = penalties.unsqueeze(-1)
        count = tally // 2
        x = torch.where(tally == 0, x, torch.where(x > 0, x / repetition, x * repetition))
        return torch.where(count == 0, x, x - (presence + frequency * count))

    def make(case: Any, name: str) -> Measured:
        generator = torch.Generator().manual_seed(0)
        slots = torch.full((case.rows,), -1, dtype=torch.int32)
        slots[: case.penalized] = torch.arange(case.penalized, dtype=torch.int32)
        tallies = torch.zeros(max(1, case.penalized), case.vocab_size, dtype=torch.int32)
        shape = (len(tallies), case.history)
        index = torch.randint(case.vocab_size, shape, generator=generator)
        tallies.scatter_add_(1, index, torch.full(shape, 2, dtype=torch.int32))
        logits = torch.empty(case.rows, case.vocab_size, dtype=DTYPE, device=bench.device)
        logits.normal_(std=4.0)
        rest = (
            torch.arange(case.rows, dtype=torch.int32).to(bench.device),
            tallies.to(bench.device),
            slots.to(bench.device),
            torch.tensor([[1.1], [0.5], [0.2]]).repeat(1, case.rows).to(bench.device),
        )
        error = (penalize(logits, *rest) - penalize_reference(logits, *rest)).abs().max().item()
        # Logits, tallies, and float32 logits.
        num_bytes = case.vocab_size * (6 * case.rows + 4 * case.penalized)
        sets = [logits.clone() for _ in range(copies_beyond_cache(num_bytes, bench.device))]
        return Measured(
            name,
            num_bytes,
            [partial(penalize, one, *rest) for one in sets],
            [partial(plain, one, *rest) for one in sets],
            error <= 1e-5,
            f"error {error:.2e}",
        )

    chosen = _chosen(bench, cases.BENCH_CASES, cases.TEST_CASES)
    return [
        (f"penalize {case.name}", partial(make, case, f"penalize {case.name}")) for case in chosen
    ]


def _samples(bench: Bench) -> Jobs:
    """The slow way first, where top-k or top-p keep so many that one program takes six passes."""
    # A file of its own: the rows' parameters, and torch's sorting way to do it.
    from gpu.sampling_data import SampleData  # noqa: PLC0415
    from radixserve_kernels.sample import cases  # noqa: PLC0415

    def make(case: Any, name: str) -> Measured:
        data = SampleData(case, DTYPE, bench.device)
        green, detail = data.check()
        # Greedy or not, every logit has to be read once.
        num_bytes = case.rows * case.vocab_size * DTYPE.itemsize
        sets = data.copies(copies_beyond_cache(num_bytes, bench.device))
        return Measured(
            name,
            num_bytes,
            [one.run for one in sets],
            [one.run_torch for one in sets],
            green,
            detail,
        )

    chosen = _chosen(bench, cases.BENCH_CASES, cases.TEST_CASES)
    return [(f"sample {case.name}", partial(make, case, f"sample {case.name}")) for case in chosen]


COLLECTORS = (_samples, _norms, _activations, _stores, _page_copies, _penalties)
"""What is least sure of its speed comes first."""
