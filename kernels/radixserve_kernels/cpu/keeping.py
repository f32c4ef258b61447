"""Where compiled kernels are kept from one process to the next, and which of them may be used.

numba keeps compiled functions too, but trusts what it finds: a damaged file fails the call or runs
as machine code, and a change in a module that a function calls goes unnoticed. So files here begin
with a checksum, and are named after all that a kernel is made of:

- the sources in its own folder and in this one. What a kernel calls, or takes constants from, must
  lie there (tests/structure/test_cpu_kernels.py);
- its closure: the constants it was made for;
- its signature, this processor, and the versions of Python, numba and llvmlite.

Files appear whole, by renaming, so any number of processes may write them at once. A file that is
damaged or cannot be read counts as absent. They are pickles, which can run anything; so only
directories are used that nobody but this user and root can write to.

It knows some of numba's insides, those that its own cache uses. With a numba that has others
nothing is kept, and the log says so.
"""

import logging
import os
import pickle
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba

# The name is that of the whole engine's log, whose level people set.
logger = logging.getLogger("radixserve.kernels")

HERE = Path(__file__).parent

SUFFIX = ".kernel"

UNUSED_S = 30 * 86_400
"""Files that no process has read for so long are deleted."""

_CONSTANTS = (bool, int, float, str)
_CHECKSUM_BYTES = sha256().digest_size


def keep(dispatcher: Any, function: Callable[..., None]) -> None:
    """Have what numba's dispatcher compiles of this function kept. *Mutates* ``dispatcher``."""
    with _tolerance():
        if not hasattr(dispatcher, "_cache"):
            raise AttributeError("dispatchers have no _cache")
        dispatcher._cache = KeptKernels(function)


class KeptKernels:
    """One kernel's files, in the form of the cache that numba's dispatchers have."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    @property
    def cache_path(self) -> str:
        """For numba's statistics."""
        return str(cache_directory())

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """What an earlier process compiled for this signature, or None."""
        with _tolerance():
            from numba.core.compiler import CompileResult  # noqa: PLC0415

            # As numba's own does: it registers what compiled code refers to.
            target_context.refresh()
            path = self._path(signature, target_context.codegen())
            payload = None if path is None else _read(path)
            rebuild = CompileResult._rebuild
            if payload is not None:
                try:
                    return rebuild(target_context, *pickle.loads(payload))
                except Exception as error:
                    # Whatever is wrong with it, it can be compiled anew.
                    logger.warning("kernel %s cannot be loaded: %r", path, error)
            _announce(None if path is None else path.parent)
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        with _tolerance():
            from numba.core.serialize import dumps  # noqa: PLC0415

            path = self._path(signature, compiled.codegen)
            if path is not None and not compiled.library.has_dynamic_globals:
                _write(path, dumps(compiled._reduce()))

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        """None if it cannot be kept: there is no directory, or its closure is no constants."""
        directory = cache_directory()
        constants = [cell.cell_contents for cell in self._function.__closure__ or ()]
        if directory is None or not all(isinstance(one, _CONSTANTS) for one in constants):
            return None
        code = self._function.__code__
        made_of = (
            sources_digest(Path(code.co_filename).parent),
            code.co_filename,
            self._function.__qualname__,
            code.co_firstlineno,
            code.co_freevars,
            constants,
            signature,
            codegen.magic_tuple(),
            (sys.version, numba.__version__, llvmlite.__version__),
        )
        name = sha256(repr(made_of).encode()).hexdigest()[:32]
        return directory / f"{self._function.__name__}-{name}{SUFFIX}"


@cache
def cache_directory() -> Path | None:
    """Below the user's cache directory, or else beside the sources; None if neither can be written
    to, or others can write to it."""
    for start, names in (
        (_user_cache(), ("radixserve", "kernels")),
        (HERE, ("__pycache__", "kernels")),
    ):
        # Who has no home has none below the working directory either.
        if not start.is_absolute():
            continue
        directory = start
        try:
            for name in names:
                directory = directory / name
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not _is_ours(directory):
                    break
            else:
                if os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                    return directory
        except OSError:
            continue
    return None


def _user_cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # Relative paths are to be ignored, says the specification that the variable is from.
    return home if home.is_absolute() else Path(os.path.expanduser("~"), ".cache")


def _is_ours(directory: Path) -> bool:
    """Whether only this user, and root, can write to it. Where users have no numbers they have
    profiles of their own."""
    if not hasattr(os, "getuid"):
        return True
    owners = (os.getuid(), 0)
    facts = directory.stat()
    others_write = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    # Nobody else may have put a link there either.
    return facts.st_uid in owners and directory.lstat().st_uid in owners and not others_write


@cache
def sources_digest(folder: Path) -> str:
    """Of all that a kernel in this folder may consist of."""
    digest = sha256()
    for place in (HERE, folder):
        for path in sorted(place.glob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> bytes | None:
    """What ``_write`` was given, or None if that is not what is there."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if checksum != sha256(payload).digest():
        logger.warning("kernel %s is damaged", path)
        return None
    # Without, it is deleted earlier than it should be, which costs compiling it.
    with suppress(OSError):
        os.utime(path)
    return payload


def _write(path: Path, payload: bytes) -> None:
    """The file appears whole or not at all; a full disk costs no more than compiling again."""
    temporary = None
    try:
        _delete_unused(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(sha256(payload).digest() + payload)
        temporary.replace(path)
    except OSError as error:
        logger.warning("kernel %s cannot be kept: %s", path, error)
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _delete_unused(directory: Path) -> None:
    """Files nobody has read for long, those that a process left half written included."""
    now = time.time()
    for path in directory.iterdir():
        # Other processes rename and delete here too.
        with suppress(OSError):
            if now - path.stat().st_mtime > UNUSED_S:
                path.unlink()


@cache
def _announce(directory: Path | None) -> None:
    """Once a process: why its start takes longer."""
    if directory is None:
        logger.info("compiling kernels for this processor; they cannot be kept for the next start")
    else:
        logger.info("compiling kernels for this processor, once; they are kept in %s", directory)


@contextmanager
def _tolerance() -> Iterator[None]:
    """Of a numba with other insides: then every process compiles its kernels."""
    try:
        yield
    except Exception:
        _explain()


@cache
def _explain() -> None:
    """Once a process: why no start will be fast."""
    logger.warning(
        "with numba %s kernels cannot be kept, every start compiles them: %r",
        numba.__version__,
        sys.exc_info()[1],
    )
