"""What a cache directory holds when a server starts on it.

    <directory>/lock
    <directory>/<model 16 hex>/<owner 16 hex>/<name 32 hex>.safetensors     a page
    <directory>/<model 16 hex>/<owner 16 hex>/<name 32 hex>.<n>.tmp         a write that was killed
    <directory>/<model 16 hex>/<owner 16 hex>.<n>.gone/                     a clear that was killed

Only what is named so is ours: the rest is neither counted nor ever touched, whatever directory a
server is pointed at. Links are not followed. What a killed write left behind is removed, empty
folders as well; what a killed clear left is told.
"""

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

SUFFIX = ".safetensors"
_FOLDER = re.compile(r"[0-9a-f]{16}")
_PAGE = re.compile(r"[0-9a-f]{32}\.safetensors")
_LEFTOVER = re.compile(r"[0-9a-f]{32}\.[0-9]+\.tmp")
_GONE = re.compile(r"[0-9a-f]{16}\.[0-9]+\.gone")


class FoundFile(NamedTuple):
    """One page's file. Sorts by when it was used last."""

    mtime_ns: int
    model: str
    owner: str
    name: bytes
    num_bytes: int


class GoneFolder(NamedTuple):
    """A folder that was cleared and is to be deleted."""

    model: str
    name: str
    num_bytes: int


@dataclass(slots=True)
class Found:
    """What a scan has found, in no order."""

    files: list[FoundFile] = field(default_factory=list)
    gone: list[GoneFolder] = field(default_factory=list)
    num_leftovers: int = 0
    """Removed: what writes that were killed had left."""
    is_open_to_others: bool = False
    """It belongs to another user than the server's and root, or everybody may write into it."""


def scan(directory_fd: int) -> Found:
    """Look through the whole directory. *Raises* OSError if it cannot be listed; of what is in it,
    what cannot be read or removed is left out."""
    state = os.fstat(directory_fd)
    is_foreign = state.st_uid not in (0, os.geteuid())
    found = Found(is_open_to_others=is_foreign or bool(state.st_mode & stat.S_IWOTH))
    for model in _names(directory_fd, _FOLDER):
        with contextlib.suppress(OSError), open_folder(model, directory_fd) as model_fd:
            for gone in _names(model_fd, _GONE):
                found.gone.append(GoneFolder(model, gone, _num_bytes(gone, model_fd)))
            for owner in owner_folders(model_fd):
                _scan_owner(model, owner, model_fd, found)
        with contextlib.suppress(OSError):
            os.rmdir(model, dir_fd=directory_fd)
    return found


@contextlib.contextmanager
def open_folder(name: str, parent_fd: int) -> Iterator[int]:
    """A descriptor of a folder; one that is a link is not followed. *Raises* OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder_fd = os.open(name, flags, dir_fd=parent_fd)
    try:
        yield folder_fd
    finally:
        os.close(folder_fd)


def remove_files(name: str, parent_fd: int, max_files: int) -> tuple[int, bool]:
    """Remove up to so many of our files in an owner's folder; and the folder if it is empty then.

    Returns the bytes of these files, and whether there are no more. *Raises* OSError if none can be
    removed, but not all are gone.
    """
    num_bytes = 0
    failure: OSError | None = None
    with open_folder(name, parent_fd) as folder_fd:
        with os.scandir(folder_fd) as entries:
            ours = (
                entry
                for entry in entries
                if _PAGE.fullmatch(entry.name) or _LEFTOVER.fullmatch(entry.name)
            )
            batch = list(itertools.islice(ours, max_files))
        for entry in batch:
            try:
                size = os.stat(entry.name, dir_fd=folder_fd, follow_symlinks=False).st_size
                os.unlink(entry.name, dir_fd=folder_fd)
                num_bytes += size
            except FileNotFoundError:
                pass
            except OSError as error:
                failure = error
    if failure is not None and not num_bytes:
        raise failure
    if failure is not None or len(batch) == max_files:
        return num_bytes, False
    # Fails if there are others' files in it: they stay.
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=parent_fd)
    return num_bytes, True


def owner_folders(model_fd: int) -> list[str]:
    """The names of a model's folders. *Raises* OSError."""
    return _names(model_fd, _FOLDER)


def _num_bytes(folder: str, model_fd: int) -> int:
    num_bytes = 0
    with (
        contextlib.suppress(OSError),
        open_folder(folder, model_fd) as folder_fd,
        os.scandir(folder_fd) as entries,
    ):
        for entry in entries:
            if _PAGE.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    num_bytes += entry.stat(follow_symlinks=False).st_size
    return num_bytes


def _scan_owner(model: str, owner: str, model_fd: int, found: Found) -> None:
    with (
        contextlib.suppress(OSError),
        open_folder(owner, model_fd) as owner_fd,
        os.scandir(owner_fd) as entries,
    ):
        for entry in entries:
            with contextlib.suppress(OSError):
                if _LEFTOVER.fullmatch(entry.name):
                    os.unlink(entry.name, dir_fd=owner_fd)
                    found.num_leftovers += 1
                elif _PAGE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    name = bytes.fromhex(entry.name[: -len(SUFFIX)])
                    found.files.append(
                        FoundFile(state.st_mtime_ns, model, owner, name, state.st_size)
                    )
    # Fails unless it is empty.
    with contextlib.suppress(OSError):
        os.rmdir(owner, dir_fd=model_fd)


def _names(folder_fd: int, pattern: re.Pattern[str]) -> list[str]:
    with os.scandir(folder_fd) as entries:
        return [entry.name for entry in entries if pattern.fullmatch(entry.name)]
