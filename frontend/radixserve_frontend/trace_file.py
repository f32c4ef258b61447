"""A file of lines that is whole after each of them, gzipped or not.

Gzip's end (a last block, a checksum, a length) is written after every line, and the next line is
written over it:

    header | line | end             header | line | line | end

So whoever reads the file, at any moment, or after the process was killed, finds it complete; and
one stream compresses far better than a stream a line would. Knows nothing of what lines mean.
"""

import contextlib
import os
import zlib
from pathlib import Path

from radixserve.errors import ConfigError

_GZIP_WBITS = 16 + zlib.MAX_WBITS


class TraceFile:
    """A new file, gzipped if its name ends in ``.gz``. *Raises* ``ConfigError`` if there is one of
    that name, or none can be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if "\0" in str(path) or path.name == "":
            raise ConfigError(
                f"record_trace is {str(path)!r}, which is no name of a file; give one such as "
                "traffic.jsonl.gz"
            )
        try:
            # 0o666: what it may be read by is the umask's business.
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise ConfigError(
                f"record_trace is {str(path)!r}, which exists; a trace is never overwritten: give "
                "another name, or move the file away"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"record_trace is {str(path)!r}, which cannot be made: {error.strerror}"
            ) from error
        self._fd: int | None = fd
        self._zip = zlib.compressobj(wbits=_GZIP_WBITS) if path.suffix == ".gz" else None
        self._end = 0
        """Where the last line's bytes end, and gzip's end begins."""
        self._ending = b""

    @property
    def is_open(self) -> bool:
        return self._fd is not None

    def append(self, line: bytes) -> None:
        """Write a line. *Raises* ``OSError``; then close the file: it holds the lines before, if
        the system lets it."""
        assert self._fd is not None
        data, ending = line, b""
        if self._zip is not None:
            data = self._zip.compress(line) + self._zip.flush(zlib.Z_SYNC_FLUSH)
            ending = self._zip.copy().flush()
        try:
            _write(self._fd, data + ending, self._end)
        except OSError:
            with contextlib.suppress(OSError):
                _write(self._fd, self._ending, self._end)
                os.ftruncate(self._fd, self._end + len(self._ending))
            raise
        self._end += len(data)
        self._ending = ending

    def close(self) -> None:
        """Close it; if no line was written, remove it. Never raises. Idempotent."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
                if self._end == 0:
                    self.path.unlink()
            self._fd = None


def _write(fd: int, data: bytes, position: int) -> None:
    """All of ``data``, or an error: a disk that fills up takes a part first."""
    while data:
        num_written = os.pwrite(fd, data, position)
        data = data[num_written:]
        position += num_written
