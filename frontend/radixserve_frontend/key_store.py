"""The keys that are valid now: from a file that may change while the server runs, and from the
environment, which may not.

The file is looked at when a request comes, at most once a second, and on SIGHUP; it is read again
when its inode, size or times have changed. A file that cannot be read, or is wrong, changes
nothing: the keys before stay valid and the log says what is wrong, once a change. So replace it in
one go (write another file, then ``mv``): half a file may happen to be a right one.

*Cost* a request: one ``stat`` a second, on the event loop. Not for file systems that hang.
"""

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from radixserve.errors import ConfigError
from radixserve_frontend.caller import Caller
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.keys import KeyRing, keys_of_file, keys_of_variable

logger = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 1.0
MAX_FILE_BYTES: Final = 16 * 2**20


class _Version(NamedTuple):
    """Tells one state of a file from the next."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class KeyStore:
    """Whose key is whose, now. *Raises* ``ConfigError`` if the keys cannot be had at the start."""

    def __init__(
        self,
        path: Path | None,
        variable: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._clock = clock
        try:
            self._fixed = [] if variable is None else keys_of_variable(variable)
        except ConfigError as error:
            raise ConfigError(f"RADIXSERVE_API_KEYS: {error}") from None
        self._version: _Version | None = None
        self._complaint: str | None = None
        """What the log says is wrong with the file."""
        self._checked_s = clock()
        if path is not None and "\0" in str(path):
            raise ConfigError(f"api_keys_file is {str(path)!r}, which is no name of a file")
        try:
            self._ring = self._read()
        except OSError as error:
            raise ConfigError(
                f"api_keys_file is {str(path)!r}, which cannot be read: {error.strerror}"
            ) from None
        except ConfigError as error:
            where = "RADIXSERVE_API_KEYS" if path is None else f"api_keys_file {str(path)!r}"
            raise ConfigError(f"{where}: {error}") from None

    @property
    def tenants(self) -> frozenset[str]:
        """Everybody who has a key now."""
        return self._ring.tenants

    def caller_of(self, presented: bytes) -> Caller | None:
        """Whose key this is; None: nobody's."""
        if self._clock() - self._checked_s >= CHECK_EVERY_S:
            self.reload()
        return self._ring.caller_of(presented)

    def reload(self) -> None:
        """Read the file, if there is one, again if it has changed. Never raises."""
        self._checked_s = self._clock()
        if self._path is None:
            return
        try:
            if self._version_now() == self._version:
                return
            self._ring = self._read()
        except OSError as error:
            self._complain(f"it cannot be read: {error.strerror}")
        except ConfigError as error:
            self._complain(str(error))
        else:
            self._complaint = None
            logger.info(
                "api_keys_file %s: %d keys of %d tenants are valid from now on",
                self._path,
                len(self._ring),
                len(self._ring.tenants),
            )

    def _complain(self, why: str) -> None:
        # What is wrong stays so for many seconds: once is enough.
        if why != self._complaint:
            logger.error("api_keys_file %s: %s; the keys before stay valid", self._path, why)
        self._complaint = why

    def _version_now(self) -> _Version:
        assert self._path is not None
        found = os.stat(self._path)
        return _Version(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _read(self) -> KeyRing:
        """*Raises* ``ConfigError``, ``OSError``. *Mutates* the version."""
        if self._path is None:
            return KeyRing(self._fixed)
        # Before reading: what changes while it is read counts as the next version.
        self._version = self._version_now()
        if self._version.size > MAX_FILE_BYTES:
            raise ConfigError(f"it has {self._version.size} bytes; at most {MAX_FILE_BYTES} may be")
        try:
            text = self._path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"it is not UTF-8: byte {error.start}") from None
        from_file = keys_of_file(text)
        ring = KeyRing([*from_file, *self._fixed])
        mode = os.stat(self._path).st_mode
        if mode & stat.S_IROTH and any(key.is_in_clear for key in from_file):
            logger.warning(
                "api_keys_file %s holds keys in clear and everybody on this machine may read it; "
                "chmod it, or write hashes (sha256:...)",
                self._path,
            )
        return ring


def open_key_store(config: ServerConfig) -> KeyStore | None:
    """The keys that ``config`` names; None if there are to be none. *Raises* ``ConfigError``."""
    if not config.has_keys:
        return None
    path = None if config.api_keys_file is None else Path(config.api_keys_file)
    return KeyStore(path, config.api_keys)
