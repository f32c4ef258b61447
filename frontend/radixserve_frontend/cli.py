"""The command line: ``radixserve serve``, ``radixserve chat``, ``radixserve --version``.

Only what parsing needs is imported here; the server, the engine and torch behind it are imported by
the command that runs them, so ``--help`` and ``--version`` answer at once. Exit status: 0 for a
clean end, 1 when a start failed, 2 for a wrong option, 130 after Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from radixserve.errors import ConfigError, RadixServeError
from radixserve_frontend.config import ChatConfig, ServerConfig
from radixserve_frontend.flags import add_options, env_name, read_config
from radixserve_frontend.logs import configure_logging

_DESCRIPTION = "A chat server for language models that prefills only what its cache does not hold."
_EPILOG = """\
examples:
  radixserve serve                              the built-in demo model on http://127.0.0.1:8000
  radixserve serve Qwen/Qwen3-0.6B --port 9000  a model from the Hugging Face hub
  radixserve chat --url http://127.0.0.1:8000   talk to a server that is running

Every option can also be set in the environment (RADIXSERVE_PORT=9000); a flag wins over it. API
keys come from a file (serve --api-keys-file) or from RADIXSERVE_API_KEYS (TENANT:KEY,...): there is
no flag for them, because flags are in every list of processes.
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line as argparse sees it."""
    parser = argparse.ArgumentParser(
        prog="radixserve",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="Print the version and exit.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="Serve a model over HTTP, in OpenAI's dialect.",
        description="Serve a model over HTTP, in OpenAI's dialect.",
        allow_abbrev=False,
    )
    add_options(serve, ServerConfig)
    chat = commands.add_parser(
        "chat",
        help="Chat in the terminal, with an engine here or with a server elsewhere.",
        description="Chat in the terminal. After each answer: time to first token, tokens per "
        "second, and how many prompt tokens the cache already held.",
        allow_abbrev=False,
    )
    add_options(chat, ChatConfig)
    return parser


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run a command; return its exit status. ``argv``, ``environ``: by default the process's."""
    parser = build_parser()
    given = parser.parse_args(argv)
    environ = os.environ if environ is None else environ
    if given.version:
        from importlib.metadata import version  # noqa: PLC0415  # paid only when asked for

        print(f"radixserve {version('radixserve')}")
        return 0
    if given.command is None:
        parser.print_help()
        return 2
    try:
        if given.command == "serve":
            return _serve(read_config(ServerConfig, given, environ))
        return _chat(read_config(ChatConfig, given, environ))
    except RadixServeError as error:
        print(f"radixserve: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130


def _serve(config: ServerConfig) -> int:
    configure_logging(
        config.log_level, log_format=config.log_format, log_requests=config.log_requests
    )
    # The engine's process has no use for them.
    os.environ.pop(env_name("api_keys"), None)
    from radixserve_frontend.server import run_server  # noqa: PLC0415  # Starlette, torch

    return run_server(config)


def _chat(config: ChatConfig) -> int:
    configure_logging(config.log_level)
    from radixserve_frontend.terminal import run_terminal  # noqa: PLC0415  # rich, httpx, torch

    return run_terminal(config)
