"""JSON that every reader accepts, whatever a string holds; hypothesis looks for one that fails."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.errors import InvalidRequestError
from radixserve_frontend.json_text import decode_json, encode_json

# Surrogates included: st.text() leaves them out by default.
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=10,
)


@given(ANY_TEXT)
def test_any_string_survives_on_one_line(text: str) -> None:
    encoded = encode_json({"text": text})
    assert json.loads(encoded.decode("utf-8")) == {"text": _joined(text)}
    assert len(encoded.decode("utf-8").splitlines()) == 1


@given(VALUES)
def test_decoding_gives_the_value_or_refuses_it(value: Any) -> None:
    body = json.dumps(value).encode()
    meant = json.loads(body)
    try:
        json.dumps(meant, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        with pytest.raises(InvalidRequestError, match="lone surrogate"):
            decode_json(body)
    else:
        assert decode_json(body) == meant


@given(st.binary())
def test_decoding_bytes_gives_a_value_or_a_refusal(body: bytes) -> None:
    with suppress(InvalidRequestError):
        decode_json(body)


def test_a_whole_pair_is_text() -> None:
    assert decode_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json(value)


def _joined(text: str) -> str:
    """The same text with high and low halves that happen to be neighbours made one character: JSON
    does not know them apart."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
