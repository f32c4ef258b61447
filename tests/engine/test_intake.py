"""The gate: what cannot be served is refused with both numbers; the rest leaves nothing open."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.engine.intake import Intake
from radixserve.errors import ContextLengthError, InvalidRequestError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import CacheHints, EngineInfo, EngineRequest, PrefixMark
from support.byte_tokenizer import write_byte_tokenizer

VOCAB_SIZE = 260
CONTEXT = 100


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """It knows 264 tokens, the model 260."""
    directory: Path = tmp_path_factory.mktemp("bytes")
    write_byte_tokenizer(directory)
    return Tokenizer.from_dir(directory)


def intake(tokenizer: Tokenizer, *, num_pages: int = 50, page_size: int = 4) -> Intake:
    info = EngineInfo(
        model="m",
        model_dir="d",
        architecture="a",
        num_parameters=1,
        device="cpu",
        dtype="float32",
        attention="torch",
        max_model_len=CONTEXT,
        vocab_size=VOCAB_SIZE,
        page_size=page_size,
        num_pages=num_pages,
        kv_cache_bytes=num_pages * page_size,
        eos_token_ids=[259],
        sampling_defaults=SamplingDefaults(temperature=0.6, top_k=20, top_p=0.9, min_p=0.1),
        load_seconds=0.0,
    )
    return Intake(info, tokenizer)


def admit(gate: Intake, prompt: Any, **params: Any) -> EngineRequest:
    return gate.admit(RequestId("r"), prompt, SamplingParams(**params))


def test_everything_left_open_is_filled(tokenizer: Tokenizer) -> None:
    request = intake(tokenizer).admit(
        RequestId("r7"), [1, 2, 3], SamplingParams(top_p=0.5), namespace=Namespace("n")
    )
    assert (request.request_id, request.prompt_ids, request.namespace) == ("r7", [1, 2, 3], "n")
    params = request.params
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.6, 20, 0.5, 0.1)
    assert params.repetition_penalty == 1.0
    assert params.max_tokens == CONTEXT - 3
    assert params.seed is not None
    assert admit(intake(tokenizer), [1]).namespace == DEFAULT_NAMESPACE


def test_seeds_are_kept_or_drawn(tokenizer: Tokenizer) -> None:
    gate = intake(tokenizer)
    assert admit(gate, [1], seed=0).params.seed == 0
    assert admit(gate, [1], seed=-5).params.seed == -5
    drawn = {admit(gate, [1]).params.seed for _ in range(8)}
    assert len(drawn) == 8


@settings(deadline=None)
@given(
    num_prompt=st.integers(1, 130),
    max_tokens=st.none() | st.integers(1, 130),
    page_size=st.integers(1, 16),
    num_pages=st.integers(2, 40),
)
def test_admits_exactly_what_fits(
    tokenizer: Tokenizer,
    num_prompt: int,
    max_tokens: int | None,
    page_size: int,
    num_pages: int,
) -> None:
    gate = intake(tokenizer, num_pages=num_pages, page_size=page_size)

    def fits(answer: int) -> bool:
        pages = -(-(num_prompt + answer - 1) // page_size)
        return num_prompt + answer <= CONTEXT and pages <= num_pages

    if fits(max_tokens or 1):
        admitted = admit(gate, [7] * num_prompt, max_tokens=max_tokens).params.max_tokens
        assert admitted is not None
        assert fits(admitted)
        assert admitted == max_tokens if max_tokens else not fits(admitted + 1)
    else:
        with pytest.raises(ContextLengthError) as caught:
            admit(gate, [7] * num_prompt, max_tokens=max_tokens)
        assert caught.value.code == "context_length_exceeded"
        assert str(num_prompt) in str(caught.value)


def refused(gate: Intake, prompt: Any, **params: Any) -> ContextLengthError:
    with pytest.raises(ContextLengthError) as caught:
        admit(gate, prompt, **params)
    return caught.value


def test_what_is_too_long_is_told_both_numbers(tokenizer: Tokenizer) -> None:
    gate = intake(tokenizer)
    error = refused(gate, [1] * 101)
    assert str(error) == (
        "This model's maximum context length is 100 tokens. However, your prompt has 101 tokens. "
        "Shorten the prompt."
    )
    assert error.param == "prompt"
    assert "has 100 tokens and leaves no room for an answer" in str(refused(gate, [1] * 100))
    error = refused(gate, [1] * 90, max_tokens=11)
    assert str(error) == (
        "This model's maximum context length is 100 tokens. However, you requested 101 tokens (90 "
        "in the prompt, 11 for the answer). Lower max_tokens to at most 10, or shorten the prompt."
    )
    assert error.param == "max_tokens"


def test_what_the_pool_can_never_hold_is_told_both_numbers(tokenizer: Tokenizer) -> None:
    gate = intake(tokenizer, num_pages=5, page_size=4)
    error = refused(gate, [1] * 21)
    assert str(error) == (
        "The KV cache of this server holds 20 tokens (5 pages of 4). However, your prompt has 21 "
        "tokens. Shorten the prompt, or start the server with a larger --kv-cache-gib or "
        "--num-pages."
    )
    assert admit(gate, [1] * 20).params.max_tokens == 1
    error = refused(gate, [1] * 15, max_tokens=7)
    assert "you requested 22 tokens (15 in the prompt, 7 for the answer)" in str(error)
    assert "Lower max_tokens to at most 6, or shorten the prompt, or start" in str(error)
    assert error.param == "max_tokens"


def test_min_tokens_must_fit_too(tokenizer: Tokenizer) -> None:
    error = refused(intake(tokenizer), [1] * 90, min_tokens=11)
    assert "min_tokens is 11, but your prompt of 90 tokens leaves room for 10" in str(error)
    assert error.param == "min_tokens"
    assert admit(intake(tokenizer), [1] * 90, min_tokens=10).params.max_tokens == 10


@pytest.mark.parametrize("num_tokens", [0, -1, 4])
def test_marks_lie_in_the_prompt(tokenizer: Tokenizer, num_tokens: int) -> None:
    gate = intake(tokenizer)
    good = PrefixMark(num_tokens=3, keep_s=300.0)
    bad = PrefixMark(num_tokens=num_tokens, keep_s=300.0)
    late = PrefixMark(num_tokens=3, keep_s=1e6)
    request = gate.admit(
        RequestId("r"), [1, 2, 3], SamplingParams(), hints=CacheHints(marks=(good,))
    )
    assert request.hints.marks == (good,)
    for wrong in (bad, late):
        with pytest.raises(InvalidRequestError) as refused:
            gate.admit(
                RequestId("r"), [1, 2, 3], SamplingParams(), hints=CacheHints(marks=(good, wrong))
            )
        assert refused.value.param == "cache_control"


def test_an_empty_prompt(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="prompt is empty") as caught:
        admit(intake(tokenizer), [])
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        ([1, -1], "token id -1 at position 1"),
        ([VOCAB_SIZE, -3], r"token id 260 \('<\|pad\|>'\) at position 0"),
        ([1, 2, 2**31], "token id 2147483648 at position 2"),
        ([2**63], "token id 9223372036854775808 at position 0"),
        ([2**64, 1], "not a token id"),
        ([10**30], "not a token id"),
        ([1, -1, 2**63], "not a token id"),
        ([1.0, 2.5], "not a token id"),
        ([True], "not a token id"),
        (["1"], "not a token id"),
        ([None], "not a token id"),
        ([[1, 2]], "not a token id"),
        ([[1], [1, 2]], "not a token id"),
        ("text", "not a token id"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "stop_token_ids", "logit_bias"])
def test_what_is_no_token_id_is_refused_everywhere(
    tokenizer: Tokenizer, field: str, ids: Any, complaint: str
) -> None:
    fields: dict[str, Any] = {"prompt": [1], field: ids}
    if field == "logit_bias":
        # Lists cannot be keys; tuples make the same matrix.
        keys = [tuple(token_id) if isinstance(token_id, list) else token_id for token_id in ids]
        fields[field] = dict.fromkeys(keys, 1.0)
    with pytest.raises(InvalidRequestError, match=complaint) as caught:
        admit(intake(tokenizer), fields.pop("prompt"), **fields)
    assert caught.value.param == field


def test_ids_in_the_vocabulary_are_admitted_everywhere(tokenizer: Tokenizer) -> None:
    ids = list(range(90))
    request = admit(
        intake(tokenizer),
        np.array(ids, np.int32),
        stop_token_ids=(0, 259),
        logit_bias={0: 1, 259: 2},
    )
    assert request.prompt_ids == ids
    assert all(type(token_id) is int for token_id in request.prompt_ids)
