"""Pages on their way to host memory and back: their bytes, and on a GPU the order of the work.

Streams and events of a GPU are stood in for by a recorder, which knows what runs before what: work
on one stream in order, and behind an event only what waits for it.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from radixserve.device.transfer import HostTransfer, make_transfer
from radixserve.errors import ConfigError
from radixserve.ids import PageId
from radixserve.runner import cuda_moves
from radixserve.runner.cuda_moves import CudaMover, CudaMoving
from radixserve.runner.host_pages import HostMover, HostPages
from radixserve.runner.kv_tensors import KVTensors
from radixserve.tiers.moves import NO_MOVES, Load, Moves, SlotId, Store

NUM_PAGES, NUM_SLOTS = 10, 6
DTYPES = [torch.bfloat16, torch.float32]


def make_pool(dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> KVTensors:
    kv = KVTensors(
        num_layers=2,
        num_pages=NUM_PAGES,
        page_size=3,
        num_kv_heads=2,
        head_dim=4,
        dtype=dtype,
        transfer=make_transfer(torch.device(device)),
        use_kernel=False,
    )
    bits = torch.randint(0, 256, (kv.num_bytes,), generator=torch.Generator().manual_seed(0))
    # Any bytes, NaNs among them.
    kv.storage.view(-1).view(torch.uint8).copy_(bits)
    return kv


def moves_of(stores: Sequence[tuple[int, int]], loads: Sequence[tuple[int, int]]) -> Moves:
    """Stores as (page, slot), loads as (slot, page)."""
    return Moves(
        tuple(Store(PageId(page), SlotId(slot)) for page, slot in stores),
        tuple(Load(SlotId(slot), PageId(page)) for slot, page in loads),
    )


def bits_of(kv: KVTensors, page: int) -> bytes:
    return kv.storage[:, :, page].contiguous().view(torch.uint8).cpu().numpy().tobytes()


# -- the bytes --------------------------------------------------------------------------------


@dataclass
class Rig:
    """A pool, slots, and what moves pages between them."""

    kv: KVTensors
    pages: HostPages
    log: "Log"

    @classmethod
    def make(cls, kind: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> "Rig":
        kv, log = make_pool(dtype), Log()
        pages = HostPages(NUM_SLOTS, kv, HostTransfer())
        if kind == "queued":
            slots = torch.from_numpy(pages.buffer).view(dtype)
            slots = slots.view(NUM_SLOTS, *kv.storage.shape[:2], *kv.storage.shape[3:])
            # Two pages at a time, so that parts of unequal size are seen.
            monkeypatch.setattr(cuda_moves, "STAGED_BYTES", 2 * slots[0].nbytes)
            pages._mover = CudaMover(kv.storage, slots, HostTransfer(), log)
        return cls(kv, pages, log)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["at_once", "queued"])
def test_every_byte_of_a_page_goes_there_and_back(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig.make(kind, monkeypatch, dtype)
    kv, pages = rig.kv, rig.pages
    before = [bits_of(kv, page) for page in range(NUM_PAGES)]
    pages.perform(moves_of([(7, 2), (0, 5), (9, 0), (4, 1), (3, 3)], [])).wait()
    assert [bits_of(kv, page) for page in range(NUM_PAGES)] == before, "a store changed the pool"
    for page, slot in ((7, 2), (0, 5), (9, 0), (4, 1), (3, 3)):
        # A slot is the page, in the order that its shape says: files hold it so.
        assert pages.buffer[slot].tobytes() == before[page]
    kv.storage.zero_()
    pages.perform(moves_of([], [(2, 1), (5, 8), (0, 2)])).wait()
    expected = {1: before[7], 8: before[0], 2: before[9]}
    empty = bytes(len(before[0]))
    assert [bits_of(kv, page) for page in range(NUM_PAGES)] == [
        expected.get(page, empty) for page in range(NUM_PAGES)
    ]


@pytest.mark.parametrize("kind", ["at_once", "queued"])
def test_what_is_written_into_the_buffer_is_what_is_loaded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig.make(kind, monkeypatch, torch.bfloat16)
    rig.pages.buffer[4] = range(rig.pages.buffer.shape[1])
    rig.pages.perform(moves_of([], [(4, 6)])).wait()
    assert bits_of(rig.kv, 6) == rig.pages.buffer[4].tobytes() == bytes(range(192))


@pytest.mark.parametrize("kind", ["at_once", "queued"])
def test_a_page_is_stored_before_it_is_loaded_into(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evicted page may be given to a request that loads in the same plan."""
    rig = Rig.make(kind, monkeypatch, torch.float32)
    rig.pages.perform(moves_of([(1, 0)], [])).wait()
    evicted, loaded = bits_of(rig.kv, 5), bits_of(rig.kv, 1)
    rig.pages.perform(moves_of([(5, 3)], [(0, 5)])).wait()
    assert rig.pages.buffer[3].tobytes() == evicted
    assert bits_of(rig.kv, 5) == loaded


def test_moves_that_could_race_are_refused() -> None:
    kv = make_pool()
    pages = HostPages(NUM_SLOTS, kv, HostTransfer())
    for moves, message in (
        (moves_of([(1, 0), (2, 0)], []), "target of two stores"),
        (moves_of([], [(0, 1), (2, 1)]), "target of two loads"),
        (moves_of([(1, 0)], [(0, 2)]), "source and target"),
    ):
        with pytest.raises(AssertionError, match=message):
            pages.perform(moves)


def test_moves_are_timed_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=0.25)
    monkeypatch.setattr("radixserve.runner.host_pages.time.perf_counter", lambda: next(clock))
    pages = HostPages(NUM_SLOTS, make_pool(), HostTransfer())
    moving = pages.perform(moves_of([(1, 0)], [(1, 2)]))
    assert moving.wait() == moving.wait() == 0.25
    assert pages.perform(NO_MOVES).wait() == 0.0


def test_memory_that_cannot_be_had_is_an_error_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kv = make_pool()

    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("you tried to allocate too much")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ConfigError, match=r"0\.00 GiB, cannot .* too much; lower host_cache_gib$"):
        HostPages(NUM_SLOTS, kv, HostTransfer())


# -- the order on a GPU -----------------------------------------------------------------------


@dataclass
class Log:
    """``Queues``: what was queued, in order, on which stream, behind which events."""

    entries: list[tuple[str, str]] = field(default_factory=list)
    """(stream, what)."""
    behind: list[set[int]] = field(default_factory=list)
    """Of each entry, the entries that surely have run before it."""
    last: dict[str, set[int]] = field(default_factory=lambda: {"main": set(), "side": set()})
    current: str = "main"
    num_events: int = 0

    @property
    def side(self) -> "FakeStream":
        return FakeStream(self, "side")

    def main(self) -> "FakeStream":
        return FakeStream(self, "main")

    def event(self) -> "FakeEvent":
        self.num_events += 1
        return FakeEvent(float(self.num_events))

    @contextmanager
    def on(self, stream: "FakeStream") -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def add(self, what: str) -> None:
        """Queue something on the current stream."""
        self.behind.append(set(self.last[self.current]))
        self.last[self.current].add(len(self.entries))
        self.entries.append((self.current, what))

    def is_behind(self, later: str, earlier: str) -> bool:
        """Whether all that is called ``later`` runs after all that is called ``earlier``."""
        found = {name: self._all(name) for name in (later, earlier)}
        return all(set(found[earlier]) <= self.behind[number] for number in found[later])

    def stream_of(self, what: str) -> set[str]:
        return {self.entries[number][0] for number in self._all(what)}

    def _all(self, what: str) -> list[int]:
        numbers = [number for number, entry in enumerate(self.entries) if entry[1] == what]
        assert numbers, f"no {what} was queued"
        return numbers


@dataclass
class FakeStream:
    log: Log
    name: str

    def wait_event(self, event: "FakeEvent") -> None:
        assert event.covers is not None, "waiting for an event that nobody has recorded"
        self.log.last[self.name] |= event.covers


@dataclass
class FakeEvent:
    at_ms: float
    covers: set[int] | None = None
    is_waited_for: bool = False

    def record(self, stream: FakeStream) -> None:
        self.covers = set(stream.log.last[stream.name])

    def synchronize(self) -> None:
        self.is_waited_for = True

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.at_ms - self.at_ms


class QueuedRig:
    """Steps whose moves and forward passes are noted in a log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = Rig.make("queued", monkeypatch, torch.bfloat16)
        self.log, self.pages, self.mover = rig.log, rig.pages, rig.pages._mover
        assert isinstance(self.mover, CudaMover)
        self.number = 0
        store, load = self.mover._store, self.mover._load

        def noted_store(stores: Sequence[Store]) -> None:
            if stores:
                self.log.add(f"stores {self.number}")
            store(stores)

        def noted_load(loads: Sequence[Load]) -> None:
            self.log.add(f"loads {self.number}")
            load(loads)

        monkeypatch.setattr(self.mover, "_store", noted_store)
        monkeypatch.setattr(self.mover, "_load", noted_load)

    def launch(self, moves: Moves) -> CudaMoving:
        self.number += 1
        moving = self.pages.perform(moves)
        self.log.add(f"forward {self.number}")
        assert isinstance(moving, CudaMoving)
        return moving


def test_loads_run_beside_their_own_step_and_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = QueuedRig(monkeypatch)
    log = rig.log
    rig.launch(NO_MOVES)
    rig.launch(moves_of([(1, 0), (2, 1), (3, 2)], [(4, 1)]))
    rig.launch(moves_of([(5, 3)], [(5, 2)]))
    rig.launch(NO_MOVES)
    rig.launch(moves_of([(6, 4)], []))
    for step in (2, 3, 5):
        assert log.stream_of(f"stores {step}") == {"main"}
        assert log.is_behind(f"forward {step}", f"stores {step}"), "it overwrites what is stored"
    for step in (2, 3):
        loads = f"loads {step}"
        assert log.stream_of(loads) == {"side"}
        assert log.is_behind(loads, f"stores {step}"), "a page may be stored and loaded into"
        assert log.is_behind(loads, f"forward {step - 1}"), "it may have written these pages"
        assert not log.is_behind(f"forward {step}", loads), "the step waits for its own loads"
        assert log.is_behind(f"forward {step + 1}", loads), "the next step may read these pages"
    assert log.is_behind("stores 3", "loads 2"), "a page that was loaded may be evicted"


def test_waiting_covers_stores_and_loads_and_adds_up_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = QueuedRig(monkeypatch)
    for moves, expected_s in (
        (moves_of([(1, 0)], [(4, 1)]), 0.002),
        (moves_of([(2, 0)], []), 0.001),
        (moves_of([], [(1, 3)]), 0.002),
        (NO_MOVES, 0.0),
    ):
        moving = rig.launch(moves)
        assert moving.wait() == moving.wait() == pytest.approx(expected_s)
        covered = set().union(
            *(end.covers for _, end in moving._spans if end.is_waited_for and end.covers)
        )
        moved = {
            number
            for number, (_, what) in enumerate(rig.log.entries)
            if what in (f"stores {rig.number}", f"loads {rig.number}")
        }
        assert moved <= covered


def test_moves_that_cannot_be_queued_leave_none_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = QueuedRig(monkeypatch)
    synchronized = []
    monkeypatch.setattr(FakeEvent, "synchronize", lambda event: synchronized.append(event.covers))

    def fail(_: Sequence[Load]) -> None:
        raise RuntimeError("no memory to stage pages in")

    monkeypatch.setattr(rig.mover, "_load", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        rig.launch(moves_of([(1, 0)], [(4, 1)]))
    assert synchronized == [{0}, {0}], "the store, on either stream"
    monkeypatch.undo()
    # And the next launch does not wait for what was never queued.
    rig.launch(NO_MOVES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_moves_every_byte() -> None:
    kv = make_pool(device="cuda")
    pages: Any = HostPages(NUM_SLOTS, kv, make_transfer(torch.device("cuda")))
    before = [bits_of(kv, page) for page in range(NUM_PAGES)]
    pages.perform(moves_of([(7, 2), (0, 5), (9, 0)], [])).wait()
    assert [pages.buffer[slot].tobytes() for slot in (2, 5, 0)] == [
        before[page] for page in (7, 0, 9)
    ]
    moving = pages.perform(moves_of([(1, 1)], [(2, 1), (5, 8)]))
    pages.perform(NO_MOVES)
    assert (bits_of(kv, 1), bits_of(kv, 8)) == (before[7], before[0])
    assert moving.wait() > 0
    assert pages.buffer[1].tobytes() == before[1]


def test_the_mover_is_chosen_by_the_device() -> None:
    pages = HostPages(NUM_SLOTS, make_pool(), HostTransfer())
    assert isinstance(pages._mover, HostMover)
    assert pages.buffer.nbytes == NUM_SLOTS * 192
