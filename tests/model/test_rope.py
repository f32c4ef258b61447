"""Rotary frequencies against transformers' for any parameters; what a rotation must preserve."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from radixserve.model.json_config import JsonConfig
from radixserve.model.rope import RopeTable, inverse_frequencies, rotate
from radixserve.model.rope_parameters import RopeParameters, read_rope_parameters

CPU = torch.device("cpu")
MAX_POSITION_EMBEDDINGS = 16384


@st.composite
def rope_fields(draw: st.DrawFn) -> dict[str, Any]:
    """A ``rope_parameters`` object of any type that transformers computes by a function."""
    rope_type = draw(st.sampled_from(["linear", "dynamic", "yarn", "llama3"]))
    fields: dict[str, Any] = {
        "rope_type": rope_type,
        "rope_theta": draw(st.sampled_from([100.0, 10_000.0, 500_000.0, 1_000_000.0])),
        "factor": draw(st.floats(1.0, 64.0)),
    }
    if rope_type in ("yarn", "llama3"):
        fields["original_max_position_embeddings"] = draw(st.sampled_from([64, 512, 4096, 8192]))
    if rope_type == "llama3":
        fields["low_freq_factor"] = draw(st.floats(0.5, 2.0))
        fields["high_freq_factor"] = draw(st.floats(2.5, 8.0))
    if rope_type == "yarn":
        optional = {
            "attention_factor": st.floats(0.5, 2.0),
            "beta_fast": st.floats(8.0, 64.0),
            "beta_slow": st.floats(0.5, 8.0),
            "mscale": st.sampled_from([0.0, 0.707, 1.0]),
            "mscale_all_dim": st.sampled_from([0.0, 0.707, 1.0]),
            "truncate": st.booleans(),
        }
        for name in draw(st.sets(st.sampled_from(sorted(optional)))):
            fields[name] = draw(optional[name])
    return fields


@settings(max_examples=150, deadline=None)
@given(rope_fields(), st.sampled_from([4, 16, 64, 128]))
def test_frequencies_equal_transformers(fields: dict[str, Any], head_dim: int) -> None:
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=MAX_POSITION_EMBEDDINGS,
        rope_parameters=dict(fields),
    )
    expected, expected_scale = ROPE_INIT_FUNCTIONS[fields["rope_type"]](config)
    parameters = read_rope_parameters(
        JsonConfig("config.json", {"rope_parameters": fields}), MAX_POSITION_EMBEDDINGS
    )
    found, scale = inverse_frequencies(parameters, head_dim)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
    assert scale == pytest.approx(expected_scale, rel=1e-12)


def test_yarn_without_a_range_to_blend_over() -> None:
    """Both ends of the range fall on one dimension: nothing may be divided by zero."""
    fields = {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 8192,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "truncate": False,
    }
    parameters = read_rope_parameters(JsonConfig("config.json", {"rope_scaling": fields}), 8192)
    found, _ = inverse_frequencies(parameters, 64)
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, head_dim=64, rope_parameters=dict(fields)
    )
    expected, _ = ROPE_INIT_FUNCTIONS["yarn"](config)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


def test_yarn_factor_may_follow_from_the_lengths() -> None:
    fields = {"rope_type": "yarn", "original_max_position_embeddings": 2048}
    parameters = read_rope_parameters(JsonConfig("config.json", {"rope_scaling": fields}), 8192)
    assert parameters.factor == 4.0


def test_original_length_beside_the_rope_object_wins() -> None:
    fields = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}
    config = {"rope_scaling": fields, "original_max_position_embeddings": 1024}
    parameters = read_rope_parameters(JsonConfig("config.json", config), 8192)
    assert parameters.original_max_position_embeddings == 1024


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_scores_depend_on_distance_only(first: int, second: int, shift: int) -> None:
    table = RopeTable(RopeParameters(), 16, 1001, dtype=torch.float32, device=CPU)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 3, 16, generator=generator)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        turned_query = rotate(query, table.at(torch.tensor([query_position])))
        turned_key = rotate(key, table.at(torch.tensor([key_position])))
        return (turned_query * turned_key).sum(-1)

    torch.testing.assert_close(
        score(first, second), score(first + shift, second + shift), rtol=1e-3, atol=1e-3
    )


def test_position_zero_turns_nothing_and_strided_heads_are_left_alone() -> None:
    table = RopeTable(RopeParameters(), 8, 4, dtype=torch.float32, device=CPU)
    heads = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    before = heads.clone()
    turned = rotate(heads[:, :3], table.at(torch.tensor([0, 3])))
    assert torch.equal(turned[0], heads[0, :3])
    assert not torch.allclose(turned[1], heads[1, :3])
    assert torch.equal(heads, before)
    assert turned.is_contiguous()


def test_table_made_in_runs_is_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = RopeTable(RopeParameters(), 8, 50, dtype=torch.float32, device=CPU)
    monkeypatch.setattr("radixserve.model.rope._POSITIONS_AT_A_TIME", 16)
    pieces = RopeTable(RopeParameters(), 8, 50, dtype=torch.float32, device=CPU)
    positions = torch.arange(50)
    assert pieces.num_positions == 50
    assert torch.equal(whole.at(positions).cos, pieces.at(positions).cos)
    assert torch.equal(whole.at(positions).sin, pieces.at(positions).sin)
