"""The disk tier's threads: every job ends once, touches its own slot only, and nobody hangs."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from radixserve.errors import ConfigError
from radixserve.tiers.disk_tier import DiskTier, Done
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_file import PageBytes, file_bytes
from radixserve.tiers.page_names import PageKey

PAGE_BYTES = 500
NUM_SLOTS = 12
ALICE, BOB = "00000000000a11ce", "0000000000000b0b"
LIMIT_S = 60.0
"""Far more than anything here takes; a test that waits so long has found a hang."""


def key_of(number: int, owner: str = ALICE) -> PageKey:
    return PageKey(owner, number.to_bytes(16, "big"), number.to_bytes(32, "big"))


class HeldDirectory(PageDirectory):
    """Transfers wait at a gate, if it is closed; and can be made to raise."""

    def __init__(self, path: Path, limit: int = 100) -> None:
        super().__init__(path, b"a model's", PAGE_BYTES, limit * file_bytes(PAGE_BYTES))
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.error: Exception | None = None
        self.waits_after = False
        """They wait when they are through."""

    def _wait(self) -> None:
        self.arrived.release()
        assert self.gate.wait(LIMIT_S)
        if self.error is not None:
            raise self.error

    def read(self, key: PageKey, into: PageBytes) -> bool:
        if self.waits_after:
            done = super().read(key, into)
            self._wait()
            return done
        self._wait()
        return super().read(key, into)

    def write(
        self, key: PageKey, data: PageBytes, is_wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        if self.waits_after:
            done = super().write(key, data, is_wanted)
            self._wait()
            return done
        self._wait()
        return super().write(key, data, is_wanted)


class Rig:
    """A tier, its slots and its directory."""

    def __init__(self, path: Path, num_readers: int = 2) -> None:
        self.directory = HeldDirectory(path)
        rng = np.random.default_rng(0)
        self.pages = rng.integers(0, 256, (NUM_SLOTS, PAGE_BYTES), dtype=np.uint8)
        self.buffer: npt.NDArray[np.uint8] = self.pages.copy()
        self.num_rung = 0
        self.ringing = threading.Lock()
        self.tier = DiskTier(
            self.directory, self.buffer, num_readers=num_readers, on_done=self.ring
        )

    def ring(self) -> None:
        with self.ringing:
            self.num_rung += 1

    def write(self, *numbers: int, owner: str = ALICE) -> None:
        for number in numbers:
            self.tier.write(SlotId(number), key_of(number, owner))

    def read(self, *numbers: int, owner: str = ALICE) -> None:
        for number in numbers:
            self.tier.read(SlotId(number), key_of(number, owner))

    def finish(self) -> list[Done]:
        """Wait for everything under way."""
        done: list[Done] = []
        while self.tier.num_under_way:
            assert self.tier.wait(LIMIT_S)
            done += self.tier.take_done()
        assert self.tier.wait(LIMIT_S) is self.tier.has_done
        return done + self.tier.take_done()

    def hold(self, num_jobs: int) -> None:
        """Wait until so many jobs stand at the closed gate."""
        for _ in range(num_jobs):
            assert self.directory.arrived.acquire(timeout=LIMIT_S)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.directory.gate.set()
    one.tier.close(LIMIT_S)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("page-")]


def test_pages_come_back(rig: Rig) -> None:
    rig.write(*range(NUM_SLOTS))
    done = rig.finish()
    # One writer: in the order in which they were handed in.
    assert [(one.kind, one.slot, one.key, one.ok) for one in done] == [
        ("write", slot, key_of(slot), True) for slot in range(NUM_SLOTS)
    ]
    assert all(one.seconds > 0 for one in done)
    assert all(rig.tier.contains(ALICE, key_of(slot).name) for slot in range(NUM_SLOTS))
    rig.buffer[:] = 0
    order = [5, 3, 8]
    rig.read(*order)
    assert sorted(one.slot for one in rig.finish() if one.ok) == sorted(order)
    for slot in range(NUM_SLOTS):
        # And no other slot was touched.
        expected = rig.pages[slot] if slot in order else np.zeros(PAGE_BYTES, dtype=np.uint8)
        assert (rig.buffer[slot] == expected).all()


def test_what_cannot_be_read_is_said(rig: Rig) -> None:
    rig.write(1, 2)
    rig.finish()
    rig.tier.read(SlotId(3), key_of(3))
    rig.tier.read(SlotId(1), key_of(1)._replace(identity=bytes(32)))
    rig.tier.read(SlotId(2), key_of(2))
    assert {one.slot: one.ok for one in rig.finish()} == {3: False, 1: False, 2: True}
    assert rig.directory.num_rejected == 1


def test_the_bell_rings_when_something_can_be_taken(tmp_path: Path) -> None:
    rung = threading.Event()
    seen = []
    rig = Rig(tmp_path)

    def ring() -> None:
        seen.append(rig.tier.has_done)
        rung.set()

    rig.tier.on_done = ring
    rig.write(1)
    assert rung.wait(LIMIT_S)
    assert seen == [True]
    assert len(rig.tier.take_done()) == 1
    assert not rig.tier.has_done
    rig.tier.close(LIMIT_S)


def test_waiting(rig: Rig) -> None:
    # Nothing is under way: not a moment, though no limit is given.
    assert not rig.tier.wait()
    rig.directory.gate.clear()
    rig.read(1)
    rig.hold(1)
    assert not rig.tier.wait(0.01)
    rig.directory.gate.set()
    assert rig.tier.wait()
    assert rig.tier.num_under_way == 0
    # What was not taken yet can be.
    assert rig.tier.wait()


def test_two_pages_are_read_at_a_time_while_one_is_written(rig: Rig) -> None:
    rig.directory.gate.clear()
    rig.write(0, 1, 2)
    rig.read(3, 4, 5)
    rig.hold(3)
    assert not rig.directory.arrived.acquire(timeout=0.01)
    assert rig.tier.num_under_way == 6
    rig.directory.gate.set()
    assert len(rig.finish()) == 6


def test_a_touch_comes_after_the_writes_before_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.directory.limit_bytes = 3 * file_bytes(PAGE_BYTES)
    rig.write(0, 1, 2)
    rig.tier.touch([key_of(0), key_of(1)])
    rig.write(3, 4)
    rig.finish()
    # The deepest of the touched pages went before the first, and the untouched one before both.
    held = [number for number in range(5) if rig.tier.contains(ALICE, key_of(number).name)]
    assert held == [0, 3, 4]
    rig.tier.close(LIMIT_S)


def test_touches_behind_a_disk_that_hangs_are_bounded(rig: Rig) -> None:
    rig.directory.gate.clear()
    rig.write(0)
    rig.hold(1)
    touched: list[int] = []

    def note(keys: Sequence[PageKey]) -> None:
        touched.append(len(keys))

    rig.directory.touch = note  # type: ignore[method-assign]  # to count
    for _ in range(100):
        rig.tier.touch([key_of(0)] * 1000)
    rig.directory.gate.set()
    rig.write(1)
    rig.finish()
    assert sum(touched) == 66_000
    # When these are through there is room for more.
    rig.tier.touch([key_of(0)])
    rig.write(2)
    rig.finish()
    assert sum(touched) == 66_001


def test_the_writer_lives_on_when_touching_or_sweeping_goes_wrong(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> bool:
        raise MemoryError

    rig.directory.touch = fail  # type: ignore[method-assign,assignment]  # no file system does so
    rig.directory.sweep = fail  # type: ignore[method-assign]  # likewise
    rig.tier.touch([key_of(0)])
    rig.tier.clear(None)
    rig.write(0)
    assert [one.ok for one in rig.finish()] == [True]
    assert "could not be tidied" in caplog.text


@pytest.mark.parametrize("owner", [ALICE, None])
def test_what_is_cleared_is_gone_wherever_it_was(rig: Rig, owner: str | None) -> None:
    rig.write(0, 1)
    rig.write(2, owner=BOB)
    rig.finish()
    rig.directory.arrived = threading.Semaphore(0)
    rig.directory.gate.clear()
    rig.write(3, 4)
    rig.write(5, owner=BOB)
    rig.read(0, 1, 6)
    rig.hold(3)
    # One write and two reads have begun, the others wait.
    rig.tier.clear(owner)
    assert not rig.tier.contains(ALICE, key_of(0).name)
    assert rig.tier.contains(BOB, key_of(2).name) is (owner is not None)
    rig.directory.gate.set()
    done = {one.slot: one.ok for one in rig.finish()}
    assert done == {0: False, 1: False, 3: False, 4: False, 5: owner is not None, 6: False}
    assert not any(rig.tier.contains(ALICE, key_of(number).name) for number in range(7))
    assert rig.tier.contains(BOB, key_of(5).name) is (owner is not None)
    # What comes later is kept.
    rig.write(7)
    assert [one.ok for one in rig.finish()] == [True]
    while rig.directory.sweep():
        pass
    files = [path for path in rig.directory.path.rglob("*") if path.is_file()]
    assert len(files) - 1 == rig.directory.num_pages == (3 if owner else 1)


def test_what_is_cleared_when_it_was_through_is_not_used(rig: Rig) -> None:
    rig.write(0)
    rig.finish()
    rig.directory.arrived = threading.Semaphore(0)
    rig.directory.waits_after = True
    rig.directory.gate.clear()
    rig.read(0)
    rig.write(1)
    rig.hold(2)
    assert rig.tier.contains(ALICE, key_of(1).name)
    rig.tier.clear(ALICE)
    rig.directory.gate.set()
    assert {one.slot: one.ok for one in rig.finish()} == {0: False, 1: False}
    assert rig.directory.num_pages == 0


def test_cleared_files_are_deleted_though_nothing_is_written(rig: Rig) -> None:
    rig.write(0)
    rig.finish()
    swept = threading.Event()
    sweep = rig.directory.sweep

    def note() -> bool:
        is_more = sweep()
        if not is_more:
            swept.set()
        return is_more

    rig.directory.sweep = note  # type: ignore[method-assign]  # to see when it is done
    rig.tier.clear(None)
    assert swept.wait(LIMIT_S)
    assert [path.name for path in rig.directory.path.rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.parametrize("error", [OSError(5, "bad"), MemoryError(), ValueError("a bug")])
def test_whatever_goes_wrong_every_job_ends(
    rig: Rig, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    rig.directory.error = error
    rig.write(0, 1)
    rig.read(2, 3, 4)
    assert [one.ok for one in rig.finish()] == [False] * 5
    rig.directory.error = None
    # The threads live.
    rig.write(0)
    assert [one.ok for one in rig.finish()] == [True]
    assert "a page could not be handled" in caplog.text


def test_closing_finishes_what_is_to_be_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.directory.gate.clear()
    rig.write(0, 1, 2)
    rig.read(3, 4, 5)
    rig.hold(3)
    opener = threading.Timer(0.02, rig.directory.gate.set)
    opener.start()
    rig.tier.close(LIMIT_S)
    done = rig.tier.take_done()
    assert sorted(one.slot for one in done) == [0, 1, 2, 3, 4, 5]
    assert {one.slot for one in done if one.kind == "write" and one.ok} == {0, 1, 2}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("page-")]
    # The directory is free for the next server, with what was written.
    again = HeldDirectory(tmp_path)
    assert again.num_pages == 3
    again.close()
    # Handed in too late: it ends, and at once.
    rig.write(6)
    rig.read(7)
    rig.tier.touch([key_of(0)])
    rig.tier.clear(None)
    assert [(one.slot, one.ok) for one in rig.tier.take_done()] == [(6, False), (7, False)]
    rig.tier.close(LIMIT_S)
    assert not rig.tier.wait()


def test_closing_does_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    rig.directory.gate.clear()
    rig.write(0, 1, 2)
    rig.read(3, 4, 5)
    rig.hold(3)
    rig.tier.close(0.02)
    # One write and two reads hang; the others were given up.
    assert sorted(one.slot for one in rig.tier.take_done()) == [1, 2, 5]
    assert rig.tier.num_under_way == 3
    assert "2 pages were not written in time" in caplog.text
    # They may still write: nobody else is let in.
    with pytest.raises(ConfigError, match="in use by another server"):
        HeldDirectory(tmp_path)
    rig.tier.close(0.02)
    rig.directory.gate.set()
    assert len(rig.finish()) == 3
    rig.tier.close(LIMIT_S)
    HeldDirectory(tmp_path).close()


def test_many_jobs_from_many_slots(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rig = Rig(tmp_path)
    rng = np.random.default_rng(1)
    busy: set[int] = set()
    num_done = 0
    num_read = 0
    for _ in range(1500):
        free = [slot for slot in range(NUM_SLOTS) if slot not in busy]
        if not free:
            assert rig.tier.wait(LIMIT_S)
        elif rng.random() < 0.7:
            slot = int(rng.choice(free))
            busy.add(slot)
            if rng.random() < 0.5:
                rig.buffer[slot] = rig.pages[slot]
                rig.write(slot)
            else:
                rig.buffer[slot] = 0
                rig.read(slot)
        for one in rig.tier.take_done():
            busy.remove(one.slot)
            num_done += 1
            if one.kind == "read" and one.ok:
                num_read += 1
                assert (rig.buffer[one.slot] == rig.pages[one.slot]).all()
    num_done += len(rig.finish())
    assert num_read > 100
    rig.directory.check_invariants()
    rig.tier.close(LIMIT_S)
    assert rig.num_rung == num_done


def test_the_slots_of_jobs_are_those_whose_end_was_not_taken(rig: Rig) -> None:
    rig.directory.gate.clear()
    rig.write(0, 1)
    rig.read(2, 3, 4)
    rig.tier.touch([key_of(9)])
    rig.hold(3)
    assert rig.tier.slots() == {0, 1, 2, 3, 4}
    rig.directory.gate.set()
    rig.finish()
    assert rig.tier.slots() == set()
