"""How kernels for processors are kept on disk, and found there by later processes."""

import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite
import numba
import pytest
import torch
from numba import prange

from radixserve_kernels.cpu import compiling, keeping
from radixserve_kernels.cpu.numbers import FLOAT32, load, store

LOGGER = "radixserve.kernels"


def make_scale(factor: float) -> Any:
    def scale(x, count):  # type: ignore[no-untyped-def] # kernels have no types
        for index in prange(count):
            store(x, index, FLOAT32, load(x, index, FLOAT32) * factor)

    return compiling.kernel(scale)


def run(scale: Any, factor: float = 3.0) -> tuple[int, int]:
    """How many kernels it found, and how many it compiled. What it computes is right."""
    x = torch.arange(100.0)
    scale(x.data_ptr(), 100)
    assert torch.equal(x, torch.arange(100.0) * factor)
    stats = scale.dispatcher.stats
    return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kernels are kept during the test."""
    monkeypatch.setattr(keeping, "cache_directory", lambda: tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a kernel, compiled once for all tests."""
    directory = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "cache_directory", lambda: directory)
        assert run(make_scale(3.0)) == (0, 1)
    (file,) = directory.iterdir()
    return file


@pytest.fixture
def compiled(example: Path, directory: Path) -> Path:
    """The file of a kernel that has been compiled."""
    return Path(shutil.copy(example, directory))


def test_a_kernel_is_compiled_once(compiled: Path) -> None:
    assert compiled.suffix == keeping.SUFFIX
    assert run(make_scale(3.0)) == (1, 0)
    assert list(compiled.parent.iterdir()) == [compiled]


def test_kernels_of_other_constants_are_others(compiled: Path) -> None:
    assert run(make_scale(2.0), 2.0) == (0, 1)
    assert len(list(compiled.parent.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        # A bit of what is machine code.
        lambda content: content[:-500] + bytes([content[-500] ^ 1]) + content[-499:],
        # Whole, but not what it should be.
        lambda content: sha256(b"junk").digest() + b"junk",
        lambda content: sha256(pickle.dumps((1, 2))).digest() + pickle.dumps((1, 2)),
    ],
    ids=["empty", "half", "longer", "bit", "no pickle", "no kernel"],
)
def test_a_damaged_file_is_replaced(
    damage: Callable[[bytes], bytes], compiled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = compiled.read_bytes()
    compiled.write_bytes(damage(content))
    with caplog.at_level(logging.WARNING, LOGGER):
        assert run(make_scale(3.0)) == (0, 1)
    assert str(compiled) in caplog.text
    caplog.clear()
    assert run(make_scale(3.0)) == (1, 0)
    assert not caplog.text


def test_a_file_that_cannot_be_read_counts_as_absent(compiled: Path) -> None:
    compiled.unlink()
    compiled.mkdir()
    assert run(make_scale(3.0)) == (0, 1)


def test_a_full_disk_does_not_matter(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    assert run(make_scale(3.0)) == (0, 1)
    assert "no space left" in caplog.text
    assert list(directory.iterdir()) == []


def test_without_a_directory_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "cache_directory", lambda: None)
    assert [run(make_scale(3.0)) for _ in range(2)] == [(0, 1), (0, 1)]


def test_what_is_made_of_more_than_constants_is_not_kept(directory: Path) -> None:
    triple = compiling.inner(lambda number: number * 3)

    def scale(x, count):  # type: ignore[no-untyped-def] # kernels have no types
        for index in prange(count):
            store(x, index, FLOAT32, triple(load(x, index, FLOAT32)))

    assert run(compiling.kernel(scale)) == (0, 1)
    assert list(directory.iterdir()) == []


def test_files_nobody_reads_are_deleted(compiled: Path) -> None:
    now = time.time()
    old, left_over = compiled.with_name("old.kernel"), compiled.with_name("tmp123")
    for path, age in ((old, 2.0), (left_over, 1.1), (compiled, 1.1)):
        path.touch()
        os.utime(path, (now, now - age * keeping.UNUSED_S))
    # One of them is read again, and then something is written.
    assert run(make_scale(3.0)) == (1, 0)
    run(make_scale(2.0), 2.0)
    assert compiled.exists()
    assert not old.exists()
    assert not left_over.exists()


def test_a_start_that_compiles_says_so_once(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        for announced, factor in ((1, 3.0), (1, 2.0)):
            if factor == 3.0:
                keeping._announce.cache_clear()
            run(make_scale(factor), factor)
            assert len(caplog.messages) == announced
        assert caplog.messages == [
            f"compiling kernels for this processor, once; they are kept in {directory}"
        ]
        keeping._announce.cache_clear()
        run(make_scale(3.0))
        # Nothing was compiled.
        assert len(caplog.messages) == 1


def test_a_files_name_says_all_that_a_kernel_is_made_of(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = ("x86", "znver5", "+avx2")

    def name(signature: str = "int64", processor: tuple[str, ...] = usual) -> str:
        codegen = SimpleNamespace(magic_tuple=lambda: processor)
        path = keeping.KeptKernels(make_scale(3.0).dispatcher.py_func)._path(signature, codegen)
        assert path is not None
        return path.name

    others = (
        ("arm", "znver5", "+avx2"),
        ("x86", "znver4", "+avx2"),
        ("x86", "znver5", "+avx2,+avx512f"),
    )
    names = [name(), name("float64"), *(name(processor=other) for other in others)]
    for owner in (numba, llvmlite):
        monkeypatch.setattr(owner, "__version__", "0.0")
        names.append(name())
    monkeypatch.setattr(sys, "version", "3.99")
    names.append(name())
    monkeypatch.setattr(keeping, "sources_digest", lambda folder: "other")
    names.append(name())
    assert len(set(names)) == len(names)
    assert name() == names[-1]


def test_a_change_of_any_source_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common, own = tmp_path / "cpu", tmp_path / "op"
    common.mkdir()
    own.mkdir()
    monkeypatch.setattr(keeping, "HERE", common)
    digests = []
    for path, text in (
        (own / "cpu.py", "1"),
        (own / "helper.py", "1"),
        (own / "helper.py", "2"),
        (common / "numbers.py", "1"),
        (common / "numbers.py", "2"),
    ):
        path.write_text(text)
        digests.append(keeping.sources_digest.__wrapped__(own))
    assert len(set(digests)) == 5
    (own / "helper.py").write_text("1")
    (common / "numbers.py").write_text("1")
    assert keeping.sources_digest.__wrapped__(own) not in digests[2:3] + digests[4:]


@pytest.fixture
def choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path | None]]:
    """The choice of a directory, with a home and sources below ``tmp_path``."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(keeping, "HERE", tmp_path / "sources")
    (tmp_path / "home").mkdir()
    (tmp_path / "sources").mkdir()
    before = os.umask(0o002)
    yield keeping.cache_directory.__wrapped__
    os.umask(before)


def test_the_users_cache_directory_is_chosen(
    choose: Callable[[], Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose()
    assert chosen == tmp_path / "home" / ".cache" / "radixserve" / "kernels"
    # Also where new files may be written by a group.
    assert [path.stat().st_mode & 0o777 for path in (chosen, chosen.parent)] == [0o700, 0o700]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert choose() == chosen
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert choose() == tmp_path / "xdg" / "radixserve" / "kernels"


def test_else_one_beside_the_sources_is_chosen_or_none(
    choose: Callable[[], Path | None], tmp_path: Path
) -> None:
    # No directory can be made below a file, by nobody.
    (tmp_path / "home" / ".cache").touch()
    assert choose() == tmp_path / "sources" / "__pycache__" / "kernels"
    (tmp_path / "sources" / "__pycache__").chmod(0o775)
    assert choose() is None
    (tmp_path / "sources" / "__pycache__").chmod(0o755)
    assert choose() is not None


def test_a_directory_that_cannot_be_written_to_is_none(
    choose: Callable[[], Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert choose() is None


@pytest.mark.parametrize("level", ["radixserve", "radixserve/kernels"])
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_others_may_not_write_there(
    mode: int, level: str, choose: Callable[[], Path | None], tmp_path: Path
) -> None:
    first = choose()
    (tmp_path / "home" / ".cache" / level).chmod(mode)
    second = choose()
    assert first != second == tmp_path / "sources" / "__pycache__" / "kernels"


@pytest.mark.parametrize("is_link", [False, True])
def test_it_may_not_be_anothers(
    is_link: bool,
    choose: Callable[[], Path | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the directory nor a link to one that is ours."""
    first = choose()
    assert first is not None
    them, us = 4_711, os.getuid()
    real, real_link = Path.stat, Path.lstat

    def seen(facts: os.stat_result, path: Path) -> os.stat_result:
        fields = list(facts)
        fields[4] = them if path == first else us
        return os.stat_result(fields)

    if not is_link:
        monkeypatch.setattr(Path, "stat", lambda path, **named: seen(real(path, **named), path))
    monkeypatch.setattr(Path, "lstat", lambda path: seen(real_link(path), path))
    assert choose() == tmp_path / "sources" / "__pycache__" / "kernels"


PROCESS = """
import logging, torch
logging.basicConfig(level=logging.INFO, format="%(message)s")
from radixserve_kernels.rms_norm.cpu import make_rms_norm, rms_norm
out = rms_norm(torch.full((2, 8), 3.0), torch.ones(8), 0.0)
assert torch.equal(out, torch.ones(2, 8)), out
stats = make_rms_norm(0, False).dispatcher.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_processes_share_what_they_compile(tmp_path: Path) -> None:
    """Two start at once; what they leave serves a third."""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROCESS],
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    both = [start(), start()]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out in ("0 1\n", "1 0\n")
    directory = tmp_path / "radixserve" / "kernels"
    (file,) = directory.iterdir()
    out, err = start().communicate(timeout=120)
    assert (out, err) == ("1 0\n", "")
    assert list(directory.iterdir()) == [file]


def test_files_that_vanish_or_cannot_be_deleted_do_not_matter(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process renames its half-written file, or deletes an old one, at the same time."""
    long_ago = time.time() - 2 * keeping.UNUSED_S
    (compiled.parent / "directory").mkdir()
    os.utime(compiled.parent / "directory", (long_ago, long_ago))
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([path / "tmp123", *real(path)]))
    assert run(make_scale(2.0), 2.0) == (0, 1)
    # Compiling is told as well where an earlier test has lowered the level.
    assert not [one for one in caplog.records if one.levelname != "INFO"]
    assert run(make_scale(2.0), 2.0) == (1, 0)


def test_a_disk_that_takes_no_more_changes_does_not_matter(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Path, *_: Any, **__: Any) -> None:
        raise OSError("read-only file system")

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, fail)
    assert run(make_scale(3.0)) == (0, 1)
    assert "read-only file system" in caplog.text


@pytest.mark.parametrize("home", ["~", "relative/to/anything"])
def test_nobodys_home_is_not_where_the_process_runs(
    home: str, choose: Callable[[], Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without an entry in the list of users, as containers have them."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: home)
    monkeypatch.chdir(tmp_path / "home")
    assert choose() == tmp_path / "sources" / "__pycache__" / "kernels"
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize(
    "missing",
    ["compiler.CompileResult._reduce", "compiler.CompileResult._rebuild", "codegen.*.magic_tuple"],
)
def test_a_numba_with_other_insides_compiles_in_every_process(
    missing: str, compiled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("numba.core." + missing.replace("*", "CPUCodegen"))
    keeping._explain.cache_clear()
    if "_rebuild" not in missing:
        compiled.unlink()
    assert [run(make_scale(factor), factor) for factor in (3.0, 2.0)] == [(0, 1), (0, 1)]
    said = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert missing.rpartition(".")[2] in said[0].getMessage()


def test_a_numba_whose_functions_have_no_cache_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeping._explain.cache_clear()
    for _ in range(2):
        keeping.keep(object(), make_scale)
    assert len(caplog.messages) == 1
    assert "cannot be kept" in caplog.text
