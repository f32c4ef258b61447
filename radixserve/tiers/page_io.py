"""One page's file in an open folder: written, read and removed, without following links.

Data goes straight between the page's memory and the file. Everything raises OSError, and reading
BadPageError.
"""

import contextlib
import errno
import os

from radixserve.tiers.directory_scan import SUFFIX, open_folder
from radixserve.tiers.page_file import (
    BadPageError,
    PageBytes,
    check_length,
    check_page,
    file_bytes,
    page_header,
)


def file_name(name: bytes) -> str:
    """The file of the page of this name."""
    return name.hex() + SUFFIX


def write_page(file: str, folder_fd: int, identity: bytes, data: PageBytes, stamp_ns: int) -> None:
    """Make the file, which must not be there: ``data`` uint8[n], last used at ``stamp_ns``. If that
    fails, part of it may be there."""
    header = page_header(identity, data)
    num_bytes = len(header) + len(data)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(file, flags, 0o600, dir_fd=folder_fd)
    try:
        num_written = 0
        while num_written < num_bytes:
            more = os.writev(fd, _rest(memoryview(header), data.data, num_written))
            if not more:
                raise OSError(errno.EIO, "the file system takes no more bytes")
            num_written += more
        os.utime(fd, ns=(stamp_ns, stamp_ns))
    finally:
        os.close(fd)


def read_page(file: str, folder_fd: int, identity: bytes, into: PageBytes) -> None:
    """Bring the page into ``into``, uint8[n], and verify it there: what was verified is what is
    used. *Mutates* ``into``, which holds anything if it raises."""
    num_bytes = file_bytes(len(into))
    # Without O_NONBLOCK, opening a named pipe would wait for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(file, flags, dir_fd=folder_fd)
    try:
        header = bytearray(check_length(os.fstat(fd).st_size, len(into)))
        num_read = 0
        while num_read < num_bytes:
            more = os.readv(fd, _rest(memoryview(header), into.data, num_read))
            if not more:
                raise BadPageError(f"it ends after {num_read:,} bytes")
            num_read += more
    finally:
        os.close(fd)
    check_page(header, identity, into)


def unlink_page(owner: str, name: bytes, model_fd: int) -> None:
    """Remove a page's file, if it is there."""
    with contextlib.suppress(FileNotFoundError), open_folder(owner, model_fd) as owner_fd:
        os.unlink(file_name(name), dir_fd=owner_fd)


def touch_page(owner: str, name: bytes, model_fd: int, stamp_ns: int) -> None:
    """Say that a page was last used at ``stamp_ns``."""
    with open_folder(owner, model_fd) as owner_fd:
        times = (stamp_ns, stamp_ns)
        os.utime(file_name(name), ns=times, dir_fd=owner_fd, follow_symlinks=False)


def _rest(header: memoryview, data: memoryview, start: int) -> list[memoryview]:
    """What is left of the two from byte ``start`` on."""
    if start < len(header):
        return [header[start:], data]
    return [data[start - len(header) :]]
