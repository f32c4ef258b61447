"""Messages survive the way through bytes unchanged, and nothing else is understood."""

import string
from dataclasses import fields
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.engine.messages import (
    Abort,
    Answer,
    Ask,
    CacheEvents,
    CacheStatsRead,
    ClearCache,
    Cleared,
    Explain,
    Explained,
    Failed,
    FromEngine,
    NotAnswered,
    Ping,
    Pong,
    PrefillAhead,
    ReadCacheStats,
    Ready,
    SetPublic,
    Step,
    Submit,
    ToEngine,
    WatchCache,
    WatchFailed,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from radixserve.ids import Namespace, RequestId
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.types import (
    MISS_CAUSES,
    REFUSAL_REASONS,
    CacheEvent,
    CacheExplanation,
    CacheHints,
    CacheInfo,
    CacheReport,
    CacheStats,
    EngineInfo,
    EngineRequest,
    EngineStats,
    PrefixMark,
    ResumedChoice,
    TierInfo,
    TokenDelta,
    TokenLogprob,
)

COUNTS = st.integers(0, 2**63 - 1)
TOKENS = st.integers(0, 2**31 - 1)
TEXTS = st.text(max_size=20)
IDS = st.text(string.hexdigits, min_size=1, max_size=32).map(RequestId)
LOGPROBS = st.floats(max_value=0.0, allow_nan=False)


@st.composite
def params(draw: st.DrawFn) -> SamplingParams:
    max_tokens = draw(st.integers(1, 2**31 - 1))
    return SamplingParams(
        n=draw(st.integers(1, 64)),
        temperature=draw(st.none() | st.floats(0, 100)),
        top_k=draw(st.none() | st.integers(-1, 1000)),
        top_p=draw(st.none() | st.floats(0.01, 1)),
        min_p=draw(st.none() | st.floats(0, 1)),
        repetition_penalty=draw(st.none() | st.floats(0.01, 100)),
        presence_penalty=draw(st.floats(-2, 2)),
        frequency_penalty=draw(st.floats(-2, 2)),
        logit_bias=draw(st.dictionaries(TOKENS, st.floats(-100, 100), max_size=3)),
        seed=draw(st.none() | st.integers(-(2**63), 2**64 - 1)),
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        stop=tuple(draw(st.lists(st.text(min_size=1, max_size=9), max_size=3))),
        stop_token_ids=tuple(draw(st.lists(TOKENS, max_size=3))),
        ignore_eos=draw(st.booleans()),
        logprobs=draw(st.none() | st.integers(0, 20)),
    )


REQUESTS = st.builds(
    EngineRequest,
    request_id=IDS,
    prompt_ids=st.lists(TOKENS, min_size=1, max_size=40),
    params=params(),
    end_token_ids=st.lists(TOKENS, max_size=3),
    namespace=TEXTS.map(Namespace),
    hints=st.builds(
        CacheHints,
        keep_s=st.floats(0, 1e5),
        marks=st.lists(
            st.builds(PrefixMark, num_tokens=st.integers(1, 99), keep_s=st.floats(0, 1e5)),
            max_size=4,
        ).map(tuple),
        returns_soon=st.booleans(),
    ),
    tenant=TEXTS,
    priority=st.integers(-(2**31), 2**31 - 1),
    resumed=st.lists(
        st.builds(ResumedChoice, index=st.integers(0, 63), token_ids=st.lists(TOKENS, max_size=9)),
        max_size=3,
    ),
)

TOKEN_LOGPROBS = st.builds(
    TokenLogprob,
    token_id=TOKENS,
    logprob=LOGPROBS,
    top=st.lists(st.tuples(TOKENS, LOGPROBS), max_size=3),
)

CAUSES = st.sampled_from(MISS_CAUSES)
AGES = st.none() | st.floats(0, 1e9)
REPORTS = st.builds(
    CacheReport,
    device_tokens=COUNTS,
    host_tokens=COUNTS,
    disk_tokens=COUNTS,
    in_flight_tokens=COUNTS,
    computed_tokens=COUNTS,
    cause=CAUSES,
    evicted_seconds_ago=AGES,
)

DELTAS = st.builds(
    TokenDelta,
    request_id=IDS,
    index=st.integers(0, 63),
    token_ids=st.lists(TOKENS, max_size=3),
    logprobs=st.none() | st.lists(TOKEN_LOGPROBS, max_size=3),
    finish_reason=st.sampled_from([None, "stop", "length", "abort", "error"]),
    stop_token_id=st.none() | TOKENS,
    num_cached_tokens=COUNTS,
    cache_report=st.none() | REPORTS,
    error=st.none() | TEXTS,
)

CACHES = st.builds(CacheInfo, **{field.name: COUNTS for field in fields(CacheInfo)})
TIERS = st.builds(TierInfo, **{field.name: COUNTS for field in fields(TierInfo)})
STATS = st.builds(
    EngineStats,
    **{
        field.name: COUNTS
        for field in fields(EngineStats)
        if field.name not in ("cache", "tiers", "admissions", "refused", "expected_wait_s")
    },
    cache=CACHES,
    tiers=st.none() | TIERS,
    admissions=st.dictionaries(CAUSES, COUNTS),
    refused=st.dictionaries(st.sampled_from(REFUSAL_REASONS), COUNTS),
    expected_wait_s=st.floats(0, 1e6),
)
INFOS = st.builds(
    EngineInfo,
    **{
        field.name: TEXTS if field.type is str else COUNTS
        for field in fields(EngineInfo)
        if field.type in (str, int)
    },
    eos_token_ids=st.lists(TOKENS, max_size=3),
    sampling_defaults=st.builds(SamplingDefaults, temperature=st.floats(0, 2)),
    load_seconds=st.floats(0, 1e6),
    cache_dir=st.none() | TEXTS,
)

HASHES = st.integers(0, 2**64 - 1)
EVENTS = st.builds(
    CacheEvent,
    kind=st.sampled_from(["snapshot", "stored", "removed", "cleared"]),
    hashes=st.lists(HASHES, max_size=3),
    parent=st.none() | HASHES,
    count=COUNTS,
)

NAMESPACES = TEXTS.map(Namespace)
QUESTIONS = (
    st.builds(Explain, st.lists(TOKENS, max_size=9), NAMESPACES)
    | st.builds(ClearCache, st.none() | NAMESPACES)
    | st.just(ReadCacheStats())
)
EXPLANATIONS = st.builds(
    CacheExplanation,
    num_prompt_tokens=COUNTS,
    matched_tokens=COUNTS,
    host_tokens=COUNTS,
    disk_tokens=COUNTS,
    cause=CAUSES,
    evicted_seconds_ago=AGES,
    in_other_namespaces=st.booleans(),
)
CACHE_STATS = st.builds(
    CacheStats, engine=STATS, num_namespaces=COUNTS, num_nodes=COUNTS, eviction_policy=TEXTS
)
REPLIES = (
    st.builds(Explained, EXPLANATIONS)
    | st.builds(Cleared, COUNTS)
    | st.builds(CacheStatsRead, CACHE_STATS)
    | st.builds(NotAnswered, TEXTS)
)

TO_ENGINE = (
    st.builds(SetPublic, st.lists(st.lists(TOKENS, max_size=9), max_size=3))
    | st.builds(PrefillAhead, st.lists(TOKENS, max_size=9), TEXTS.map(Namespace), TEXTS)
    | st.builds(Submit, REQUESTS)
    | st.builds(Abort, IDS, st.none() | st.integers(0, 63))
    | st.builds(WatchCache, st.none() | COUNTS)
    | st.builds(Ask, COUNTS, QUESTIONS)
    | st.just(Ping())
)
FROM_ENGINE = (
    st.builds(Ready, INFOS)
    | st.builds(Failed, TEXTS, TEXTS)
    | st.builds(Step, st.lists(DELTAS, max_size=4), STATS, st.lists(IDS, max_size=3))
    | st.builds(Answer, COUNTS, REPLIES)
    | st.builds(CacheEvents, st.lists(EVENTS, max_size=3), st.none() | COUNTS)
    | st.just(WatchFailed())
    | st.just(Pong())
)


@given(message=TO_ENGINE)
def test_messages_to_the_engine_survive(message: ToEngine) -> None:
    assert decode_to_engine(encode(message)) == message


@given(message=FROM_ENGINE)
def test_messages_from_the_engine_survive(message: FromEngine) -> None:
    assert decode_from_engine(encode(message)) == message


@given(message=FROM_ENGINE)
def test_one_direction_is_not_taken_for_the_other(message: FromEngine) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_to_engine(encode(message))


@given(data=st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    for decode in (decode_to_engine, decode_from_engine):
        with pytest.raises(msgspec.DecodeError):
            decode(data)


@given(message=TO_ENGINE, data=st.data())
def test_a_torn_message_is_refused(message: ToEngine, data: st.DataObject) -> None:
    whole = encode(message)
    with pytest.raises(msgspec.DecodeError):
        decode_to_engine(whole[: data.draw(st.integers(0, len(whole) - 1))])


REQUEST = EngineRequest(
    request_id=RequestId("r"),
    prompt_ids=[1],
    params=SamplingParams(temperature=0.5, max_tokens=3),
    end_token_ids=[2],
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_ids", ["1"]),
        ("prompt_ids", None),
        ("prompt_ids", [1.5]),
        ("request_id", 7),
        ("params", {"temperature": "hot"}),
        ("params", {"temperature": -1.0}),
        ("params", []),
        ("namespace", None),
    ],
)
def test_a_field_of_the_wrong_type_or_range_is_refused(field: str, value: Any) -> None:
    plain = msgspec.msgpack.decode(encode(Submit(REQUEST)))
    assert decode_to_engine(msgspec.msgpack.encode(plain)) == Submit(REQUEST)
    plain["request"][field] = value
    with pytest.raises(msgspec.ValidationError):
        decode_to_engine(msgspec.msgpack.encode(plain))
    del plain["request"][field]
    if field != "namespace":
        with pytest.raises(msgspec.ValidationError, match=field):
            decode_to_engine(msgspec.msgpack.encode(plain))
