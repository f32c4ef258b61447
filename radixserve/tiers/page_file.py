"""One page in one file: what it looks like, and how it is proved to be sound and the one meant.

    | length | JSON header, padded to a multiple of 8                        | data          |
    | 8      | format, identity (SHA-256), checksum; tensor "page": U8 [n]    | n bytes       |

That is a safetensors file, which any tool for these opens. The header is written here and not by
that package: it must be the same bytes each time, so that a file is checked by comparing its header
with the one that it must have. Nothing in a file is ever parsed, followed or allocated for; a
header of any content is at worst a different one. (The package also copies the data twice, holding
the interpreter's lock; its ``deserialize`` drops the metadata; and its ``serialize`` has changed
its arguments between versions.)

The identity is that of the prefix that ends with the page (``page_names.py``), the checksum is
xxh3_128 of the data. So every change of a file by accident is found, wherever it is. Who may write
into the directory could write anything, with the right checksum: it belongs to the server's user
alone.

Costs: a check reads the data once, at memory speed.
"""

import functools

import numpy as np
import numpy.typing as npt
import xxhash

from radixserve.errors import RadixServeError

PageBytes = npt.NDArray[np.uint8]
"""One page's keys and values as they lie in host memory, uint8[page_bytes], C-contiguous."""

FORMAT = "radixserve-page-1"
_IDENTITY_BYTES = 32
_CHECKSUM_BYTES = 16


class BadPageError(RadixServeError):
    """A file is not the page that was looked for: torn, cut, damaged, foreign. ``reason`` says."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@functools.cache
def header_bytes(page_bytes: int) -> int:
    """How long the header of a page of this size is, its length included."""
    nothing = bytes(_IDENTITY_BYTES)
    return len(_header(nothing, bytes(_CHECKSUM_BYTES).hex(), page_bytes))


def file_bytes(page_bytes: int) -> int:
    """How long the file of a page of this size is."""
    return header_bytes(page_bytes) + page_bytes


def page_header(identity: bytes, data: PageBytes) -> bytes:
    """What comes before the data in the page's file. ``identity``: 32 bytes."""
    return _header(identity, xxhash.xxh3_128_hexdigest(data.data), len(data))


def check_page(header: bytes | bytearray, identity: bytes, data: PageBytes) -> None:
    """That a file of this header and this data is the page of this identity, and sound.

    ``header``: any ``header_bytes`` bytes. *Raises* BadPageError.
    """
    checksum = xxhash.xxh3_128_hexdigest(data.data)
    expected = _header(identity, checksum, len(data))
    if header == expected:
        return
    start, end = _checksum_span(expected, checksum)
    if len(header) == len(expected):
        if header[:start] + header[end:] == expected[:start] + expected[end:]:
            raise BadPageError("its data does not have the checksum that its header states")
        identity_start = expected.index(identity.hex().encode())
        if header[:identity_start] == expected[:identity_start]:
            raise BadPageError("it holds the page of another prefix, namespace or model")
    raise BadPageError(f"its header is not that of a {FORMAT} file of {len(data):,} bytes of data")


def encode_page(identity: bytes, data: PageBytes) -> bytes:
    """The page's file: ``identity`` 32 bytes, ``data`` uint8[page_bytes]."""
    return page_header(identity, data) + data.tobytes()


def decode_page(blob: bytes, identity: bytes, into: PageBytes) -> None:
    """Take the page out of its file.

    *Mutates* ``into``, uint8[page_bytes], only if all is well. *Raises* BadPageError.
    """
    num_header_bytes = check_length(len(blob), len(into))
    data = np.frombuffer(blob, np.uint8, offset=num_header_bytes)
    check_page(blob[:num_header_bytes], identity, data)
    into[:] = data


def check_length(num_bytes: int, page_bytes: int) -> int:
    """That a file is as long as a page's must be. Returns the length of its header.

    *Raises* BadPageError.
    """
    expected = file_bytes(page_bytes)
    if num_bytes != expected:
        raise BadPageError(f"it has {num_bytes:,} bytes, a page's file has {expected:,}")
    return header_bytes(page_bytes)


def _header(identity: bytes, checksum: str, page_bytes: int) -> bytes:
    assert len(identity) == _IDENTITY_BYTES
    text = (
        f'{{"__metadata__":{{"format":"{FORMAT}","identity":"{identity.hex()}",'
        f'"checksum":"{checksum}"}},'
        f'"page":{{"dtype":"U8","shape":[{page_bytes}],"data_offsets":[0,{page_bytes}]}}}}'
    ).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _checksum_span(header: bytes, checksum: str) -> tuple[int, int]:
    # From the right: an identity could, however unlikely, hold the same digits.
    start = header.rindex(checksum.encode())
    return start, start + len(checksum)
