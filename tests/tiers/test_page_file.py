"""A page's file: read back exactly, or refused, whatever was done to it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load

from radixserve.tiers.page_file import (
    BadPageError,
    PageBytes,
    decode_page,
    encode_page,
    file_bytes,
    header_bytes,
)

IDENTITY = bytes(range(32))
OTHER = bytes(range(1, 33))
PAGE_BYTES = 96


def page_of(seed: int, num_bytes: int = PAGE_BYTES) -> PageBytes:
    return np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)


def is_refused(blob: bytes, identity: bytes = IDENTITY, num_bytes: int = PAGE_BYTES) -> str:
    """Why the file is refused; that nothing of it has come through."""
    into = np.full(num_bytes, 7, dtype=np.uint8)
    with pytest.raises(BadPageError) as caught:
        decode_page(blob, identity, into)
    assert (into == 7).all()
    return caught.value.reason


@given(
    num_bytes=st.integers(1, 5000),
    identity=st.binary(min_size=32, max_size=32),
    seed=st.integers(0),
)
def test_what_is_written_is_read(num_bytes: int, identity: bytes, seed: int) -> None:
    page = page_of(seed, num_bytes)
    blob = encode_page(identity, page)
    assert len(blob) == file_bytes(num_bytes)
    into = np.zeros_like(page)
    decode_page(blob, identity, into)
    assert (into == page).all()


def test_any_tool_for_safetensors_reads_it(tmp_path: Path) -> None:
    page = page_of(0)
    blob = encode_page(IDENTITY, page)
    ((name, tensor),) = load(blob).items()
    assert (name, tensor.dtype) == ("page", np.uint8)
    assert (tensor == page).all()
    path = tmp_path / "page.safetensors"
    path.write_bytes(blob)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        assert (file.get_tensor("page") == page).all()
    assert metadata["format"] == "radixserve-page-1"
    assert metadata["identity"] == IDENTITY.hex()
    assert sorted(metadata) == ["checksum", "format", "identity"]
    # Tensors start aligned, as the format has it.
    assert header_bytes(PAGE_BYTES) % 8 == 0


def test_every_single_bit_counts() -> None:
    blob = encode_page(IDENTITY, page_of(1))
    for position in range(len(blob) * 8):
        damaged = bytearray(blob)
        damaged[position // 8] ^= 1 << position % 8
        is_refused(bytes(damaged))


def test_every_cut_counts() -> None:
    blob = encode_page(IDENTITY, page_of(1))
    for length in range(len(blob)):
        assert "bytes, a page's file has" in is_refused(blob[:length])
        # Torn: the rest is what a file system leaves where nothing was written. (A page that ends
        # in zeros loses nothing there; this one does not.)
        is_refused(blob[:length] + bytes(len(blob) - length))
        is_refused(bytes(len(blob) - length) + blob[length:] if length < len(blob) else b"")


BLOBS = st.binary(max_size=3)


@given(before=BLOBS, after=BLOBS, cut=st.integers(-3, 3), seed=st.integers(0, 9))
@example(before=b"\x00", after=b"", cut=-1, seed=0)
def test_shifted_or_stretched(before: bytes, after: bytes, cut: int, seed: int) -> None:
    blob = encode_page(IDENTITY, page_of(seed))
    changed = before + (blob[:cut] if cut < 0 else blob[cut:]) + after
    if changed != blob:
        is_refused(changed)


@settings(max_examples=200)
@given(
    spans=st.lists(
        st.tuples(st.integers(0, file_bytes(PAGE_BYTES) - 1), st.binary(min_size=1, max_size=40)),
        min_size=1,
        max_size=4,
    )
)
def test_anything_written_over_it(spans: list[tuple[int, bytes]]) -> None:
    blob = encode_page(IDENTITY, page_of(2))
    damaged = bytearray(blob)
    for start, new in spans:
        damaged[start : start + len(new)] = new
    damaged = damaged[: len(blob)]
    if bytes(damaged) != blob:
        is_refused(bytes(damaged))


@settings(max_examples=200)
@given(blob=st.binary(max_size=2 * file_bytes(8)), num_bytes=st.integers(1, 16))
def test_foreign_files(blob: bytes, num_bytes: int) -> None:
    is_refused(blob, num_bytes=num_bytes)
    # Of the right length: what the cheap check lets through.
    is_refused(blob.ljust(file_bytes(num_bytes), b"\x00")[: file_bytes(num_bytes)])


def test_reasons() -> None:
    page = page_of(3)
    blob = encode_page(IDENTITY, page)
    assert "another prefix" in is_refused(encode_page(OTHER, page))
    # Another page's file with this page's identity written over, and with its checksum as well.
    other = encode_page(OTHER, page_of(4))
    forged = other.replace(OTHER.hex().encode(), IDENTITY.hex().encode())
    into = np.zeros(PAGE_BYTES, dtype=np.uint8)
    decode_page(forged, IDENTITY, into)
    assert (into == page_of(4)).all(), "a whole, sound file is believed: the folder is ours alone"
    start = header_bytes(PAGE_BYTES)
    assert "checksum" in is_refused(blob[:start] + other[start:])
    assert "checksum" in is_refused(other[:start] + blob[start:], OTHER)
    assert "header" in is_refused(bytes(len(blob)))
    assert "96,000 bytes" not in is_refused(b"")
    assert "it has 0 bytes" in is_refused(b"")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_header_that_announces_anything_is_only_another_header(length: int) -> None:
    blob = encode_page(IDENTITY, page_of(5))
    assert "header" in is_refused(length.to_bytes(8, "little") + blob[8:])
    header = json.loads(blob[8 : header_bytes(PAGE_BYTES)])
    for name, value in (("shape", [length]), ("data_offsets", [0, length]), ("dtype", "F64")):
        header["page"] = {**header["page"], name: value}
        text = json.dumps(header).encode()
        assert is_refused(len(text).to_bytes(8, "little") + text + page_of(5).tobytes())
    nested = b"[" * (len(blob) - 8)
    assert "header" in is_refused(len(nested).to_bytes(8, "little") + nested)


def test_the_checksum_is_looked_for_where_it_is() -> None:
    # An identity that holds the digits of the checksum: the wrong place must not be taken for it.
    page = page_of(6)
    blob = encode_page(IDENTITY, page)
    checksum = json.loads(blob[8 : header_bytes(PAGE_BYTES)])["__metadata__"]["checksum"]
    identity = bytes.fromhex(checksum * 2)
    blob = encode_page(identity, page)
    into = np.zeros_like(page)
    decode_page(blob, identity, into)
    assert (into == page).all()
    flipped = blob[:-1] + bytes([blob[-1] ^ 1])
    assert "checksum" in is_refused(flipped, identity)


def test_the_room_needs_no_torch() -> None:
    code = (
        "import sys, radixserve.tiers.disk_tier, radixserve.tiers.page_names; "
        "sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=120)
