"""Pages in files: a directory with a limit, and whatever a file system may do.

    <directory>/<model 16 hex>/<owner 16 hex>/<name 32 hex>.safetensors     (directory_scan.py)

The file system is the truth and may change under us; the index in memory says what is worth trying.
What a file holds is believed only after ``page_file.check_page``, so no order of events can bring a
wrong page, at worst none.

- A page is written beside its place and renamed into it: a reader finds a whole file or none,
  also after SIGKILL. There is no ``fsync``: after a loss of power the checksum tells.
- Room is made before a page is written, so that the limit holds from the first write on: what was
  cleared goes first, then other models' pages, then those used longest ago. The order survives in
  the files' times, which only ever grow.
- Clearing renames the owner's folder, so nothing is found from then on, also after a kill; the
  files go later, with ``sweep``.
- An error of the file system is logged, at most a line of a kind in half a minute, and the page is
  not stored or not found. Nothing is raised but at the start.
- Folders and files are made for the server's user alone and opened without following links.
- One server a directory (``directory_lock.py``).

Several threads may call everything; writes, touches and sweeps go one after the other. ``contains``
waits for nobody.

Costs: ``contains``, ``remove`` and giving up a file O(1); ``clear`` O(files).
"""

import contextlib
import errno
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from radixserve.errors import ConfigError
from radixserve.tiers.cleared_folders import ClearedFolders
from radixserve.tiers.directory_lock import DirectoryLock
from radixserve.tiers.directory_scan import (
    Found,
    FoundFile,
    GoneFolder,
    open_folder,
    owner_folders,
    scan,
)
from radixserve.tiers.page_file import BadPageError, PageBytes, file_bytes
from radixserve.tiers.page_index import PageIndex
from radixserve.tiers.page_io import file_name, read_page, touch_page, unlink_page, write_page
from radixserve.tiers.page_names import PageKey
from radixserve.tiers.quiet_log import QuietLog

logger = logging.getLogger(__name__)

# Of these another attempt may go well: they are about this process, not about the file.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR}
_SWEPT_AT_ONCE = 200


def _always() -> bool:
    return True


class PageDirectory:
    """The files of one model's pages, and how many may be there. Mutable."""

    def __init__(
        self, path: str | Path, fingerprint: bytes, page_bytes: int, limit_bytes: int
    ) -> None:
        """``fingerprint``: of the model and the page layout, 8 bytes at least; ``limit_bytes``: of
        all files together, other models' included.

        *Raises* ConfigError if the directory cannot be used. *Cost*: 6 µs of CPU time a file.
        """
        assert len(fingerprint) >= 8
        self.path = Path(path).expanduser().absolute()
        self.page_bytes = page_bytes
        self.file_bytes = file_bytes(page_bytes)
        self.limit_bytes = limit_bytes
        self.num_stored = 0
        """Files written since the start."""
        self.num_rejected = 0
        """Files that were there and were not the page looked for, or not sound."""
        if self.file_bytes > limit_bytes:
            raise ConfigError(
                f"the cache directory may hold {limit_bytes:,} bytes, and one page's file has "
                f"{self.file_bytes:,}; allow it more, or choose a smaller page size"
            )
        self._model = fingerprint[:8].hex()
        self._log = QuietLog(logger)
        self._index = PageIndex()
        self._others: deque[FoundFile] = deque()
        """Other models' files, the one used longest ago first. They count in the index."""
        self._num_clears = 0
        # Names of files beside and of cleared folders: no two runs use the same.
        self._serial = itertools.count(time.time_ns())
        self._last_stamp_ns = 0
        self._lock = threading.Lock()
        """Held for the books, and while a file comes into its place or leaves it."""
        self._changing = threading.Lock()
        """Held by who writes, touches or sweeps; taken before the other."""
        self._is_closed = False
        self._open()

    @property
    def num_pages(self) -> int:
        """Files of this model."""
        return len(self._index)

    @property
    def used_bytes(self) -> int:
        """Of all files together."""
        return self._index.used_bytes

    def contains(self, owner: str, name: bytes) -> bool:
        """Whether there seems to be a file. *Cost*: O(1), waits for nobody, looks at no file."""
        return bytes.fromhex(owner) + name in self._index

    def write(self, key: PageKey, data: PageBytes, is_wanted: Callable[[], bool] = _always) -> bool:
        """Keep a page: ``data`` uint8[page_bytes]. Returns whether its file is there now.

        Replaces a file of the same name. ``is_wanted`` is asked once more when the file is whole:
        who turns it to False and then calls ``clear`` can be sure that nothing of it stays.
        """
        assert data.shape == (self.page_bytes,)
        try:
            with self._changing:
                return not self._is_closed and is_wanted() and self._write(key, data, is_wanted)
        except OSError as error:
            self._log.warning("write", "a page was not stored: %s", error)
            return False

    def read(self, key: PageKey, into: PageBytes) -> bool:
        """Bring a page into ``into``, uint8[page_bytes]. Returns whether it is there, verified.

        *Mutates* ``into``, which holds anything if the answer is no. A file that is not the page,
        or not sound, is logged, counted and removed.
        """
        assert into.shape == (self.page_bytes,)
        if self._is_closed or not self.contains(key.owner, key.name):
            return False
        try:
            with open_folder(key.owner, self._model_fd) as owner_fd:
                read_page(file_name(key.name), owner_fd, key.identity, into)
        except BadPageError as error:
            with self._lock:
                self.num_rejected += 1
            self._log.warning("read", "%s is not used: %s", self._file(key), error.reason)
        except FileNotFoundError:
            if self.contains(key.owner, key.name):
                self._log.warning("read", "%s has been removed by somebody else", self._file(key))
        except OSError as error:
            self._log.warning("read", "%s cannot be read: %s", self._file(key), error)
            if error.errno in _PASSING:
                return False
        else:
            return True
        self.remove(key.owner, key.name)
        return False

    def touch(self, keys: Sequence[PageKey]) -> None:
        """These pages of one prefix, first page first, have been of use: they go last, the first
        page last of all, since none is of use without those before it."""
        with self._changing:
            for key in reversed(keys):
                with self._lock:
                    if self._is_closed or not self._index.touch(_entry(key)):
                        continue
                # Only the order after a restart depends on it.
                with contextlib.suppress(OSError):
                    touch_page(key.owner, key.name, self._model_fd, self._next_stamp_ns())

    def remove(self, owner: str, name: bytes) -> None:
        """Give up one page."""
        with self._lock:
            if self._is_closed:
                return
            num_bytes = self._index.forget(bytes.fromhex(owner) + name)
            try:
                unlink_page(owner, name, self._model_fd)
            except OSError as error:
                self._log.warning("remove", "a page's file is still there: %s", error)
            else:
                self._index.freed(num_bytes)

    def clear(self, owner: str | None) -> None:
        """Give up all pages of one owner of this model, or of all. Nothing of them is found from
        now on; the files go with the next ``sweep``. *Cost*: O(files), and a rename an owner."""
        with self._lock:
            if self._is_closed:
                return
            self._num_clears += 1
            # Also what the index does not know of: files that could not be removed.
            cleared: dict[str, int] = {}
            with contextlib.suppress(OSError):
                cleared |= dict.fromkeys([owner] if owner else owner_folders(self._model_fd), 0)
            for entry in self._index.of(None if owner is None else bytes.fromhex(owner)):
                folder = entry[:8].hex()
                cleared[folder] = cleared.get(folder, 0) + self._index.forget(entry)
            for folder, num_bytes in cleared.items():
                self._set_aside(folder, num_bytes)

    def sweep(self) -> bool:
        """Delete some of the files that were cleared, or that are too many because the limit is
        lower than it was. Returns whether to call again. *Cost*: a few hundred files."""
        with self._changing:
            if self._is_closed:
                return False
            try:
                if self._cleared:
                    self._remove_cleared()
                for _ in range(_SWEPT_AT_ONCE):
                    if self.used_bytes > self.limit_bytes:
                        self._remove_oldest()
            except OSError as error:
                self._log.warning("clear", "files to be deleted are still there: %s", error)
                return False
            return bool(self._cleared) or self.used_bytes > self.limit_bytes

    def close(self) -> None:
        """Let others use the directory; nothing is found or stored from now on. Idempotent."""
        with self._changing, self._lock:
            self._is_closed = True
            self._fds.close()

    def check_invariants(self) -> None:
        """Assert that the books agree with each other. *Cost*: O(files)."""
        with self._changing, self._lock:
            self._index.check_invariants()
            known = sum(file.num_bytes for file in self._others) + self._cleared.num_bytes()
            assert self._index.used_bytes >= known, "bytes of other models' and cleared files"

    def _open(self) -> None:
        try:
            with contextlib.ExitStack() as fds:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fds.callback(os.close, self._fd)
                lock = DirectoryLock(self.path, self._fd)
                fds.callback(lock.release)
                found = scan(self._fd)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self._model, 0o700, dir_fd=self._fd)
                self._model_fd = fds.enter_context(open_folder(self._model, self._fd))
                self._cleared = ClearedFolders(self._fd)
                self._take_in(found)
                self._fds = fds.pop_all()
        except OSError as error:
            raise ConfigError(
                f"the cache directory {self.path} cannot be used: {error.strerror or error}; give "
                "one that this user may read and write, or leave it out"
            ) from error
        if found.num_leftovers:
            logger.info("removed %d files that a kill had left half written", found.num_leftovers)
        if found.is_open_to_others:
            logger.warning(
                "others may write into the cache directory %s, so into answers (chown; chmod o-w)",
                self.path,
            )
        logger.info(
            "cache directory %s: %d pages of this model, %d of others, %.2f of %.2f GiB",
            self.path,
            len(self._index),
            len(self._others),
            self.used_bytes / 2**30,
            self.limit_bytes / 2**30,
        )

    def _take_in(self, found: Found) -> None:
        for folder in found.gone:
            self._index.used_bytes += folder.num_bytes
            self._cleared.add(folder)
        files = found.files
        files.sort()
        for file in files:
            if file.model == self._model:
                self._index.add(bytes.fromhex(file.owner) + file.name, file.num_bytes)
            else:
                self._index.used_bytes += file.num_bytes
                self._others.append(file)
        if files:
            self._last_stamp_ns = files[-1].mtime_ns

    def _write(self, key: PageKey, data: PageBytes, is_wanted: Callable[[], bool]) -> bool:
        num_clears = self._num_clears
        self._make_room(self.file_bytes)
        with contextlib.suppress(FileExistsError):
            os.mkdir(key.owner, 0o700, dir_fd=self._model_fd)
        file = file_name(key.name)
        beside = f"{key.name.hex()}.{next(self._serial)}.tmp"
        with open_folder(key.owner, self._model_fd) as owner_fd:
            try:
                write_page(beside, owner_fd, key.identity, data, self._next_stamp_ns())
                with self._lock:
                    if num_clears == self._num_clears and is_wanted():
                        os.rename(beside, file, src_dir_fd=owner_fd, dst_dir_fd=owner_fd)
                        self._index.add(_entry(key), self.file_bytes)
                        self.num_stored += 1
                        return True
            except BaseException:
                self._give_up(beside, owner_fd)
                raise
            self._give_up(beside, owner_fd)
        return False

    def _give_up(self, beside: str, owner_fd: int) -> None:
        try:
            os.unlink(beside, dir_fd=owner_fd)
        except FileNotFoundError:
            pass
        except OSError:
            # It stays until the next start, and counts.
            with self._lock:
                self._index.used_bytes += self.file_bytes

    def _make_room(self, num_bytes: int) -> None:
        """Remove files until there is room. *Raises* OSError if one stays."""
        while self.used_bytes + num_bytes > self.limit_bytes:
            if self._cleared:
                try:
                    self._remove_cleared()
                    continue
                except OSError as error:
                    self._log.warning("clear", "cleared files are still there: %s", error)
            self._remove_oldest()

    def _remove_cleared(self) -> None:
        freed = self._cleared.remove_some(_SWEPT_AT_ONCE)
        with self._lock:
            self._index.freed(freed)

    def _remove_oldest(self) -> None:
        if self._others:
            self._remove_other()
        elif self._index:
            self._evict()
        else:
            raise OSError(errno.ENOSPC, "files that could not be removed fill its limit")

    def _remove_other(self) -> None:
        file = self._others.popleft()
        try:
            with open_folder(file.model, self._fd) as model_fd:
                unlink_page(file.owner, file.name, model_fd)
                # Fails while there are others.
                with contextlib.suppress(OSError):
                    os.rmdir(file.owner, dir_fd=model_fd)
        except FileNotFoundError:
            pass
        except OSError:
            self._others.append(file)
            raise
        with self._lock:
            self._index.freed(file.num_bytes)

    def _evict(self) -> None:
        with self._lock:
            entry = self._index.oldest()
            if entry is None:
                return
            num_bytes = self._index.forget(entry)
        owner, name = entry[:8].hex(), entry[8:]
        try:
            # The books are not locked meanwhile: removing a large file takes its time.
            unlink_page(owner, name, self._model_fd)
        except OSError:
            with self._lock:
                self._index.freed(num_bytes)
                self._index.add(entry, num_bytes)
            raise
        with self._lock:
            self._index.freed(num_bytes)
            if not self._index.has_any(entry[:8]):
                with contextlib.suppress(OSError):
                    os.rmdir(owner, dir_fd=self._model_fd)

    def _set_aside(self, folder: str, num_bytes: int) -> None:
        aside = f"{folder}.{next(self._serial)}.gone"
        try:
            os.rename(folder, aside, src_dir_fd=self._model_fd, dst_dir_fd=self._model_fd)
        except FileNotFoundError:
            self._index.freed(num_bytes)
        except OSError as error:
            self._log.warning("clear", "a cleared folder is still there: %s", error)
        else:
            self._cleared.add(GoneFolder(self._model, aside, num_bytes))

    def _next_stamp_ns(self) -> int:
        self._last_stamp_ns = max(self._last_stamp_ns + 1, time.time_ns())
        return self._last_stamp_ns

    def _file(self, key: PageKey) -> Path:
        return self.path / self._model / key.owner / file_name(key.name)


def _entry(key: PageKey) -> bytes:
    return bytes.fromhex(key.owner) + key.name
