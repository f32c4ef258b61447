"""The directory against a dict, with calls that fail, files that are damaged, and restarts."""

import contextlib
import errno
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from radixserve.errors import ConfigError
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_file import PageBytes, file_bytes
from radixserve.tiers.page_names import PageKey
from tests.tiers.failing_os import CALLS, ERRNOS, use_failing_os

PAGE_BYTES = 40
FILE_BYTES = file_bytes(PAGE_BYTES)
MODELS = (b"model-one", b"model-two")
OWNERS = ("00000000000000aa", "00000000000000bb", "00000000000000cc")


def key_of(number: int) -> PageKey:
    return PageKey(OWNERS[number % 3], bytes([number]) * 16, bytes([number + 1]) * 32)


KEYS = [key_of(number) for number in range(9)]


def page_of(key: PageKey, model: bytes) -> PageBytes:
    seed = int.from_bytes(key.identity[:4] + model, "little")
    return np.random.default_rng(seed).integers(0, 256, PAGE_BYTES, dtype=np.uint8)


@dataclass
class File:
    """What the oracle knows of one."""

    used: int
    """Grows with each use."""
    is_sound: bool = True


class DirectoryMachine(RuleBasedStateMachine):
    """While nothing fails, the directory is exactly the dict; whatever fails, it never holds more
    than its limit, and what it gives is right."""

    @initialize(limit=st.integers(1, 7), slack=st.integers(0, FILE_BYTES - 2))
    def start(self, limit: int, slack: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.num_fds = len(os.listdir("/proc/self/fd"))
        self.temporary = tempfile.TemporaryDirectory()
        self.path = Path(self.temporary.name) / "cache"
        self.os = use_failing_os(self.patch)
        self.limit_bytes = limit * FILE_BYTES + slack
        self.model = MODELS[0]
        self.clock = 0
        self.files: dict[tuple[bytes, PageKey], File] = {}
        self.is_exact = True
        """Nothing has failed since the books and the files were known to agree."""
        self.was_scanned = True
        """The last start could look at everything."""
        self.directory = self.make()

    def teardown(self) -> None:
        self.os.fail_at.clear()
        self.directory.close()
        self.directory.close()
        self.patch.undo()
        self.temporary.cleanup()
        assert len(os.listdir("/proc/self/fd")) == self.num_fds

    def make(self) -> PageDirectory:
        return PageDirectory(self.path, self.model, PAGE_BYTES, self.limit_bytes)

    def file_of(self, model: bytes, key: PageKey) -> Path:
        return self.path / model[:8].hex() / key.owner / f"{key.name.hex()}.safetensors"

    def oldest(self) -> tuple[bytes, PageKey]:
        """Another model's first."""
        return min(self.files, key=lambda one: (one[0] == self.model, self.files[one].used))

    def evict(self, num_bytes: int) -> None:
        while (len(self.files)) * FILE_BYTES + num_bytes > self.limit_bytes:
            del self.files[self.oldest()]

    def used(self) -> int:
        self.clock += 1
        return self.clock

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """If a call fails meanwhile, the oracle learns from the directory what is left."""
        before = self.os.num_failures
        yield
        if self.os.num_failures != before:
            self.is_exact = False

    @rule(number=st.integers(0, 8))
    def write(self, number: int) -> None:
        key = KEYS[number]
        with self.watched():
            done = self.directory.write(key, page_of(key, self.model))
        if self.is_exact:
            assert done
            self.evict(FILE_BYTES)
            self.files[self.model, key] = File(self.used())
        assert not done or self.directory.contains(key.owner, key.name)

    @rule(number=st.integers(0, 8), wrong_identity=st.booleans())
    def read(self, number: int, wrong_identity: bool) -> None:
        key = KEYS[number]
        asked = key._replace(identity=bytes(32)) if wrong_identity else key
        into = np.zeros(PAGE_BYTES, dtype=np.uint8)
        with self.watched():
            done = self.directory.read(asked, into)
        if done:
            assert not wrong_identity
            assert (into == page_of(key, self.model)).all()
        if self.is_exact:
            file = self.files.get((self.model, key))
            assert done is (file is not None and file.is_sound and not wrong_identity)
            if not done:
                self.files.pop((self.model, key), None)

    @rule(numbers=st.lists(st.integers(0, 8), unique=True, max_size=4))
    def touch(self, numbers: list[int]) -> None:
        keys = [KEYS[number] for number in numbers]
        with self.watched():
            self.directory.touch(keys)
        for key in reversed(keys):
            if (self.model, key) in self.files:
                self.files[self.model, key].used = self.used()

    @rule(number=st.integers(0, 8))
    def remove(self, number: int) -> None:
        key = KEYS[number]
        with self.watched():
            self.directory.remove(key.owner, key.name)
        assert not self.directory.contains(key.owner, key.name)
        self.files.pop((self.model, key), None)

    @rule(owner=st.sampled_from((*OWNERS, None)), sweeps=st.booleans())
    def clear(self, owner: str | None, sweeps: bool) -> None:
        with self.watched():
            self.directory.clear(owner)
        for model, key in list(self.files):
            if model == self.model and owner in (None, key.owner):
                assert not self.directory.contains(key.owner, key.name)
                del self.files[model, key]
        if sweeps:
            self.sweep()
            if self.is_exact:
                assert not list(self.path.rglob("*.gone"))

    def sweep(self) -> None:
        with self.watched():
            while self.directory.sweep():
                pass

    @rule(
        number=st.integers(0, 8),
        how=st.sampled_from(("flip", "cut", "gone", "folder", "pipe", "link")),
    )
    def damage(self, number: int, how: str) -> None:
        file = self.file_of(self.model, KEYS[number])
        if not file.is_file() or file.is_symlink():
            return
        blob = bytearray(file.read_bytes())
        state = file.stat()
        if how in ("flip", "cut"):
            blob[self.clock % len(blob)] ^= 1
            file.write_bytes(blob if how == "flip" else blob[:-1])
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        elif how == "gone":
            file.unlink()
        else:
            file.unlink()
            elsewhere = self.path / "elsewhere"
            elsewhere.write_bytes(blob)
            if how == "folder":
                file.mkdir()
            elif how == "pipe":
                os.mkfifo(file)
            else:
                file.symlink_to(elsewhere)
            # A folder cannot be removed as a file: such bytes count until the next start.
            self.is_exact = False
        if (entry := self.files.get((self.model, KEYS[number]))) is not None:
            entry.is_sound = False

    @rule(
        call=st.sampled_from(CALLS),
        errors=st.lists(st.sampled_from((0, *ERRNOS)), min_size=1, max_size=4),
    )
    def arm(self, call: str, errors: list[int]) -> None:
        self.os.fail_at[call] = list(errors)

    @rule(seed=st.none() | st.integers(0, 9))
    def move_bytes_in_parts(self, seed: int | None) -> None:
        self.os.short_rng = None if seed is None else random.Random(seed)

    @precondition(lambda self: self.os.fail_at)
    @rule()
    def calm(self) -> None:
        self.os.fail_at.clear()

    @rule(other_model=st.booleans())
    def restart(self, other_model: bool) -> None:
        self.directory.close()
        if other_model:
            self.model = MODELS[self.model == MODELS[0]]
        before = num_failures = self.os.num_failures
        try:
            self.directory = self.make()
        except ConfigError:
            assert self.os.num_failures > num_failures
            # Nothing of the failed start holds the lock.
            self.os.fail_at.clear()
            before = self.os.num_failures
            self.directory = self.make()
        self.was_scanned = self.os.num_failures == before
        self.sweep()
        if self.os.num_failures == before and not self.is_exact:
            self.look_again()
        elif self.os.num_failures != before:
            self.is_exact = False
        elif self.is_exact:
            # What has vanished is noticed now.
            self.files = {one: self.files[one] for one in self.files if self.file_of(*one).exists()}
            self.evict(0)

    def look_again(self) -> None:
        """A start without failures: the files are what there is, in the order of their times."""
        found = [
            (path.stat().st_mtime_ns, model, key)
            for model in MODELS
            for key in KEYS
            if (path := self.file_of(model, key)).is_file() and not path.is_symlink()
        ]
        # A damaged file may be longer or shorter; sizes are made equal so that sums are simple.
        sizes = {self.file_of(model, key).stat().st_size for _, model, key in found}
        if sizes - {FILE_BYTES} or len({time for time, _, _ in found}) != len(found):
            return
        self.files.clear()
        for _, model, key in sorted(found):
            blob = self.file_of(model, key).read_bytes()
            is_sound = blob.endswith(page_of(key, model).tobytes()) and key.identity.hex() in str(
                blob
            )
            self.files[model, key] = File(self.used(), is_sound)
        self.is_exact = not list(self.path.rglob("elsewhere"))

    @invariant()
    def the_limit_holds(self) -> None:
        if not hasattr(self, "directory") or not self.was_scanned:
            return
        self.directory.check_invariants()
        on_disk = sum(
            path.lstat().st_size
            for path in self.path.rglob("*")
            if path.is_file() and path.suffix in (".safetensors", ".tmp") and not path.is_symlink()
        )
        assert on_disk <= self.limit_bytes
        assert on_disk <= self.directory.used_bytes

    @invariant()
    def it_is_the_dict(self) -> None:
        if not hasattr(self, "directory") or not self.is_exact:
            return
        for key in KEYS:
            held = self.directory.contains(key.owner, key.name)
            assert held is ((self.model, key) in self.files), key
        assert self.directory.num_pages == sum(model == self.model for model, _ in self.files)
        for (model, key), file in self.files.items():
            assert self.file_of(model, key).exists() or not file.is_sound


TestDirectoryMachine = DirectoryMachine.TestCase
TestDirectoryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_machine_has_errors_of_every_sort() -> None:
    assert {errno.ENOSPC, errno.EIO, errno.EROFS} <= set(ERRNOS)
