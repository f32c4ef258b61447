"""Flags and variables come from the dataclass: precedence, refusals, help."""

import argparse
from dataclasses import fields

import pytest

from radixserve.config import EngineConfig
from radixserve.errors import ConfigError
from radixserve_frontend.config import ChatConfig, ServerConfig, engine_config
from radixserve_frontend.flags import add_options, env_name, read_config


def parse(*arguments: str, **environ: str) -> ServerConfig:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, ServerConfig)
    variables = {f"RADIXSERVE_{name}": value for name, value in environ.items()}
    return read_config(ServerConfig, parser.parse_args(arguments), variables)


def test_nothing_given_is_the_default() -> None:
    assert parse() == ServerConfig()


def test_flag_wins_over_environment_wins_over_default() -> None:
    assert parse(PORT="9001").port == 9001
    assert parse("--port", "9002", PORT="9001").port == 9002
    assert parse("a/model", MODEL="b").model == "a/model"
    assert parse(MODEL="b").model == "b"


def test_every_type_is_parsed() -> None:
    config = parse(
        "--kv-cache-gib", "1.5", "--num-pages", "64", "--dtype", "float32",
        "--no-enable-prefix-cache", "--served-model-name", "name",
    )  # fmt: skip
    assert config.kv_cache_gib == 1.5
    assert config.num_pages == 64
    assert config.dtype == "float32"
    assert config.enable_prefix_cache is False
    assert config.served_model_name == "name"


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("True", True), ("on", True), ("no", False), ("0", False)]
)
def test_booleans_of_the_environment(text: str, value: bool) -> None:
    assert parse(ENABLE_PREFIX_CACHE=text).enable_prefix_cache is value


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("PORT", "http", "RADIXSERVE_PORT is 'http'; expected a whole number"),
        ("PORT", "", "RADIXSERVE_PORT is ''; expected a whole number"),
        ("PORT", "tcp://10.0.0.1:8000", "enableServiceLinks"),
        ("PORT", "70000", "port is 70000; it must lie in [0, 65535] (set by RADIXSERVE_PORT)"),
        ("KV_CACHE_GIB", "lots", "expected a number"),
        ("KV_CACHE_GIB", "nan", "kv_cache_gib is nan"),
        ("ENABLE_PREFIX_CACHE", "maybe", "expected true or false"),
        ("DTYPE", "int3", "one of auto, float32, bfloat16, float16 (set by RADIXSERVE_DTYPE)"),
        ("LOG_LEVEL", "chatty", "one of debug, info, warning, error"),
        ("HOST", "", "host is empty"),
    ],
)
def test_bad_values_of_the_environment(name: str, value: str, fragment: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(**{name: value})
    assert fragment in str(raised.value)


def test_a_bad_value_that_a_flag_overrides_does_not_matter() -> None:
    assert parse("--port", "1", PORT="http").port == 1


def test_a_bad_value_of_a_flag_does_not_blame_the_environment() -> None:
    with pytest.raises(ConfigError) as raised:
        parse("--port", "70000", HOST="localhost")
    assert str(raised.value) == "port is 70000; it must lie in [0, 65535]"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--port", "http"], "'http' is not a whole number"),
        (["--dtype", "int3"], "invalid choice"),
        (["--prot", "1"], "unrecognized arguments"),
        (["--kv-cache", "1"], "unrecognized arguments"),
        (["a", "b"], "unrecognized arguments"),
    ],
)
def test_bad_flags(arguments: list[str], fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(*arguments)
    assert exit_.value.code == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"port": -1},
        {"shutdown_timeout_s": -1.0},
        {"shutdown_timeout_s": float("nan")},
        {"max_body_bytes": 0},
        {"max_choices": 0},
        {"sse_ping_s": 0.0},
        {"served_model_name": ""},
        {"page_size": 0},
    ],
)
def test_ranges(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ServerConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"url": "localhost"}, {"temperature": -1.0}, {"max_tokens": 0}, {"num_pages": 1}]
)
def test_ranges_of_chat(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ChatConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("config_class", [ServerConfig, ChatConfig])
def test_every_option_is_in_the_help_with_its_sentence(config_class: type[EngineConfig]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, config_class)
    text = " ".join(parser.format_help().split())
    for part in fields(config_class):
        if part.metadata.get("env_only"):
            assert "--" + part.name.replace("_", "-") + " " not in text
            continue
        flag = "MODEL" if part.name == "model" else "--" + part.name.replace("_", "-")
        assert flag in text
        assert env_name(part.name) in text
        # argparse breaks lines at hyphens.
        assert " ".join(part.metadata["help"].split())[:25] in text.replace("- ", "-")


def test_the_engine_gets_its_part_only() -> None:
    config = ServerConfig(port=1, num_pages=64, model="x")
    assert type(engine_config(config)) is EngineConfig
    assert engine_config(config) == EngineConfig(num_pages=64, model="x")


def test_names_of_the_model() -> None:
    assert ServerConfig(model="a").model_names == ("a",)
    assert ServerConfig(model="a", served_model_name="a").model_names == ("a",)
    assert ServerConfig(model="a", served_model_name="b").model_names == ("b", "a")
