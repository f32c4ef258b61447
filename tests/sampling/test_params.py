"""SamplingParams: what is out of range names its field; what is silent is filled once."""

from typing import Any

import pytest

from radixserve.errors import InvalidRequestError
from radixserve.sampling.params import SamplingDefaults, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 65),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -2),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3.0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("logprobs", 21),
        ("seed", 2**64),
        ("stop", ["x"] * 65),
        ("stop", [""]),
        ("stop", [7]),
        ("stop", "x" * 5000),
        ("logit_bias", {3: 101.0}),
        ("logit_bias", {3: float("nan")}),
    ],
)
def test_out_of_range_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


def test_min_tokens_must_fit_max_tokens() -> None:
    with pytest.raises(InvalidRequestError, match=r"min_tokens \(5\) is greater than max_tokens"):
        SamplingParams(max_tokens=4, min_tokens=5)


def test_a_single_stop_string_is_one_string() -> None:
    assert SamplingParams(stop="end").stop == ("end",)  # type: ignore[arg-type]


def test_resolve_fills_what_is_silent_and_keeps_what_is_said() -> None:
    defaults = SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95, min_p=0.1)
    silent = SamplingParams().resolve(defaults, max_tokens=9, seed=3)
    assert (silent.temperature, silent.top_k, silent.top_p, silent.min_p) == (0.6, 20, 0.95, 0.1)
    assert (silent.repetition_penalty, silent.max_tokens, silent.seed) == (1.0, 9, 3)
    said = SamplingParams(temperature=0.0, top_k=-1, top_p=1.0, seed=0)
    said = said.resolve(defaults, max_tokens=9, seed=3)
    assert (said.temperature, said.top_k, said.top_p, said.seed) == (0.0, 0, 1.0, 0)
