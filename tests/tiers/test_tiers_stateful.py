"""Cache and tiers against simulated memories: whatever is loaded holds exactly its own prefix.

A small scheduler plans steps as the real one does, launches up to three, and lands them in order.
A step's work is done at any moment between its launch and its landing. Steps fail, and leave junk
where they were to write; allocations fail; files are read late, in any order, damaged or not at
all; tenants' pages are cleared, prefixes become public and stop being so, the scheduler is
interrupted. After each rule every page of the device, every slot and every pin is accounted for,
whatever lies in a slot under a name is what the name's identity stands for, and so is every token
that a request counts as computed.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from radixserve.ids import Namespace
from radixserve.tiers.disk_tier import DiskTier
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_names import PageNamer
from tests.cache.public_model import Tokens
from tests.support.slow_disk import SlowDisk
from tests.tiers.contents import WeakNamer
from tests.tiers.small_scheduler import SmallScheduler

NAMESPACES = [Namespace("a"), Namespace("b")]
FINGERPRINT = b"f" * 32

PREFIXES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=20).map(tuple), max_size=2)


class TiersMachine(SmallScheduler, RuleBasedStateMachine):
    """Requests come, load, run, end; pages go down and up; everything that can fail does."""

    @initialize(
        page_size=st.sampled_from([1, 2, 4]),
        num_pages=st.sampled_from([4, 10, 10, 24]),
        num_slots=st.sampled_from([1, 3, 8, 40, 40]),
        has_disk=st.sampled_from([True, True, False]),
        is_weak=st.sampled_from([False, False, True]),
        public=st.just([]) | PREFIXES,
    )
    def start(
        self,
        page_size: int,
        num_pages: int,
        num_slots: int,
        has_disk: bool,
        is_weak: bool,
        public: list[Tokens],
    ) -> None:
        namer = (WeakNamer if is_weak else PageNamer)(FINGERPRINT, page_size)
        self.set_up(namer)
        self.build(num_pages, num_slots, has_disk)
        self.name_public(public)

    # Requests

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        pick=st.integers(0, 1000),
        cut=st.integers(0, 30),
        suffix=st.lists(st.integers(0, 1), max_size=12),
    )
    def admit(self, namespace: Namespace, pick: int, cut: int, suffix: list[int]) -> None:
        base = self.known[-1 - pick % min(8, len(self.known))]
        self.admit_prompt(namespace, (*base[: max(0, len(base) - cut % 8)], *suffix))

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        pick=st.integers(0, 1000),
        suffix=st.lists(st.integers(0, 1), min_size=4, max_size=20),
    )
    def whole_request(self, namespace: Namespace, pick: int, suffix: list[int]) -> None:
        """One request from beginning to end, so that the tree fills up."""
        num_running = len(self.running)
        self.admit(namespace, pick, 0, suffix)
        if len(self.running) == num_running:
            return
        for _ in range(3):
            self.launch({num_running}, 100, 100, max_backups=1, is_eager=True)
            self.land(count=3, ok=True)
        self.release(num_running)

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        suffix=st.lists(st.integers(0, 1), min_size=8, max_size=20),
        pick=st.integers(0, 1000),
        cut=st.integers(0, 12),
        num_evicted=st.sampled_from([1, 3, 5, 1000, 1000]),
        num_steps=st.integers(1, 4),
        max_loads=st.sampled_from([2, 100]),
        is_eager=st.booleans(),
        restarts=st.booleans(),
        lands=st.sampled_from([None, True, False]),
    )
    def come_back(
        self,
        namespace: Namespace,
        suffix: list[int],
        pick: int,
        cut: int,
        num_evicted: int,
        num_steps: int,
        max_loads: int,
        is_eager: bool,
        restarts: bool,
        lands: bool | None,
    ) -> None:
        """What a request left is evicted and stored, or lives in files, and is wanted again."""
        if not pick % 3 or not self.ended:
            self.whole_request(namespace, pick, suffix)
        if not self.ended:
            return
        self.cache.evict(num_evicted)
        self.launch(set(), 1, 1, 100, is_eager=False)
        self.land(count=3, ok=lands is not False or pick % 2 == 0)
        if restarts and self.disk is not None:
            self.restart(10, 8 * (pick % 3) + 2)
        namespace, tokens = self.ended[-1 - pick % min(4, len(self.ended))]
        num_running = len(self.running)
        prompt = (*tokens[: max(0, len(tokens) - cut)], *suffix[: 1 + pick % 8])
        self.admit_prompt(namespace, prompt)
        if len(self.running) > num_running:
            for _ in range(num_steps):
                if self.disk is not None:
                    self.end_jobs(pick % 2, 3, int(pick % 5 == 1))
                    self.tiers.collect()
                self.launch({num_running}, 2, max_loads, 0, is_eager=is_eager)
            if lands is not None:
                self.land(3, ok=lands)
            if pick % 2 and len(self.running) > num_running:
                self.release(num_running)

    @precondition(lambda self: self.disk is not None)
    @rule(num_pages=st.sampled_from([4, 10, 24]), num_slots=st.sampled_from([2, 8, 40]))
    def restart(self, num_pages: int, num_slots: int) -> None:
        """The process ends, and another one begins with what is in files."""
        self.perform_all()
        self.in_flight.clear()
        for request in list(self.running):
            self.end(request, request.num_computed)
        self.tiers.close(1.0)
        self.build(num_pages, num_slots, has_disk=True)
        self.name_public(self.public.named)

    @rule(
        picks=st.sets(st.integers(0, 4)),
        num_tokens=st.integers(1, 30),
        max_loads=st.sampled_from([1, 2, 100]),
        max_backups=st.sampled_from([0, 1, 100]),
        is_eager=st.booleans(),
    )
    def step(
        self,
        picks: set[int],
        num_tokens: int,
        max_loads: int,
        max_backups: int,
        is_eager: bool,
    ) -> None:
        self.launch(picks, num_tokens, max_loads, max_backups, is_eager=is_eager)

    @precondition(lambda self: self.in_flight)
    @rule(count=st.integers(1, 3), ok=st.sampled_from([True, True, True, False]))
    def land_some(self, count: int, ok: bool) -> None:
        self.land(count, ok=ok)

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 4))
    def commit(self, pick: int) -> None:
        self.commit_one(self.running[pick % len(self.running)])

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 4))
    def release(self, pick: int) -> None:
        """A request ends, whatever of it is in flight."""
        request = self.running[pick % len(self.running)]
        self.end(request, request.num_computed)

    @precondition(lambda self: any(request.loading for request in self.running))
    @rule(pick=st.integers(0, 4))
    def give_up_loading(self, pick: int) -> None:
        loading = self.running[pick % len(self.running)].loading
        if loading is not None:
            loading.close()

    # What else happens

    @rule(num_pages=st.sampled_from([1, 2, 3, 1000, 1000]))
    def make_room(self, num_pages: int) -> None:
        self.cache.evict(num_pages)

    @rule(namespace=st.sampled_from([None, *NAMESPACES]), really=st.integers(0, 3))
    def clear(self, namespace: Namespace | None, really: int) -> None:
        if really:
            return
        self.cache.clear(namespace)
        self.tiers.clear(namespace)
        # Nothing that was on its way comes after all.
        self.land(count=3, ok=True)
        self.settle_disk()
        self.tiers.collect()
        owner = None if namespace is None else self.namer.owner_name(namespace)
        keys = [self.tiers._slots.key(SlotId(slot)) for slot in range(len(self.host))]
        assert not [key for key in keys if key and owner in (None, key.owner)]
        if isinstance(self.disk, SlowDisk):
            assert not [key for key in self.disk.files if owner in (None, key.owner)]

    @rule(prefixes=PREFIXES, really=st.integers(0, 2))
    def set_public(self, prefixes: list[Tokens], really: int) -> None:
        if really == 0:
            self.name_public(prefixes)

    @rule()
    def fail_next_allocation(self) -> None:
        self.pool.fails = True

    @rule(num_taken=st.integers(0, 3), really=st.integers(0, 2))
    def interrupt(self, num_taken: int, really: int) -> None:
        """Slots and stores have been taken for a plan that is never launched."""
        if really:
            return
        for request in self.running:
            if request.loading is not None and request.loading.take(num_taken):
                request.loading.close()
        if num_taken == 3:
            self.tiers.take_stores()
        self.tiers.recover(plan.moves for plan in self.in_flight)

    @precondition(lambda self: self.disk is not None)
    @rule(which=st.integers(0, 10), num_jobs=st.integers(1, 5), fails=st.sampled_from([0, 0, 1]))
    def end_jobs(self, which: int, num_jobs: int, fails: int) -> None:
        assert self.disk is not None
        self.disk.num_failures = fails
        for _ in range(num_jobs):
            self.disk.end_one(which)
        self.disk.num_failures = 0

    @rule()
    def collect(self) -> None:
        self.tiers.collect()
        assert not self.tiers.has_news

    @invariant()
    def all_is_well(self) -> None:
        self.check()

    def teardown(self) -> None:
        """Everything comes to an end when everything goes well."""
        if not hasattr(self, "tiers"):
            return
        for _ in range(500):
            self.settle_disk()
            self.tiers.collect()
            loading = [one for one in self.running if one.loading and not one.loading.is_over]
            if not loading:
                break
            self.launch({self.running.index(one) for one in loading}, 1, 100, 0, is_eager=True)
            self.land(count=3, ok=True)
        assert not loading, f"{loading} never end"
        self.land(count=3, ok=True)
        for request in list(self.running):
            self.end(request, request.num_computed)
        for _ in range(500):
            self.settle_disk()
            self.tiers.collect()
            if not self.tiers.has_chores:
                break
            self.launch(set(), 1, 0, 100, is_eager=True)
            self.land(count=3, ok=True)
        assert not self.tiers.has_chores
        # The end of one write lets the next begin.
        for _ in range(500):
            if not self.tiers.is_busy:
                break
            self.settle_disk()
            self.tiers.collect()
        self.check()
        assert self.tiers.info().host_in_use_pages == 0
        assert not self.tiers.is_busy
        self.tiers.close(0.0)


class RealDiskMachine(TiersMachine):
    """The same with threads and files, which are damaged now and then."""

    def make_disk(self) -> Any:
        if not hasattr(self, "folder"):
            self.folder = tempfile.TemporaryDirectory()
        directory = PageDirectory(
            self.folder.name, FINGERPRINT, self.contents.page_bytes, limit_bytes=20_000
        )
        return DiskTier(directory, self.host)

    @rule(which=st.integers(0, 10), num_jobs=st.integers(1, 5), fails=st.sampled_from([0, 0, 1]))
    def end_jobs(self, which: int, num_jobs: int, fails: int) -> None:
        if self.disk is None:
            return
        self.disk.wait(10.0)
        if fails:
            files = sorted(Path(self.folder.name).glob("*/*/*.safetensors"))
            if files:
                # A thread may be about to remove it.
                with (
                    contextlib.suppress(FileNotFoundError),
                    files[which % len(files)].open("r+b") as f,
                ):
                    at = f.seek(-1 - which, os.SEEK_END)
                    damaged = f.read(1)[0] ^ 1 << which % 8
                    f.seek(at)
                    f.write(bytes([damaged]))

    def settle_disk(self) -> None:
        while self.tiers.is_busy:
            assert self.tiers.wait(10.0)
            self.tiers.collect()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestTiers = TiersMachine.TestCase
TestTiers.settings = settings(max_examples=180, stateful_step_count=50)

TestTiersOnFiles = RealDiskMachine.TestCase
# Threads do not repeat themselves, so there is nothing to shrink.
TestTiersOnFiles.settings = settings(
    max_examples=15, stateful_step_count=40, phases=[Phase.generate]
)
