"""The directory in situations that have a name. In all others: test_page_directory_stateful.py."""

import errno
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from radixserve.errors import ConfigError
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_file import PageBytes, encode_page, file_bytes
from radixserve.tiers.page_index import PageIndex
from radixserve.tiers.page_names import PageKey
from radixserve.tiers.quiet_log import QuietLog
from tests.tiers.failing_os import use_failing_os

ROOT = Path(__file__).resolve().parents[2]
PAGE_BYTES = 1000
FILE_BYTES = file_bytes(PAGE_BYTES)
MODEL = b"a model's"
OTHER_MODEL = b"another's"
ALICE, BOB = "00000000000a11ce", "0000000000000b0b"


def key_of(number: int, owner: str = ALICE) -> PageKey:
    return PageKey(owner, number.to_bytes(16, "big"), number.to_bytes(32, "big"))


def page_of(key: PageKey) -> PageBytes:
    seed = int.from_bytes(bytes.fromhex(key.owner) + key.name, "big")
    return np.random.default_rng(seed).integers(0, 256, PAGE_BYTES, dtype=np.uint8)


def open_at(path: Path | str, *, num_files: int = 100, model: bytes = MODEL) -> PageDirectory:
    return PageDirectory(path, model, PAGE_BYTES, num_files * FILE_BYTES)


def write(directory: PageDirectory, *keys: PageKey) -> None:
    for key in keys:
        assert directory.write(key, page_of(key))


def is_read(directory: PageDirectory, key: PageKey) -> bool:
    into = np.zeros(PAGE_BYTES, dtype=np.uint8)
    if not directory.read(key, into):
        return False
    assert (into == page_of(key)).all()
    return True


def held(directory: PageDirectory, owner: str = ALICE) -> list[int]:
    return [number for number in range(20) if directory.contains(owner, key_of(number).name)]


def files_in(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")


def test_it_is_found_again_after_a_restart(tmp_path: Path) -> None:
    first = open_at(tmp_path / "new" / "cache")
    write(first, key_of(1), key_of(2, BOB))
    first.close()
    assert not first.contains(ALICE, key_of(3).name)
    second = open_at(tmp_path / "new" / "cache")
    assert is_read(second, key_of(1))
    assert is_read(second, key_of(2, BOB))
    assert not is_read(second, key_of(2))
    assert (second.num_pages, second.used_bytes) == (2, 2 * FILE_BYTES)
    assert (second.num_stored, second.num_rejected) == (0, 0)
    second.close()


def test_what_was_used_longest_ago_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    directory = open_at(tmp_path, num_files=4)
    write(directory, *map(key_of, range(4)))
    directory.touch([key_of(0), key_of(1)])
    directory.close()
    directory = open_at(tmp_path, num_files=4)
    # Of a touched prefix the first page stays longest: the others are of no use without it.
    for number, left in ((10, [0, 1, 3]), (11, [0, 1]), (12, [0])):
        write(directory, key_of(number))
        assert [number for number in held(directory) if number < 10] == left
    directory.close()


def test_other_models_pages_go_first_and_count(tmp_path: Path) -> None:
    other = open_at(tmp_path, model=OTHER_MODEL)
    write(other, *map(key_of, range(3)))
    other.close()
    directory = open_at(tmp_path, num_files=4)
    assert (directory.num_pages, directory.used_bytes) == (0, 3 * FILE_BYTES)
    write(directory, *map(key_of, range(3)))
    assert held(directory) == [0, 1, 2]
    directory.clear(None)
    sweep(directory)
    directory.close()
    other = open_at(tmp_path, model=OTHER_MODEL)
    # The two that were stored first made room, and clearing is of one's own model.
    assert held(other) == [2]
    other.close()


def sweep(directory: PageDirectory) -> None:
    while directory.sweep():
        directory.check_invariants()


@pytest.mark.parametrize("by_writing", [False, True])
def test_a_lower_limit(tmp_path: Path, by_writing: bool) -> None:
    directory = open_at(tmp_path)
    write(directory, *map(key_of, range(5)))
    directory.close()
    directory = open_at(tmp_path, num_files=2)
    if by_writing:
        write(directory, key_of(5))
        assert held(directory) == [4, 5]
    else:
        sweep(directory)
        assert held(directory) == [3, 4]
    assert len(files_in(tmp_path)) == 2
    assert directory.used_bytes == 2 * FILE_BYTES
    directory.close()


def test_a_limit_below_one_page(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"may hold 1,000 bytes, and one page's file has 1,2"):
        PageDirectory(tmp_path, MODEL, PAGE_BYTES, 1000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("mine"), "File exists"),
        (lambda path: path.symlink_to(path / "nowhere"), "File exists"),
        (lambda path: (path.mkdir(), (path / MODEL[:8].hex()).write_text("")), "Not a directory"),
        (
            lambda path: (path.mkdir(), (path / MODEL[:8].hex()).symlink_to("/")),
            "Not a directory|Too many levels",
        ),
        (lambda path: (path.mkdir(), (path / "lock").mkdir()), "Is a directory"),
    ],
    ids=["a file", "a dangling link", "a file in it", "a link in it", "a folder called lock"],
)
def test_a_path_that_will_not_do(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "cache"
    make(path)
    with pytest.raises(ConfigError, match=reason) as caught:
        open_at(path)
    assert "give one that this user may read and write" in str(caught.value)


@pytest.mark.parametrize("call", ["open", "mkdir", "scandir"])
def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    failing = use_failing_os(monkeypatch)
    failing.fail_at[call] = [errno.EROFS]
    with pytest.raises(ConfigError, match="cannot be used: Read-only file system; give one"):
        open_at(tmp_path)
    open_at(tmp_path).close()


def test_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = open_at("~/cache")
    assert directory.path == tmp_path / "cache"
    directory.close()


def test_it_is_the_users_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache"
    directory = open_at(path)
    write(directory, key_of(1))
    modes = {stat.S_IMODE(one.lstat().st_mode) for one in [path, *path.rglob("*")]}
    assert modes == {0o700, 0o600}
    directory.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    path.chmod(0o777)
    open_at(path).close()
    assert "others may write into the cache directory" in caplog.text


def test_another_users_directory_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache"
    open_at(path).close()
    assert "others may write" not in caplog.text
    real = os.fstat

    def of_somebody_else(fd: int) -> os.stat_result:
        state = list(real(fd))
        state[stat.ST_UID] = os.geteuid() + 1
        return os.stat_result(state)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", of_somebody_else)
        open_at(path).close()
    assert "others may write into the cache directory" in caplog.text


# Holds the lock, then says so and waits.
HOLDER = """
import os, sys, time
from radixserve.tiers.page_directory import PageDirectory
directory = PageDirectory(sys.argv[1], b"a model's", 1000, 10**6)
if sys.argv[2:] == ["fork"] and os.fork() > 0:
    sys.stdin.close()
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


def start_holder(path: Path, *arguments: str) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_one_server_at_a_time(tmp_path: Path) -> None:
    holder = start_holder(tmp_path)
    with holder:
        with pytest.raises(ConfigError, match=rf"in use by another server \(process {holder.pid}"):
            open_at(tmp_path)
        holder.send_signal(signal.SIGKILL)
    directory = open_at(tmp_path)
    # Within a process as well; and a failed attempt takes nothing away from who holds it.
    for _ in range(2):
        with pytest.raises(ConfigError, match="stop that one, or give this one a directory"):
            open_at(tmp_path)
    directory.close()
    open_at(tmp_path).close()


def test_children_do_not_hold_it_on(tmp_path: Path) -> None:
    # The holder has ended and left a forked child behind, which runs.
    with start_holder(tmp_path, "fork") as holder:
        holder.wait(60)
        open_at(tmp_path).close()
        assert holder.stdin is not None
        holder.stdin.close()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        ConfigError, match=r"cannot be locked \(No locks available\); choose one on"
    ):
        open_at(tmp_path)


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    own = tmp_path / MODEL[:8].hex() / ALICE
    own.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{'0' * 31}1.safetensors").write_bytes(b"theirs")
    foreign = [
        tmp_path / "notes.txt",
        own / "notes.txt",
        own / ("A" * 32 + ".safetensors"),
        own / ("0" * 31 + ".safetensors"),
        own / ("0" * 32 + ".safetensors.tmp"),
        own.parent / "notes.txt",
    ]
    for file in foreign:
        file.write_text("theirs")
    (own.parent / BOB).symlink_to(elsewhere)
    directory = open_at(tmp_path, num_files=2)
    assert (directory.num_pages, directory.used_bytes) == (0, 0)
    # Not through a link, either.
    assert not directory.write(key_of(1, BOB), page_of(key_of(1, BOB)))
    for number in range(5):
        write(directory, key_of(number))
    directory.clear(None)
    sweep(directory)
    directory.close()
    assert (elsewhere / f"{'0' * 31}1.safetensors").read_bytes() == b"theirs"
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]
    assert sum(path.read_text() == "theirs" for path in kept) == len(foreign) + 1


def test_what_a_kill_leaves_is_removed(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    write(directory, key_of(1), key_of(2, BOB))
    directory.clear(BOB)
    directory.close()
    # As SIGKILL would leave it: a clear that was not swept, a file that was not renamed.
    own = tmp_path / MODEL[:8].hex()
    assert len(list(own.glob("*.gone"))) == 1
    (own / ALICE / f"{'0' * 32}.5.tmp").write_bytes(b"half")
    (own / BOB).mkdir()
    directory = open_at(tmp_path)
    # A clear may have been of many files: a start does not wait for their end.
    assert directory.used_bytes == 2 * FILE_BYTES
    directory.check_invariants()
    sweep(directory)
    assert directory.used_bytes == FILE_BYTES
    assert [path.name for path in own.iterdir()] == [ALICE]
    assert len(files_in(tmp_path)) == 1
    assert is_read(directory, key_of(1))
    assert not directory.contains(BOB, key_of(2, BOB).name)
    directory.close()


def test_an_evicted_owners_folder_goes(tmp_path: Path) -> None:
    directory = open_at(tmp_path, num_files=1)
    write(directory, key_of(1), key_of(1, BOB))
    own = tmp_path / MODEL[:8].hex()
    assert [path.name for path in own.iterdir()] == [BOB]
    directory.close()


@pytest.mark.parametrize("call", ["mkdir", "open", "writev", "utime", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    number: int,
) -> None:
    failing = use_failing_os(monkeypatch)
    directory = open_at(tmp_path)
    for _ in range(3):
        failing.fail_at[call] = [number]
        assert not directory.write(key_of(1), page_of(key_of(1)))
    assert not files_in(tmp_path)
    assert directory.used_bytes == 0
    assert caplog.text.count("a page was not stored") == 1
    write(directory, key_of(1))
    assert is_read(directory, key_of(1))
    directory.close()


def test_a_full_disk_in_the_middle_of_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = use_failing_os(monkeypatch)
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    failing.fail_at["writev"] = [0, errno.ENOSPC]
    failing.short_rng = random.Random(0)
    assert not directory.write(key_of(1), page_of(key_of(1)))
    # What was there before is there still, whole.
    assert is_read(directory, key_of(1))
    assert len(files_in(tmp_path)) == 1
    directory.close()


def test_what_a_failed_write_leaves_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = use_failing_os(monkeypatch)
    directory = open_at(tmp_path, num_files=2)
    failing.fail_at = {"utime": [errno.EIO], "unlink": [errno.EIO]}
    assert not directory.write(key_of(1), page_of(key_of(1)))
    assert [file.suffix for file in files_in(tmp_path)] == [".tmp"]
    assert directory.used_bytes == FILE_BYTES
    write(directory, key_of(2), key_of(3))
    assert held(directory) == [3]
    directory.close()
    directory = open_at(tmp_path)
    assert directory.used_bytes == FILE_BYTES
    directory.close()


def test_passing_trouble_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = use_failing_os(monkeypatch)
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    failing.fail_at["open"] = [errno.EMFILE]
    assert not is_read(directory, key_of(1))
    assert is_read(directory, key_of(1))
    failing.fail_at["readv"] = [errno.EIO]
    assert not is_read(directory, key_of(1))
    assert not directory.contains(ALICE, key_of(1).name)
    directory.close()


def test_nobody_is_blamed_for_what_was_cleared_while_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    failing = use_failing_os(monkeypatch)

    def clear(call: str) -> None:
        failing.before = lambda call: None
        directory.clear(None)

    failing.before = clear
    assert not is_read(directory, key_of(1))
    assert "removed by somebody else" not in caplog.text
    directory.close()


def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = use_failing_os(monkeypatch)
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    (file,) = files_in(tmp_path)

    def shrink(call: str) -> None:
        if call == "readv":
            os.truncate(file, 700)

    failing.before = shrink
    assert not is_read(directory, key_of(1))
    assert "it ends after 700 bytes" in caplog.text
    directory.close()


def test_a_file_with_more_behind_it(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    (file,) = files_in(tmp_path)
    with file.open("ab") as stream:
        stream.write(b"\x00")
    assert not is_read(directory, key_of(1))
    assert directory.num_rejected == 1
    directory.close()


def test_a_link_in_a_files_place(tmp_path: Path) -> None:
    directory = open_at(tmp_path / "cache")
    write(directory, key_of(1))
    (file,) = files_in(tmp_path)
    file.rename(tmp_path / "sound")
    file.symlink_to(tmp_path / "sound")
    assert not is_read(directory, key_of(1))
    assert not file.is_symlink()
    assert (tmp_path / "sound").exists()
    directory.close()


def test_damage_is_counted_and_logged_with_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    (file,) = files_in(tmp_path)
    file.write_bytes(encode_page(key_of(2).identity, page_of(key_of(2))))
    assert not is_read(directory, key_of(1))
    assert f"{file} is not used: it holds the page of another prefix" in caplog.text
    assert directory.num_rejected == 1
    assert not file.exists()
    directory.close()


@pytest.mark.parametrize("owner", [ALICE, None])
@pytest.mark.parametrize("call", ["open", "writev", "utime"])
def test_cleared_while_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str | None, call: str
) -> None:
    failing = use_failing_os(monkeypatch)
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    cleared: list[str] = []

    def clear(name: str) -> None:
        if name == call and not cleared:
            cleared.append(name)
            directory.clear(owner)

    failing.before = clear
    assert not directory.write(key_of(2), page_of(key_of(2)))
    assert cleared
    sweep(directory)
    assert not files_in(tmp_path)
    assert directory.used_bytes == 0
    write(directory, key_of(2))
    directory.close()


def test_not_wanted_any_more_when_it_was_whole(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    answers = iter([True, False])
    assert not directory.write(key_of(1), page_of(key_of(1)), lambda: next(answers))
    assert not files_in(tmp_path)
    assert not directory.contains(ALICE, key_of(1).name)
    directory.close()


def test_many_files_are_deleted_bit_by_bit(tmp_path: Path) -> None:
    directory = open_at(tmp_path, num_files=500)
    keys = [key_of(number) for number in range(450)]
    write(directory, *keys)
    directory.clear(None)
    assert directory.num_pages == 0
    assert directory.used_bytes == 450 * FILE_BYTES
    left = []
    while directory.sweep():
        directory.check_invariants()
        left.append(len(files_in(tmp_path)))
        assert directory.used_bytes == left[-1] * FILE_BYTES
    assert left == [250, 50]
    assert directory.used_bytes == 0
    assert not files_in(tmp_path)
    directory.close()


def test_what_cannot_be_deleted_does_not_keep_the_rest(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    for number in range(20):
        write(directory, key_of(number))
    (folder,) = tmp_path.glob(f"*/{ALICE}")
    for number in range(100, 105):
        (folder / f"{number:032x}.safetensors").mkdir()
    directory.clear(None)
    assert directory.sweep()
    assert not [path for path in tmp_path.rglob("*.safetensors") if path.is_file()]
    assert directory.used_bytes == 0
    # Nobody is to call for the rest.
    assert not directory.sweep()
    directory.check_invariants()
    directory.close()


def test_cleared_files_make_room_first(tmp_path: Path) -> None:
    directory = open_at(tmp_path, num_files=4)
    write(directory, *map(key_of, range(2)), key_of(0, BOB), key_of(1, BOB))
    directory.clear(BOB)
    write(directory, key_of(2), key_of(3))
    assert held(directory) == [0, 1, 2, 3]
    directory.close()


def test_a_file_without_an_entry_is_cleared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = use_failing_os(monkeypatch)
    directory = open_at(tmp_path)
    write(directory, key_of(1), key_of(1, BOB))
    for owner in (ALICE, BOB):
        failing.fail_at["unlink"] = [errno.EIO]
        directory.remove(owner, key_of(1).name)
    assert directory.num_pages == 0
    assert directory.used_bytes == 2 * FILE_BYTES, "what is there counts"
    directory.clear(ALICE)
    sweep(directory)
    assert [file.parent.name for file in files_in(tmp_path)] == [BOB]
    directory.clear(None)
    sweep(directory)
    assert not files_in(tmp_path)
    directory.close()


def test_after_it_was_closed(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    write(directory, key_of(1))
    directory.close()
    assert not directory.write(key_of(2), page_of(key_of(2)))
    assert not is_read(directory, key_of(1))
    directory.touch([key_of(1)])
    directory.remove(ALICE, key_of(1).name)
    directory.clear(None)
    sweep(directory)
    directory.close()
    assert len(files_in(tmp_path)) == 1


def test_many_threads(tmp_path: Path) -> None:
    directory = open_at(tmp_path, num_files=6)
    keys = [key_of(number, owner) for number in range(5) for owner in (ALICE, BOB)]
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        into = np.zeros(PAGE_BYTES, dtype=np.uint8)
        for _ in range(150):
            key = keys[rng.integers(len(keys))]
            match rng.integers(8):
                case 0 | 1 | 2:
                    directory.write(key, page_of(key))
                case 3 | 4 | 5:
                    if directory.read(key, into) and (into != page_of(key)).any():
                        wrong.append(key)
                case 6:
                    directory.touch([key])
                case _ if rng.integers(8) == 0:
                    directory.clear(key.owner)
                case _:
                    directory.remove(key.owner, key.name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    sweep(directory)
    directory.check_invariants()
    assert sum(file.stat().st_size for file in files_in(tmp_path)) == directory.used_bytes
    assert directory.num_rejected == 0
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".tmp", ".gone")]
    directory.close()


def test_a_line_of_a_kind_in_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    quiet = QuietLog(logging.getLogger("quiet"), interval_s=10.0, clock=lambda: now_s)
    for _ in range(5):
        quiet.warning("one", "it went %s", "wrong")
    quiet.warning("other", "and this")
    assert caplog.messages == ["it went wrong", "and this"]
    now_s += 10.0
    quiet.warning("one", "it went %s", "wrong")
    quiet.warning("other", "and this")
    now_s += 10.0
    quiet.warning("one", "it went %s", "wrong")
    assert caplog.messages[2:] == [
        "it went wrong (and 4 more like this since the last line)",
        "and this",
        "it went wrong",
    ]


def test_entries_are_small() -> None:
    # The figure that page_index.py states, on this machine's Python.
    tracemalloc.start()
    index = PageIndex()
    for number in range(20_000):
        index.add(b"12345678" + number.to_bytes(16, "big"), FILE_BYTES)
    num_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert num_bytes / 20_000 < 200


def test_the_path_may_be_a_link(tmp_path: Path) -> None:
    # What the user names is followed; only what is ours is not.
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    directory = open_at(tmp_path / "link")
    write(directory, key_of(1))
    directory.close()
    assert len(files_in(tmp_path / "disk")) == 1
    assert os.listdir(tmp_path / "disk" / MODEL[:8].hex()) == [ALICE]
