"""What may happen to a file: damaged, cut, or replaced by something else."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

SECTOR = 4096

Change = Callable[[bytearray, np.random.Generator, bytes], bytes]
"""(the file's bytes, randomness, another page's file) -> the file's new bytes."""


def _span(blob: bytearray, rng: np.random.Generator) -> slice:
    start, end = np.sort(rng.integers(0, len(blob) + 1, 2))
    return slice(int(start), int(end) + 1)


def flip_bits(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """One bit, or a few."""
    for position in rng.choice(len(blob) * 8, int(2 ** rng.integers(0, 6)), replace=False):
        blob[position // 8] ^= 1 << int(position) % 8
    return bytes(blob)


def flip_in_the_header(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """One bit where everything matters most."""
    position = int(rng.integers(300 * 8))
    blob[position // 8] ^= 1 << position % 8
    return bytes(blob)


def write_over(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """Noise over a part."""
    span = _span(blob, rng)
    blob[span] = rng.bytes(len(blob[span]))
    return bytes(blob)


def lose_sectors(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """Some of it never reached the disk."""
    for sector in rng.integers(0, len(blob) // SECTOR, 3):
        start = int(sector) * SECTOR
        blob[start : start + SECTOR] = bytes(SECTOR)
    return bytes(blob)


def mix_sectors(blob: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """Some of it is another page's."""
    start = int(rng.integers(0, len(blob) // SECTOR)) * SECTOR
    blob[start : start + SECTOR] = other[start : start + SECTOR]
    return bytes(blob)


def announce(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """A header that claims any length."""
    blob[:8] = int(rng.integers(0, 2**63)).to_bytes(8, "little")
    return bytes(blob)


def swap(_: bytearray, __: np.random.Generator, other: bytes) -> bytes:
    """Another page's file, sound, under this name."""
    return other


def cut(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """The end is missing."""
    return bytes(blob[: int(rng.integers(0, len(blob)))])


def empty(_: bytearray, __: np.random.Generator, ___: bytes) -> bytes:
    """Nothing."""
    return b""


def tear(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """The right length, but nothing behind some place: as after a loss of power."""
    # A page may end in zeros by itself; a few bytes more than that are lost here.
    kept = int(rng.integers(0, len(blob) - 16))
    return bytes(blob[:kept]).ljust(len(blob), b"\x00")


def behead(blob: bytearray, rng: np.random.Generator, _: bytes) -> bytes:
    """The beginning is missing."""
    return bytes(blob[int(rng.integers(1, len(blob))) :])


def stretch(blob: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """More behind it than there should be."""
    return bytes(blob) + other[: int(rng.integers(1, len(other)))]


CORRUPTIONS: tuple[Change, ...] = (
    *(flip_bits, flip_in_the_header, write_over, lose_sectors, mix_sectors, announce, swap),
)
TRUNCATIONS: tuple[Change, ...] = (cut, empty, tear, behead, stretch)


def change(file: Path, how: Change, rng: np.random.Generator, other: bytes) -> bool:
    """Change the file where it is. Returns whether it is another now."""
    before = file.read_bytes()
    after = how(bytearray(before), rng, other)
    # In place: a server that has the file open sees it.
    with file.open("r+b") as stream:
        stream.write(after)
        stream.truncate()
    return after != before


def replace(file: Path, kind: int, elsewhere: Path) -> None:
    """Put something in its place that is no file of ours."""
    file.unlink()
    match kind % 4:
        case 0:
            file.mkdir()
        case 1:
            os.mkfifo(file)
        case 2:
            file.symlink_to(elsewhere)
        case _:
            # Nothing at all.
            pass
