"""Folders that were cleared and wait to be deleted, a few files at a time.

Deleting may take milliseconds a file on a busy disk; what is cleared is out of the way at once, by
its folder's name, and nobody has to wait for the rest.

One thread may add while another removes.
"""

from collections import deque

from radixserve.tiers.directory_scan import GoneFolder, open_folder, remove_files


class ClearedFolders:
    """Those that still have files. Mutable."""

    __slots__ = ("_directory_fd", "_folders")

    def __init__(self, directory_fd: int) -> None:
        """``directory_fd``: open on the cache directory."""
        self._directory_fd = directory_fd
        self._folders: deque[GoneFolder] = deque()

    def __bool__(self) -> bool:
        return bool(self._folders)

    def add(self, folder: GoneFolder) -> None:
        """One more."""
        self._folders.append(folder)

    def num_bytes(self) -> int:
        """Of what is left. *Cost*: O(folders)."""
        return sum(folder.num_bytes for folder in self._folders)

    def remove_some(self, max_files: int) -> int:
        """Delete up to so many files of one folder. Returns by how much ``num_bytes`` fell by it.

        *Raises* OSError if none of its files can be deleted; it goes last then.
        """
        folder = self._folders.popleft()
        try:
            with open_folder(folder.model, self._directory_fd) as model_fd:
                num_bytes, is_empty = remove_files(folder.name, model_fd, max_files)
        except FileNotFoundError:
            num_bytes, is_empty = 0, True
        except OSError:
            self._folders.append(folder)
            raise
        freed = folder.num_bytes if is_empty else min(num_bytes, folder.num_bytes)
        if not is_empty:
            self._folders.appendleft(folder._replace(num_bytes=folder.num_bytes - freed))
        return freed
