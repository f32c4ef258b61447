"""What ``radixserve serve`` says when it is ready: what is served, where, and a line to try."""

import json
import shlex
import textwrap

from radixserve.types import EngineInfo
from radixserve_frontend.config import ServerConfig

_WIDTH = 12
_NOTE_WIDTH = 88


def banner(info: EngineInfo, config: ServerConfig, url: str, note: str | None) -> str:
    """A few lines for a person. ``note``, if any, comes last, where it is seen."""
    num_tokens = info.num_pages * info.page_size
    pool = f"{info.num_pages:,} pages of {info.page_size} = {num_tokens:,} tokens"
    pool += f" ({info.kv_cache_bytes / 2**30:.2f} GiB)"
    rows = (
        ("model", f"{config.model_names[0]} ({info.architecture}, {_count(info.num_parameters)})"),
        ("runs on", f"{info.device}, {_number_types(info)}, {info.attention} attention"),
        ("context", f"{info.max_model_len:,} tokens"),
        ("KV cache", pool),
        *_tier_rows(info, config),
        ("loaded in", f"{info.load_seconds:.1f} s"),
        ("listening", url),
    )
    lines = ["", *(f"  {name:<{_WIDTH}}{value}" for name, value in rows)]
    lines += ["", "  try it:", f"    {curl_line(config, url)}", ""]
    if note is not None:
        lines += [
            *textwrap.wrap(note, _NOTE_WIDTH, initial_indent="  ", subsequent_indent="  "),
            "",
        ]
    return "\n".join(lines)


def _number_types(info: EngineInfo) -> str:
    if info.quantization == "none":
        return info.dtype
    return f"{info.dtype} with {info.quantization} weights"


def _tier_rows(info: EngineInfo, config: ServerConfig) -> list[tuple[str, str]]:
    """What lies below the KV cache, if anything does."""
    rows = []
    # With a directory alone, the host pages are only on their way there or back.
    if config.host_cache_gib is not None:
        num_bytes = info.num_host_pages * info.kv_cache_bytes // info.num_pages
        num_tokens = info.num_host_pages * info.page_size
        pages = f"{info.num_host_pages:,} pages = {num_tokens:,} tokens"
        rows.append(("host cache", f"{pages} ({num_bytes / 2**30:.2f} GiB)"))
    if info.cache_dir is not None:
        rows.append(("kept in", f"{info.cache_dir} (at most {config.cache_dir_gib:g} GiB)"))
    return rows


def curl_line(config: ServerConfig, url: str) -> str:
    """A command that streams an answer."""
    body = {
        "model": config.model_names[0],
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": True,
    }
    return (
        f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d {shlex.quote(json.dumps(body))}"
    )


def _count(num_parameters: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if num_parameters >= size:
            return f"{num_parameters / size:.3g}{unit} parameters"
    return f"{num_parameters} parameters"
