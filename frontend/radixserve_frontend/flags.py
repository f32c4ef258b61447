"""Command-line flags and environment variables, generated from a config dataclass.

    field  kv_cache_gib: float | None = option(None, "Size of ...")
    flag   --kv-cache-gib X
    env    RADIXSERVE_KV_CACHE_GIB

Precedence: flag, then environment, then the dataclass's default. A value that does not parse is an
error wherever it came from; nothing is ever guessed. Booleans are ``--x`` and ``--no-x``. The field
``model`` is positional. Secrets (``config.secret``) have no flag.
"""

import argparse
import types
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from radixserve.config import EngineConfig
from radixserve.errors import ConfigError

ENV_PREFIX = "RADIXSERVE_"
POSITIONAL = "model"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

ConfigT = TypeVar("ConfigT", bound=EngineConfig)


def env_name(field_name: str) -> str:
    """The environment variable that sets a field."""
    return ENV_PREFIX + field_name.upper()


def add_options(parser: argparse.ArgumentParser, config_class: type[EngineConfig]) -> None:
    """Add a flag for every field of ``config_class``. *Mutates* ``parser``.

    The class's own fields come first in the help, the engine's after them.
    """
    engine_names = {part.name for part in fields(EngineConfig)}
    own = parser.add_argument_group("this command")
    engine = parser.add_argument_group("model and engine")
    for part, value_type in _typed_fields(config_class):
        if part.metadata.get("env_only"):
            continue
        group = engine if part.name in engine_names else own
        if part.name == POSITIONAL:
            parser.add_argument(
                POSITIONAL, nargs="?", metavar="MODEL", default=argparse.SUPPRESS, help=_help(part)
            )
        elif value_type is bool:
            group.add_argument(
                _flag(part.name),
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=_help(part),
            )
        else:
            group.add_argument(
                _flag(part.name),
                type=_argparse_type(value_type),
                choices=part.metadata.get("choices") or None,
                metavar=None if part.metadata.get("choices") else _METAVARS[value_type],
                default=argparse.SUPPRESS,
                help=_help(part),
            )


def read_config(
    config_class: type[ConfigT], given: argparse.Namespace, environ: Mapping[str, str]
) -> ConfigT:
    """Build the config from parsed flags and the environment.

    *Raises* ``ConfigError`` naming the flag's field or the variable at fault.
    """
    values: dict[str, Any] = {}
    from_env: list[str] = []
    for part, value_type in _typed_fields(config_class):
        variable = env_name(part.name)
        if hasattr(given, part.name):
            values[part.name] = getattr(given, part.name)
        elif variable in environ:
            values[part.name] = _parse_env(variable, environ[variable], value_type)
            from_env.append(part.name)
    try:
        return config_class(**values)
    except ConfigError as error:
        blamed = [env_name(name) for name in from_env if name in str(error).split()]
        if not blamed:
            raise
        raise ConfigError(f"{error} (set by {', '.join(blamed)})") from None


def _typed_fields(config_class: type[EngineConfig]) -> list[tuple[Field[Any], type]]:
    hints = get_type_hints(config_class)
    return [(part, _plain_type(hints[part.name])) for part in fields(config_class)]


def _plain_type(hint: Any) -> type:
    """``int`` of ``int | None``: None is what an absent flag means, so no flag can say it."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [argument for argument in get_args(hint) if argument is not type(None)]
    assert hint in _PARSERS, f"no flag can carry a {hint}"
    return hint  # type: ignore[no-any-return]  # one of the keys of _PARSERS


def _parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(text)


_PARSERS: Mapping[type, Callable[[str], Any]] = {
    bool: _parse_bool,
    int: int,
    float: float,
    str: str,
}
_EXPECTED: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}
_METAVARS: Mapping[type, str] = {int: "N", float: "X", str: "TEXT"}


def _argparse_type(value_type: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return _PARSERS[value_type](text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {_EXPECTED[value_type]}") from None

    return parse


def _parse_env(variable: str, text: str, value_type: type) -> Any:
    try:
        return _PARSERS[value_type](text)
    except ValueError:
        hint = ""
        if "://" in text:
            # Kubernetes describes a Service named "radixserve" in variables that look like ours.
            hint = (
                "; if Kubernetes set it for a Service of that name, rename the Service or set "
                "enableServiceLinks: false"
            )
        raise ConfigError(
            f"{variable} is {text!r}; expected {_EXPECTED[value_type]}{hint}"
        ) from None


def _flag(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def _help(part: Field[Any]) -> str:
    """The field's sentence, its default (where that is None, the sentence tells), its variable."""
    notes = [] if part.default is None else [f"default: {part.default}"]
    notes.append(f"env: {env_name(part.name)}")
    # argparse formats help texts with the % operator.
    return f"{part.metadata['help']} ({'; '.join(notes)})".replace("%", "%%")
