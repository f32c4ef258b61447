"""TritonAttention: the interface over the kernels, its static plans, and who may have it."""

import builtins
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from radixserve.attention import triton_backend
from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.attention.cpu_backend import CpuAttention
from radixserve.attention.gather_backend import GatherAttention
from radixserve.attention.registry import make_attention
from radixserve.attention.triton_backend import TritonAttention, TritonPlan, cascade_costs
from radixserve.cascade import Cascade, Level
from radixserve.device.transfer import HostTransfer, make_transfer
from radixserve.errors import ConfigError
from radixserve_kernels import target
from radixserve_kernels.paged_attention import waves
from radixserve_kernels.paged_attention.items import tile_shape
from radixserve_kernels.paged_attention.work import Work, plan_work
from tests.attention.ragged import RaggedCase, allocate, make_case, oracle, stored

SHAPE = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=32, scale=0.2, page_size=16)
DEVICE = torch.device("cpu" if target.INTERPRETED else "cuda")


class DeviceCase:
    """A ragged case on the device."""

    def __init__(
        self,
        rows: list[tuple[int, int]],
        levels: tuple[Level, ...] = (),
        *,
        shared_pages: int = 4,
        seed: int = 0,
    ) -> None:
        """``rows`` are (cached tokens, new tokens); they share their first pages."""
        tables, num_pages = allocate(
            rows, [shared_pages] * len(rows), SHAPE.page_size, np.random.default_rng(seed)
        )
        for level in levels:
            pages = slice(level.first_page, level.end_page)
            for row in range(level.first_row, level.end_row):
                tables[row][pages] = tables[level.first_row][pages]
        self.host: RaggedCase = make_case(SHAPE, rows, tables, num_pages, seed=seed)
        batch = self.host.batch
        self.batch: ForwardBatch = replace(
            batch,
            query_start=batch.query_start.to(DEVICE),
            context_lens=batch.context_lens.to(DEVICE),
            page_table=batch.page_table.to(DEVICE),
            cascade=Cascade(levels),
        )
        self.query = self.host.query.to(DEVICE)
        self.keys, self.values = (tensor.to(DEVICE) for tensor in stored(self.host, torch.float32))

    def attend(self, attention: TritonAttention, plan: TritonPlan) -> torch.Tensor:
        return attention.forward(self.query, self.keys, self.values, self.batch, plan)

    def expected(self) -> torch.Tensor:
        return oracle(self.host).flatten(1).float().to(DEVICE)


def make() -> TritonAttention:
    return TritonAttention(SHAPE, make_transfer(DEVICE))


def test_a_mixed_step_means_what_the_reference_means() -> None:
    attention = make()
    case = DeviceCase([(0, 5), (300, 1), (90, 20), (17, 1), (280, 3)])
    plan = attention.plan(case.batch)
    for _layer in range(2):
        torch.testing.assert_close(case.attend(attention, plan), case.expected())


def test_the_first_layer_of_a_step_is_checked() -> None:
    attention = make()
    case = DeviceCase([(3, 1)])
    plan = attention.plan(case.batch)
    wrong = case.keys[..., :16]
    for _try in range(2):
        with pytest.raises(ValueError, match="keys: expected shape"):
            attention.forward(case.query, wrong, case.values, case.batch, plan)
    assert plan.prepared is None
    case.attend(attention, plan)
    assert plan.prepared is not None


def test_a_step_that_exceeds_the_room_is_attended_in_waves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = DeviceCase([(4900, 8), (300, 1), (0, 5), (7000, 8), (40, 1), (6000, 8)])
    whole = make()
    expected = case.attend(whole, whole.plan(case.batch))
    torch.testing.assert_close(expected, case.expected())
    # 512 slots: what one row may need. The rows take 20 * 8, 2, 0, 28 * 8, 0 and 24 * 8.
    monkeypatch.setattr(triton_backend, "ROOM_BYTES", 0)
    tight = make()
    plan = tight.plan(case.batch)
    assert [len(wave.merges) for wave in plan.waves] == [17, 8]
    assert torch.equal(case.attend(tight, plan), expected)


def test_a_step_of_no_row() -> None:
    attention = make()
    case = DeviceCase([(3, 1)])
    batch = replace(case.batch, query_start_host=(0,), context_lens_host=())
    out = attention.forward(case.query[:0], case.keys, case.values, batch, attention.plan(batch))
    assert out.shape == (0, SHAPE.num_heads * SHAPE.head_dim)


def addresses(plan: TritonPlan) -> list[int]:
    (wave,) = plan.waves
    assert plan.out is not None
    tensors = (wave.counts, wave.short_items, wave.tall_items, wave.merges, wave.first_slots)
    room = (wave.partials, wave.partial_lse)
    return [tensor.data_ptr() for tensor in (*tensors, *room, plan.out)]


def test_a_static_plan_serves_any_decode_step() -> None:
    attention = make()
    static = attention.static_plan(4, torch.float32)
    before = addresses(static)
    for rows in ([(300, 1), (5, 1), (700, 1)], [(40, 1)], [(20, 1), (0, 1), (260, 1), (513, 1)]):
        case = DeviceCase(rows)
        plan = attention.plan(case.batch)
        assert attention.load_plan(static, plan)
        expected = case.attend(attention, plan)
        if len(rows) < 4:
            # A row of padding, as a recorded batch size has.
            case.query = torch.cat([case.query, torch.full_like(case.query[:1], torch.nan)])
        out = case.attend(attention, static)
        assert out.isfinite().all()
        torch.testing.assert_close(out[: len(rows)], case.expected())
        assert torch.equal(out[: len(rows)], expected)
    assert addresses(static) == before


# Rows 0 to 9 share 20 pages, of which a split is 16; rows 2 and 3 share 34; rows 10 and 11, 32.
DECODE_ROWS = [
    (330, 1), (320, 1), (560, 1), (545, 1), *((340 + 5 * row, 1) for row in range(6)),
    (600, 1), (515, 1), (40, 1),
]  # fmt: skip
LEVELS = (Level(0, 10, 0, 20), Level(2, 4, 20, 34), Level(10, 12, 0, 32))


def test_what_rows_share_is_read_once() -> None:
    attention = make()
    case = DeviceCase(DECODE_ROWS, LEVELS)
    plan = attention.plan(case.batch)
    (wave,) = plan.waves
    # Group 2: ten rows are 20 packed rows, two are 4.
    assert wave.counts.tolist() == [1 + 2 + sum(length // 256 for length in own_keys()), 1, 12]
    torch.testing.assert_close(case.attend(attention, plan), case.expected())
    alone = attention.plan(replace(case.batch, cascade=Cascade(())))
    assert not alone.waves[0].has_levels
    assert len(alone.waves[0].short_items) > len(wave.short_items)
    torch.testing.assert_close(case.attend(attention, alone), case.attend(attention, plan))


def test_what_rows_of_a_mixed_step_share_is_read_once() -> None:
    attention = make()
    rows = [(300, 1), (290, 3), (280, 40), (400, 1), (270, 2), (5, 9)]
    case = DeviceCase(rows, (Level(0, 5, 0, 16),))
    plan = attention.plan(case.batch)
    assert plan.waves[0].has_levels
    torch.testing.assert_close(case.attend(attention, plan), case.expected())


def test_a_level_in_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    # Room for the two partial results of each of three rows.
    monkeypatch.setattr(triton_backend, "ROOM_BYTES", 0)
    monkeypatch.setattr(triton_backend, "MAX_ROW_PARTIALS", 6)
    monkeypatch.setattr(waves, "MAX_ROW_PARTIALS", 6)
    attention = make()
    case = DeviceCase([(300, 1)] * 4, (Level(0, 4, 0, 16),))
    plan = attention.plan(case.batch)
    assert [wave.has_levels for wave in plan.waves] == [True, False]
    torch.testing.assert_close(case.attend(attention, plan), case.expected())


def test_a_static_plan_serves_steps_with_levels_and_without() -> None:
    attention = make()
    static = attention.static_plan(len(DECODE_ROWS) + 1, torch.float32)
    before = addresses(static)
    for rows, levels in (
        (DECODE_ROWS, LEVELS),
        ([(300, 1), (5, 1)], ()),
        ([(330, 1)] * 3, (Level(0, 3, 0, 20),)),
    ):
        case = DeviceCase(rows, levels)
        plan = attention.plan(case.batch)
        assert attention.load_plan(static, plan)
        expected = case.attend(attention, plan)
        case.query = torch.cat([case.query, torch.full_like(case.query[:1], torch.nan)])
        out = case.attend(attention, static)
        assert out.isfinite().all()
        assert torch.equal(out[: len(rows)], expected)
        torch.testing.assert_close(expected, case.expected())
    assert addresses(static) == before


def test_recordings_of_few_rows_launch_no_tall_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = make()
    static = attention.static_plan(12, torch.float32)
    launched = []
    monkeypatch.setattr(
        triton_backend,
        "launch_attention",
        lambda *arguments: launched.append(len(arguments[5].tall_items)),
    )
    # 8 tokens of 2 heads fill a short tile.
    for num_rows in (1, 8, 9, 12):
        case = DeviceCase([(5, 1)] * num_rows)
        case.attend(attention, static)
    assert launched[:2] == [0, 0]
    assert launched[2] == launched[3] > 0
    assert len(attention.static_plan(8, torch.float32).waves[0].tall_items) == 0


def test_a_level_pays_by_the_bytes_that_it_spares() -> None:
    costs = cascade_costs(SHAPE)
    assert make().cascade_costs == costs
    # A partial result, written and read: 2 * 4 * 4 heads * 33, against 2 * 2 * 2 heads * 32.
    assert costs.token_keys == 128 + 1_056 / 256
    assert costs.level_keys == 256
    assert cascade_costs(replace(SHAPE, num_heads=128)).level_keys == 512


def own_keys() -> list[int]:
    """How far each of ``DECODE_ROWS`` goes on behind its levels."""
    shared = [256, 256, 512, 512, *([256] * 6), 512, 512, 0]
    return [
        cached + 1 - begin + 255 for (cached, _), begin in zip(DECODE_ROWS, shared, strict=True)
    ]


def test_an_empty_static_plan_touches_nothing() -> None:
    attention = make()
    static = attention.static_plan(2, torch.float32)
    assert static.waves[0].counts.tolist() == [0, 0, 0]
    assert not DeviceCase([(5, 1)]).attend(attention, static).any()


def test_a_plan_that_does_not_fit_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = make()
    static = attention.static_plan(2, torch.float32)
    assert attention.load_plan(static, attention.plan(DeviceCase([(300, 1)]).batch))
    (wave,) = static.waves
    before = [wave.counts.clone(), wave.short_items.clone(), wave.merges.clone()]

    tall = attention.plan(DeviceCase([(0, 30)]).batch)
    assert len(tall.waves[0].tall_items) > 0
    many = attention.plan(DeviceCase([(300, 1), (300, 1), (300, 1)]).batch)
    assert len(many.waves[0].merges) == 3
    monkeypatch.setattr(triton_backend, "plan_waves", lambda *_: [plan_work_of(7), plan_work_of(9)])
    in_waves = attention.plan(DeviceCase([(300, 1)]).batch)
    assert len(in_waves.waves) == 2
    for plan in (tall, many, in_waves):
        assert not attention.load_plan(static, plan)
    after = [wave.counts, wave.short_items, wave.merges]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def plan_work_of(num_keys: int) -> Work:
    starts, lengths = np.array([0, 1], dtype=np.int32), np.array([num_keys], dtype=np.int32)
    return plan_work(starts, lengths, tile_shape(2))


def test_a_static_plan_has_room_for_the_longest_contexts() -> None:
    attention = make()
    static = attention.static_plan(1, torch.float32)
    batch = DeviceCase([(3, 1)]).batch
    for length in (16_384, 16_385, 40_000, 1_000_000):
        plan = attention.plan(replace(batch, context_lens_host=(length,)))
        assert attention.load_plan(static, plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 72}, "does not fit this model: expected a head size .* got 72"),
        ({"num_heads": 258, "num_kv_heads": 2}, "1 to 128 query heads a KV head, got 129"),
    ],
)
def test_shapes_that_the_kernels_do_not_know(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TritonAttention(replace(SHAPE, **changes), make_transfer(DEVICE))


# -- the registry ----------------------------------------------------------------------------------


class ElsewhereTransfer(HostTransfer):
    """Claims another device, which nothing is sent to."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)


def test_the_registry_knows_the_best_for_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    host, gpu = HostTransfer(), ElsewhereTransfer("cuda:0")
    assert isinstance(make_attention("auto", SHAPE, host), CpuAttention)
    assert isinstance(make_attention("cpu", SHAPE, host), CpuAttention)
    assert isinstance(make_attention("torch", SHAPE, host), GatherAttention)
    assert isinstance(make_attention("torch", SHAPE, gpu), GatherAttention)
    monkeypatch.setattr(triton_backend, "new_partials", lambda *_: ())
    monkeypatch.setattr(triton_backend, "prepare_attention", lambda *_, **__: None)
    monkeypatch.setattr(target, "INTERPRETED", True)
    assert isinstance(make_attention("triton", SHAPE, host), TritonAttention)
    monkeypatch.setattr(target, "INTERPRETED", False)
    assert isinstance(make_attention("triton", SHAPE, gpu), TritonAttention)
    assert isinstance(make_attention("auto", SHAPE, gpu), TritonAttention)


def test_the_registry_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    host, gpu = HostTransfer(), ElsewhereTransfer("cuda:0")
    with pytest.raises(ConfigError, match="one of auto, cpu, torch, triton, varlen; got 'flash'"):
        make_attention("flash", SHAPE, host)
    with pytest.raises(ConfigError, match="3 query heads cannot share 2"):
        make_attention("auto", replace(SHAPE, num_heads=3), host)
    with pytest.raises(ConfigError, match="no attention for device 'meta'"):
        make_attention("auto", SHAPE, ElsewhereTransfer("meta"))
    with pytest.raises(ConfigError, match="'cpu' runs on CPUs only, got device 'cuda'"):
        make_attention("cpu", SHAPE, gpu)
    with pytest.raises(ConfigError, match="'varlen' runs on CUDA GPUs only, got device 'cpu'"):
        make_attention("varlen", SHAPE, host)
    monkeypatch.setattr(target, "INTERPRETED", False)
    with pytest.raises(ConfigError, match="device 'cpu' in this process; set TRITON_INTERPRET=1"):
        make_attention("triton", SHAPE, host)
    monkeypatch.setattr(target, "INTERPRETED", True)
    with pytest.raises(ConfigError, match="device 'cuda' in this process; unset TRITON_INTERPRET"):
        make_attention("auto", SHAPE, gpu)


def test_without_triton_the_registry_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_triton(name: str, *rest: Any) -> Any:
        if name == "radixserve.attention.triton_backend":
            raise ImportError("No module named 'triton'")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_triton)
    with pytest.raises(ConfigError, match=r"No module named 'triton'.*install triton 3\.6"):
        make_attention("auto", SHAPE, ElsewhereTransfer("cuda:0"))
    assert isinstance(make_attention("auto", SHAPE, HostTransfer()), CpuAttention)


def test_where_kernels_cannot_be_compiled_torch_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def check() -> None:
        raise ImportError("numba finds neither OpenMP nor TBB here")

    monkeypatch.setattr("radixserve_kernels.cpu.compiling.check", check)
    with pytest.raises(ConfigError, match=r"neither OpenMP nor TBB.*install numba and an OpenMP"):
        make_attention("cpu", SHAPE, HostTransfer())
    with caplog.at_level("WARNING"):
        assert isinstance(make_attention("auto", SHAPE, HostTransfer()), GatherAttention)
    assert "neither OpenMP nor TBB" in caplog.text
