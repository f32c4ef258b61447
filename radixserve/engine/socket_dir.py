"""The directory in which an engine's socket lies: for this user alone, and never left behind.

    <temporary directory>/radixserve-<pid of the server>-<random>/{engine, lock}

A server that is killed cannot clean up, so the next one does: of this user's directories it removes
those whose process is gone *and* whose lock nobody holds. The lock is held for as long as its
holder lives, however that ends; it tells also where process ids mean nothing, because servers in
different containers share the directory.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"radixserve-(\d+)-\w+")
_LOCK: Final = "lock"


class SocketDirectory:
    """A new directory of this process. ``remove`` takes it away."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix=f"radixserve-{os.getpid()}-")
        self._lock = os.open(Path(self._directory.name) / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def socket_path(self) -> str:
        """Where the socket goes."""
        return os.path.join(self._directory.name, "engine")

    def remove(self) -> None:
        """Remove it with what is in it. To be called once."""
        self._directory.cleanup()
        os.close(self._lock)


def remove_stale() -> list[Path]:
    """Remove what servers of this user left behind when they were killed. Returns what was removed.

    Never raises: what cannot be removed stays. *Cost*: one listing of the temporary directory.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            found = _NAME.fullmatch(entry.name)
            if found and _is_stale(Path(entry.path), int(found[1])):
                shutil.rmtree(entry.path, ignore_errors=True)
                removed.append(Path(entry.path))
    return removed


def _is_stale(directory: Path, pid: int) -> bool:
    try:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or _is_running(pid):
            return False
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Killed between making the directory and the lock, or half removed already.
        return directory.is_dir()
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
