"""A stream that nobody reads takes the room of its answer; who reads it later misses nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.engine.interface import TextDelta
from radixserve.engine.request_stream import MAX_UNREAD_DELTAS, RequestStream
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import CacheReport, EngineRequest, TokenDelta, TokenLogprob
from support.byte_tokenizer import write_byte_tokenizer

REPORT = CacheReport(device_tokens=1, in_flight_tokens=0, computed_tokens=1, cause="diverged")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(directory)
    return Tokenizer.from_dir(directory)


def stream_of(tokenizer: Tokenizer, n: int) -> RequestStream:
    request = EngineRequest(
        request_id=RequestId("r"),
        prompt_ids=[1],
        params=SamplingParams(n=n, logprobs=0),
        end_token_ids=[],
    )
    return RequestStream(
        request, tokenizer, lambda *_: None, continues_prompt=False, visible_ids=frozenset()
    )


def token(index: int, number: int, *, is_first: bool, is_last: bool) -> TokenDelta:
    token_id = ord("a") + number % 26
    return TokenDelta(
        request_id=RequestId("r"),
        index=index,
        token_ids=[token_id],
        logprobs=[TokenLogprob(token_id=token_id, logprob=-float(number), top=[])],
        finish_reason="length" if is_last else None,
        num_cached_tokens=1,
        cache_report=REPORT if is_first else None,
    )


def said(deltas: Sequence[TextDelta], index: int) -> dict[str, Any]:
    """All that is told of one choice."""
    own = [delta for delta in deltas if delta.index == index]
    return {
        "text": "".join(delta.text for delta in own),
        "token_ids": [token_id for delta in own for token_id in delta.token_ids],
        "logprobs": [entry for delta in own for entry in delta.logprobs or ()],
        "ends": [delta.finish_reason for delta in own if delta.finish_reason],
        "reports": [delta.cache_report for delta in own if delta.cache_report],
        "cached": max(delta.num_cached_tokens for delta in own),
        "ended_last": own[-1].finish_reason is not None,
    }


@given(
    n=st.integers(1, 4),
    num_tokens=st.integers(1, 500),
    reads=st.lists(st.integers(0, 500), max_size=5),
)
async def test_whenever_it_is_read_it_says_the_same(
    tokenizer: Tokenizer, n: int, num_tokens: int, reads: list[int]
) -> None:
    stream = stream_of(tokenizer, n)
    fed: list[TextDelta] = []
    read: list[TextDelta] = []
    for number in range(num_tokens):
        for index in range(n):
            delta = token(
                index,
                number,
                is_first=number == index == 0,
                is_last=number == num_tokens - 1,
            )
            stream.feed(delta)
            fed.append(
                TextDelta(
                    index=index,
                    text=chr(delta.token_ids[0]),
                    token_ids=delta.token_ids,
                    logprobs=delta.logprobs,
                    finish_reason=delta.finish_reason,
                    num_cached_tokens=1,
                    cache_report=delta.cache_report,
                )
            )
            assert len(stream._deltas) <= 2 * MAX_UNREAD_DELTAS + n
        if number in reads:
            read.append(await anext(stream))
    read += [delta async for delta in stream]
    for index in range(n):
        assert said(read, index) == said(fed, index)
    if not reads and n * num_tokens > 2 * MAX_UNREAD_DELTAS + n:
        assert len(read) < n * num_tokens


async def test_without_logprobs_there_are_none(tokenizer: Tokenizer) -> None:
    stream = stream_of(tokenizer, 1)
    for _ in range(3 * MAX_UNREAD_DELTAS):
        stream.feed(TokenDelta(request_id=RequestId("r"), index=0, token_ids=[97]))
    delta = await anext(stream)
    assert len(delta.text) > MAX_UNREAD_DELTAS
    assert delta.logprobs is None


async def test_it_says_how_long_it_waited(tokenizer: Tokenizer) -> None:
    stream = stream_of(tokenizer, 1)
    waited_s = [stream.queued_s]
    stream.admitted()
    waited_s.append(stream.queued_s)
    assert waited_s[0] is None
    assert waited_s[1] is not None
    assert waited_s[1] >= 0
    # Another process admits it once more; that is no queue of the client's.
    stream.admitted()
    assert stream.queued_s == waited_s[1]
