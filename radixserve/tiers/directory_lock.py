"""Who uses a cache directory: one server at a time, by a lock that ends with its holder.

``flock`` on the file ``lock``: the kernel releases it however the holder ends, so nobody has to
clean up after ``kill -9``. A process started from here does not hold it on: the descriptor is not
inherited over ``exec``, and a forked child closes its copy at once (otherwise a helper that
outlives its server would keep the next one out).
"""

import contextlib
import errno
import fcntl
import os
import weakref
from pathlib import Path

from radixserve.errors import ConfigError

_NAME = "lock"
_held: "weakref.WeakSet[DirectoryLock]" = weakref.WeakSet()


class DirectoryLock:
    """Held from its making until ``release``, or the end of the process."""

    def __init__(self, path: Path, directory_fd: int) -> None:
        """``path``: the directory's, for messages; ``directory_fd``: open on it.

        *Raises* ConfigError if somebody else holds it or the file system knows no locks; OSError if
        the file cannot be made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(_NAME, flags, 0o600, dir_fd=directory_fd)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 100, 0).decode("ascii", "replace").strip()
            self.release()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise ConfigError(
                    f"the cache directory {path} cannot be locked ({error.strerror}); choose one "
                    "on a local file system"
                ) from error
            raise ConfigError(
                f"the cache directory {path} is in use by another server"
                f"{f' ({holder})' if holder else ''}; stop that one, or give this one a directory "
                "of its own"
            ) from error
        _held.add(self)
        # On a full disk the lock holds as well.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)

    def release(self) -> None:
        """Let others in. Idempotent."""
        _held.discard(self)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _release_in_child() -> None:
    # Closing a copy of the descriptor leaves the parent's lock as it is.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
