"""What ``ModelConfig`` understands of a config.json, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from radixserve.errors import CheckpointError, ConfigError, UnsupportedModelError
from radixserve.model.config import ModelConfig
from radixserve.model.layout import count_parameters
from radixserve.model.registry import FAMILIES
from radixserve.sampling.params import SamplingDefaults
from tests.support.checkpoints import KINDS, make_checkpoint

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}

REMOVED = object()


def write(directory: Path, generation: dict[str, Any] | None = None, **changes: Any) -> Path:
    fields = {key: value for key, value in {**LLAMA, **changes}.items() if value is not REMOVED}
    (directory / "config.json").write_text(json.dumps(fields))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def read(directory: Path, generation: dict[str, Any] | None = None, **changes: Any) -> ModelConfig:
    return ModelConfig.from_dir(write(directory, generation, **changes))


def qwen(architecture: str, **changes: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "num_hidden_layers": 4, **changes}


# ---- shapes --------------------------------------------------------------------------------------


def test_published_llama_3_1_config(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "eos_token_id": [128001, 128008, 128009],
        },
        attention_bias=False,
        bos_token_id=128000,
        eos_token_id=[128001, 128008, 128009],
        hidden_act="silu",
        hidden_size=4096,
        intermediate_size=14336,
        max_position_embeddings=131072,
        mlp_bias=False,
        model_type="llama",
        num_attention_heads=32,
        num_hidden_layers=32,
        num_key_value_heads=8,
        pretraining_tp=1,
        rope_scaling={
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        rope_theta=500000.0,
        tie_word_embeddings=False,
        torch_dtype="bfloat16",
        vocab_size=128256,
    )
    assert count_parameters(config) == 8_030_261_248
    assert (config.head_dim, config.num_kv_heads, config.dtype) == (128, 8, "bfloat16")
    assert (config.rope.rope_type, config.rope.theta, config.rope.factor) == (
        "llama3",
        500000.0,
        8.0,
    )
    assert config.rope.original_max_position_embeddings == 8192
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert config.bos_token_id == 128000
    assert config.sampling_defaults == SamplingDefaults(temperature=0.6, top_p=0.9)
    assert config.resolve_max_model_len(None) == 131072


def test_published_qwen3_0_6b_config(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        {
            "do_sample": True,
            "eos_token_id": [151645, 151643],
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
        },
        architectures=["Qwen3ForCausalLM"],
        attention_bias=False,
        bos_token_id=151643,
        eos_token_id=151645,
        head_dim=128,
        hidden_size=1024,
        intermediate_size=3072,
        max_position_embeddings=40960,
        max_window_layers=28,
        num_attention_heads=16,
        num_hidden_layers=28,
        num_key_value_heads=8,
        rope_scaling=None,
        rope_theta=1000000,
        sliding_window=None,
        tie_word_embeddings=True,
        use_sliding_window=False,
        vocab_size=151936,
    )
    assert count_parameters(config) == 596_049_920
    assert config.qk_norm
    assert config.tie_word_embeddings
    assert not config.qkv_bias
    assert config.eos_token_ids == (151643, 151645)
    assert config.sampling_defaults == SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)


def test_published_qwen2_5_config_has_an_idle_window(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        architectures=["Qwen2ForCausalLM"],
        hidden_size=896,
        intermediate_size=4864,
        max_position_embeddings=32768,
        max_window_layers=21,
        num_attention_heads=14,
        num_hidden_layers=24,
        num_key_value_heads=2,
        rope_theta=1000000.0,
        sliding_window=32768,
        tie_word_embeddings=True,
        use_mrope=False,
        use_sliding_window=False,
        vocab_size=151936,
    )
    assert count_parameters(config) == 494_032_768
    assert config.qkv_bias
    assert not config.o_bias
    assert config.sliding_window is None
    assert config.resolve_max_model_len(None) == 32768


@pytest.mark.parametrize("kind", KINDS)
def test_both_rope_spellings_mean_the_same(kind: str, tmp_path: Path) -> None:
    new = make_checkpoint(kind, tmp_path / "new")
    fields = json.loads((new / "config.json").read_text())
    parameters = fields.pop("rope_parameters")
    fields["rope_theta"] = parameters.pop("rope_theta")
    parameters["type"] = parameters.pop("rope_type")
    fields["rope_scaling"] = None if parameters["type"] == "default" else parameters
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps(fields))
    (old / "generation_config.json").write_text((new / "generation_config.json").read_text())
    assert ModelConfig.from_dir(old) == ModelConfig.from_dir(new)


def test_absent_fields_mean_what_transformers_takes_them_to_mean(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        num_key_value_heads=REMOVED,
        max_position_embeddings=REMOVED,
        rms_norm_eps=REMOVED,
    )
    assert config.num_kv_heads == 4
    assert config.max_position_embeddings == 2048
    assert config.norm_eps == 1e-6
    assert config.rope.theta == 10000.0
    assert not config.tie_word_embeddings
    assert config.bos_token_id == 1
    assert config.eos_token_ids == (2,)


def test_null_kv_heads_means_no_groups(tmp_path: Path) -> None:
    config = read(tmp_path, architectures=["MistralForCausalLM"], num_key_value_heads=None)
    assert config.num_kv_heads == 4


def test_qwen3_heads_have_128_dimensions_unless_stated(tmp_path: Path) -> None:
    assert read(tmp_path, architectures=["Qwen3ForCausalLM"]).head_dim == 128
    assert read(tmp_path, architectures=["Qwen3ForCausalLM"], head_dim=32).head_dim == 32


# ---- end of sequence and sampling ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [
        (7, [9, 7], (7, 9)),
        (7, None, (7,)),
        (REMOVED, 9, (9,)),
        (None, 9, (9,)),
        (None, REMOVED, ()),
        (REMOVED, REMOVED, (2,)),
        ([5, -1, 320], REMOVED, (5,)),
    ],
)
def test_eos_ids_are_the_union_of_both_files(
    in_config: Any, in_generation: Any, expected: tuple[int, ...], tmp_path: Path
) -> None:
    generation = {} if in_generation is REMOVED else {"eos_token_id": in_generation}
    assert read(tmp_path, generation, eos_token_id=in_config).eos_token_ids == expected


@pytest.mark.parametrize("eos", ["</s>", [1, "x"], True, 1.5])
def test_malformed_eos_is_refused(eos: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id must be a token id"):
        read(tmp_path, eos_token_id=eos)


def test_sampling_defaults_without_a_generation_config(tmp_path: Path) -> None:
    assert read(tmp_path).sampling_defaults == SamplingDefaults()


def test_sampling_defaults_hold_whatever_do_sample_says(tmp_path: Path) -> None:
    generation = {
        "do_sample": False,
        "temperature": 0.7,
        "top_k": -1,
        "top_p": None,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
    }
    assert read(tmp_path, generation).sampling_defaults == SamplingDefaults(
        temperature=0.7, top_k=0, min_p=0.05, repetition_penalty=1.1
    )


@pytest.mark.parametrize(("name", "value"), [("temperature", -1), ("top_p", 0), ("top_k", "many")])
def test_sampling_defaults_out_of_range_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config.json.*{name}"):
        read(tmp_path, {name: value})


# ---- context length ------------------------------------------------------------------------------


def test_context_ends_at_max_position_embeddings(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert config.resolve_max_model_len(None) == 2048
    assert config.resolve_max_model_len(100) == 100
    with pytest.raises(
        ConfigError, match="max_model_len is 2049; this model's positions end at 2048"
    ):
        config.resolve_max_model_len(2049)


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 2048),
        ({"rope_type": "dynamic", "factor": 4.0}, 2048),
        (
            {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 512,
            },
            2048,
        ),
    ],
)
def test_context_that_each_rope_type_allows(
    rope: dict[str, Any], limit: int, tmp_path: Path
) -> None:
    config = read(tmp_path, rope_scaling=rope)
    assert config.resolve_max_model_len(None) == 2048
    assert config.resolve_max_model_len(limit) == limit
    with pytest.raises(ConfigError, match=f"end at {limit}"):
        config.resolve_max_model_len(limit + 1)


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 512}, 512),
        ({"architectures": ["MistralForCausalLM"]}, 4096),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, None),
        (
            {
                "architectures": ["MistralForCausalLM"],
                "sliding_window": 512,
                "layer_types": ["sliding_attention"] * 2,
            },
            512,
        ),
        (qwen("Qwen2ForCausalLM", sliding_window=512), None),
        (qwen("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=512), None),
        (
            qwen(
                "Qwen2ForCausalLM", use_sliding_window=True, sliding_window=512, max_window_layers=3
            ),
            512,
        ),
        (
            qwen(
                "Qwen3ForCausalLM", use_sliding_window=True, sliding_window=512, max_window_layers=4
            ),
            None,
        ),
        (
            qwen(
                "Qwen3ForCausalLM",
                use_sliding_window=True,
                sliding_window=512,
                max_window_layers=0,
                layer_types=["full_attention"] * 4,
            ),
            None,
        ),
        (
            qwen(
                "Qwen3ForCausalLM",
                use_sliding_window=True,
                sliding_window=512,
                layer_types=["full_attention", "sliding_attention"] * 2,
            ),
            512,
        ),
    ],
)
def test_sliding_windows_are_found(
    changes: dict[str, Any], window: int | None, tmp_path: Path
) -> None:
    config = read(tmp_path, max_position_embeddings=8192, **changes)
    assert config.sliding_window == window
    if window is None:
        assert config.resolve_max_model_len(None) == 8192
        return
    assert config.resolve_max_model_len(window) == window
    for wanted in (None, window + 1):
        with pytest.raises(UnsupportedModelError, match=f"max_model_len to at most {window}"):
            config.resolve_max_model_len(wanted)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("compression_config", {"format": "pack-quantized"}),
        ("hidden_act", "gelu"),
        ("pretraining_tp", 2),
        ("is_causal", False),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("query_pre_attn_scalar", 256),
        ("attention_multiplier", 0.5),
        ("attention_chunk_size", 8192),
        ("embedding_multiplier", 12.0),
        ("residual_multiplier", 0.22),
        ("logits_scaling", 8.0),
        ("logit_scale", 0.0625),
        ("use_mrope", True),
        ("no_rope_layers", [1, 1, 1, 0]),
        ("num_experts", 8),
        ("num_local_experts", 8),
        ("partial_rotary_factor", 0.5),
        ("rope_scaling", {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
        ("rope_scaling", {"type": "default", "mrope_section": [16, 24, 24]}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.25}),
        ("rope_parameters", {"full_attention": {"rope_type": "default"}}),
        ("layer_types", ["full_attention", "linear_attention"]),
    ],
)
def test_unbuilt_features_are_refused_by_name(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as error:
        read(tmp_path, **{key: value})
    assert str(tmp_path / "config.json") in str(error.value)
    assert key in str(error.value)
    assert "support" in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "swish"),
        ("pretraining_tp", 1),
        ("quantization_config", None),
        ("logits_scaling", 1.0),
        ("use_mrope", False),
        ("partial_rotary_factor", 1.0),
        ("layer_types", ["full_attention"] * 2),
        ("rope_scaling", {}),
        ("rope_scaling", {"rope_type": "default", "factor": None, "something": None}),
    ],
)
def test_features_that_are_off_are_accepted(key: str, value: Any, tmp_path: Path) -> None:
    plain = read(tmp_path)
    assert read(tmp_path, **{key: value}) == plain


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "Qwen2ForCausalLM"])
def test_other_kinds_of_layers_are_refused(architecture: str, tmp_path: Path) -> None:
    kinds = ["full_attention", "chunked_attention"]
    with pytest.raises(UnsupportedModelError, match=r"layer_types .*chunked_attention"):
        read(tmp_path, architectures=[architecture], layer_types=kinds)


def test_sliding_layers_without_a_window_contradict_themselves(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention"]
    with pytest.raises(CheckpointError, match="contradicts itself"):
        read(tmp_path, architectures=["Qwen3ForCausalLM"], layer_types=kinds)


def test_unknown_architecture_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as error:
        read(tmp_path, architectures=["GPT2LMHeadModel"])
    assert "'GPT2LMHeadModel'" in str(error.value)
    assert all(name in str(error.value) for name in FAMILIES)


@pytest.mark.parametrize("names", [REMOVED, [], ["LlamaForCausalLM", "X"], "LlamaForCausalLM"])
def test_architecture_must_be_named_once(names: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="architectures must name one architecture"):
        read(tmp_path, architectures=names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": REMOVED}, "hidden_size is missing"),
        ({"vocab_size": "320"}, 'vocab_size must be a whole number of at least 1, found "320"'),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number of at least 1"),
        ({"num_attention_heads": True}, "num_attention_heads must be a whole number"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps must be a positive, finite number"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be a number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must be a divisor of the 4"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "head_dim is missing"),
        ({"head_dim": 15}, "15 dimensions"),
        ({"layer_types": "full_attention"}, "layer_types must be a list of strings"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_theta": 0}, "rope_theta must be a positive"),
        ({"rope_theta": 1.0}, "rope_theta is 1.0; it must exceed 1"),
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            },
            "disagree on factor",
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 2.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 4.0,
                }
            },
            "high_freq_factor must be greater than low_freq_factor",
        ),
    ],
)
def test_malformed_configs_are_refused_by_field(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read as JSON"), ("[]", "must hold a JSON object")]
)
def test_config_that_is_no_json_object(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dir(tmp_path)


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        ModelConfig.from_dir(tmp_path)


def test_reading_a_config_imports_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from radixserve.model.config import ModelConfig; "
        f"from radixserve.model.layout import count_parameters; "
        f"count_parameters(ModelConfig.from_dir(Path({str(write(tmp_path))!r}))); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
