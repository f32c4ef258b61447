"""Parameters of the wrong type are refused at once, since nothing behind intake could."""

from typing import Any

import numpy as np
import pytest

from radixserve.errors import InvalidRequestError
from radixserve.sampling.params import SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2.0),
        ("n", True),
        ("n", None),
        ("top_k", 2.5),
        ("seed", 1.5),
        ("seed", "7"),
        ("max_tokens", 2.5),
        ("min_tokens", None),
        ("logprobs", True),
        ("temperature", "1"),
        ("temperature", False),
        ("temperature", 10**400),
        ("presence_penalty", None),
        ("logit_bias", {3: True}),
        ("logit_bias", 5),
        ("stop", 5),
        ("stop_token_ids", 5),
        ("logit_bias", {3: "1"}),
        ("ignore_eos", 1),
        ("include_stop", None),
    ],
)
def test_a_wrong_type_names_the_field(field: str, value: Any) -> None:
    """Regression: ``max_tokens=2.5`` never ended, and in the server it ended the engine process,
    whose decoder takes integers only, and with it everybody's streams."""
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


def test_none_and_arrays_are_lists_too() -> None:
    """Regression: an AttributeError, and numpy's complaint about an array's truth value."""
    given: dict[str, Any] = {
        "logit_bias": None,
        "stop": None,
        "stop_token_ids": np.array([1, 2]),
    }
    params = SamplingParams(**given)
    assert (params.logit_bias, params.stop, params.stop_token_ids) == ({}, (), (1, 2))


def test_numbers_of_other_types_become_plain_ones() -> None:
    """Regression: numpy's numbers passed every check and could not be put into a message."""
    numbers: dict[str, Any] = {
        "seed": np.int64(3),
        "max_tokens": np.uint8(9),
        "temperature": 1,
        "top_p": np.float32(0.5),
        "logit_bias": {1: np.float16(2)},
    }
    params = SamplingParams(**numbers)
    values = (params.seed, params.max_tokens, params.temperature, params.top_p)
    assert values == (3, 9, 1.0, 0.5)
    assert [type(value) for value in values] == [int, int, float, float]
    assert type(params.logit_bias[1]) is float
