"""Names and identities against hashes spelled out, and that nothing shares a seed."""

import hashlib

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from radixserve.ids import Namespace, TokenArray
from radixserve.tiers.page_names import ChainState, PageKey, PageNamer

MODEL = hashlib.sha256(b"a model").digest()
ALICE = Namespace("alice")
BOB = Namespace("bob")


def tokens_of(tokens: list[int]) -> TokenArray:
    return np.array(tokens, dtype=np.int32)


def links(seed: bytes, tokens: list[int], page_size: int, kind: str) -> list[bytes]:
    """The chain, link by link as the module's docstring has it."""
    made = []
    for start in range(0, len(tokens) - page_size + 1, page_size):
        text = seed + b"".join(
            token.to_bytes(4, "little") for token in tokens[start : start + page_size]
        )
        seed = xxhash.xxh3_128(text).digest() if kind == "name" else hashlib.sha256(text).digest()
        made.append(seed)
    return made


@given(
    tokens=st.lists(st.integers(0, 2**31 - 1), max_size=90),
    page_size=st.integers(1, 9),
    data=st.data(),
)
def test_a_chain_is_its_links(tokens: list[int], page_size: int, data: st.DataObject) -> None:
    num_public = data.draw(st.integers(0, len(tokens)))
    namer = PageNamer(MODEL, page_size)
    chain = namer.chain(ALICE, tokens_of(tokens), num_public)
    num_pages = len(tokens) // page_size
    assert chain.num_pages == num_pages
    expected = {
        owner: (
            links(namer.seed(owner).name, tokens, page_size, "name"),
            links(namer.seed(owner).identity, tokens, page_size, "identity"),
        )
        for owner in (ALICE, None)
    }
    # In any order: what is made lazily is the same whoever asks first.
    for page in data.draw(st.permutations(range(num_pages))):
        owner = None if (page + 1) * page_size <= num_public else ALICE
        names, identities = expected[owner]
        assert chain.folder(page) == namer.owner_name(owner)
        assert chain.identity(page) == identities[page]
        assert chain.name(page) == names[page]
        assert chain.key(page) == PageKey(namer.owner_name(owner), names[page], identities[page])
        assert (len(names[page]), len(identities[page])) == (16, 32)


@given(
    tokens=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    page_size=st.integers(1, 7),
    data=st.data(),
)
def test_chains_go_on_from_any_border(
    tokens: list[int], page_size: int, data: st.DataObject
) -> None:
    namer = PageNamer(MODEL, page_size)
    array = tokens_of(tokens)
    whole = namer.advance(namer.seed(BOB), array)
    num_pages = len(tokens) // page_size
    assert len(whole) == num_pages
    border = data.draw(st.integers(0, num_pages))
    before = whole[border - 1] if border else namer.seed(BOB)
    assert isinstance(before, ChainState)
    rest = array[border * page_size :]
    assert namer.advance(before, rest) == whole[border:]
    assert namer.names_after(before.name, rest) == [state.name for state in whole[border:]]
    chain = namer.chain(BOB, array)
    assert [chain.name(page) for page in range(num_pages)] == [state.name for state in whole]
    assert [chain.identity(page) for page in range(num_pages)] == [
        state.identity for state in whole
    ]


def test_every_token_before_matters() -> None:
    namer = PageNamer(MODEL, 4)
    tokens = np.arange(16, dtype=np.int32)
    chain = namer.chain(ALICE, tokens)
    for changed in range(16):
        other = tokens.copy()
        other[changed] += 1
        different = namer.chain(ALICE, other)
        for page in range(4):
            is_same = page < changed // 4
            assert (chain.name(page) == different.name(page)) is is_same
            assert (chain.identity(page) == different.identity(page)) is is_same


NAMESPACES = st.one_of(
    st.none(), st.builds(Namespace, st.text(st.characters(exclude_categories=()), max_size=6))
)
SEEDS = st.tuples(st.binary(max_size=6), st.integers(1, 300), NAMESPACES)


@given(first=SEEDS, second=SEEDS)
def test_no_two_share_a_seed_or_a_folder(
    first: tuple[bytes, int, Namespace | None], second: tuple[bytes, int, Namespace | None]
) -> None:
    namers = [PageNamer(fingerprint, page_size) for fingerprint, page_size, _ in (first, second)]
    owners = [owner for _, _, owner in (first, second)]
    is_same = first == second
    seeds = [namer.seed(owner) for namer, owner in zip(namers, owners, strict=True)]
    assert (seeds[0].name == seeds[1].name) is is_same
    assert (seeds[0].identity == seeds[1].identity) is is_same
    folders = [namer.owner_name(owner) for namer, owner in zip(namers, owners, strict=True)]
    assert (folders[0] == folders[1]) is is_same
    assert all(len(bytes.fromhex(folder)) == 8 for folder in folders)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # What a plain concatenation would confuse.
        ((b"ab", 1, Namespace("c")), (b"a", 1, Namespace("bc"))),
        ((b"m", 1, Namespace("1")), (b"m", 11, Namespace(""))),
        ((b"m", 16, None), (b"m", 16, Namespace(""))),
        ((b"m", 16, None), (b"m", 16, Namespace("None"))),
        ((b"m", 16, Namespace("\ud800")), (b"m", 16, Namespace("\ufffd"))),
        ((b"m", 16, Namespace("\x00")), (b"m", 16, Namespace(""))),
    ],
)
def test_what_looks_alike_differs(
    first: tuple[bytes, int, Namespace | None], second: tuple[bytes, int, Namespace | None]
) -> None:
    seeds = [
        PageNamer(fingerprint, page_size).seed(owner)
        for fingerprint, page_size, owner in (first, second)
    ]
    assert seeds[0].name != seeds[1].name
    assert seeds[0].identity != seeds[1].identity


def test_tokens_of_any_byte_order_and_stride() -> None:
    namer = PageNamer(MODEL, 4)
    tokens = np.arange(1, 33, dtype=np.int32)
    expected = namer.names_after(b"", tokens[::2].copy())
    assert namer.names_after(b"", tokens[::2]) == expected
    assert namer.names_after(b"", tokens[::2].astype(">i4")) == expected


GOLDEN = [
    PageKey(
        "a8b387e309138674",
        bytes.fromhex("3e83bd6fbe11b4a62d50c05e4b5b4912"),
        bytes.fromhex("39608af46b567c0f4a82a4ef0081ef548a3d8d40580e7ee2ea07213b69c587c5"),
    ),
    PageKey(
        "d8c2cd9bbebe347a",
        bytes.fromhex("25937df6bde04d52390a397f150fdc87"),
        bytes.fromhex("8329bd16c84c0958cce5971dcd7ff87d33df1874984d4b31ae01a65684520b0a"),
    ),
    PageKey(
        "d8c2cd9bbebe347a",
        bytes.fromhex("a6c3fa88c7396c26428bf90e1add821a"),
        bytes.fromhex("0348b7a55428dcd9d64b97c945b05052d64dd6e318bd4f13d62108dd52ebaa17"),
    ),
]


def test_names_outlive_versions() -> None:
    # Yesterday's files must be found today: if this fails, the format has changed and needs a new
    # number (page_names._FORMAT).
    chain = PageNamer(b"\x01" * 32, 4).chain(ALICE, np.arange(12, dtype=np.int32), 5)
    assert [chain.key(page) for page in range(3)] == GOLDEN
