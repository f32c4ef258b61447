"""How much memory there really is, how many KV pages, device and host, are to be made of it, and
how what was freed goes back.

What a process may still take is the least of what the machine has and of what every control group
around it (container, service, slice) still allows: a container's own limit does not show in
/proc/meminfo. File cache that the kernel would drop for us counts as available. Linux first, with a
portable fallback. No torch here.
"""

import ctypes
import logging
import os
import sys
from pathlib import Path

from radixserve.config import EngineConfig
from radixserve.errors import ConfigError

logger = logging.getLogger(__name__)

DEFAULT_SHARE = 0.4
"""Part of the available memory that becomes KV pages where nothing else is asked for."""

USEFUL_CONTEXTS = 256
"""Without a size asked for, the pool never exceeds this many (or ``max_running``, if that is more)
full contexts: a tiny model on a large machine needs no millions of pages."""

STAGED_PAGES = (64, 1024)
"""Where pages go to files and host memory is not asked for: the least and the most pages that may
be on their way at a time."""

STAGED_BYTES = 64 << 20
"""Between these bounds, this much."""

_GIB = 1 << 30


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that this process can still take, in bytes, without swapping or being killed.

    ``root`` is where ``proc`` and ``sys`` are found; tests bring their own.
    """
    return min(_machine_bytes(root), *_cgroup_bytes(root), 1 << 62)


def give_back_freed() -> None:
    """Return to the system what this process has freed, as far as its C library lets itself be
    told: glibc keeps blocks of less than 32 MiB, such as loading a model of 500M parameters frees
    (up to 170 MB of them). Elsewhere it does nothing.

    *Cost*: some 10 ms for each 100 MB.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def pages_for(
    config: EngineConfig,
    *,
    page_bytes: int,
    max_model_len: int,
    max_running: int,
    available: int,
    share: float = DEFAULT_SHARE,
) -> int:
    """Size of the pool in pages: what the config asks for, else ``share`` of ``available`` bytes.

    *Raises* ``ConfigError`` if a size in bytes comes to fewer pages than one request of
    ``max_model_len`` tokens needs. An explicit number of pages is taken as it is; longer requests
    are then refused one by one.
    """
    if config.num_pages is not None:
        return config.num_pages
    context_pages = -(-max_model_len // config.page_size)
    # One more, since a request may begin by copying a page that the tree still holds.
    needed = context_pages + 1
    if config.kv_cache_gib is not None:
        budget, origin = int(config.kv_cache_gib * _GIB), "kv_cache_gib"
        num_pages = budget // page_bytes
    else:
        budget = int(share * available)
        origin = f"{share:.0%} of the {available / _GIB:.2f} GiB available"
        useful = max(USEFUL_CONTEXTS, max_running) * needed
        num_pages = min(budget // page_bytes, useful)
    if num_pages < needed:
        raise ConfigError(
            f"the KV cache ({origin}: {budget / _GIB:.2f} GiB) holds {num_pages} pages of "
            f"{page_bytes} bytes; one request of max_model_len ({max_model_len}) tokens needs "
            f"{needed} ({needed * page_bytes / _GIB:.2f} GiB); lower max_model_len or raise "
            "kv_cache_gib"
        )
    logger.info(
        "KV cache: %d pages of %d tokens, %.2f GiB",
        num_pages,
        config.page_size,
        num_pages * page_bytes / _GIB,
    )
    return min(num_pages, 2**31 - 1)


def host_pages_for(
    config: EngineConfig, *, page_bytes: int, available: int, takes_kv_cache: bool
) -> int:
    """Size of the host tier in pages: what the config asks for; if it only names a directory,
    enough for pages on their way there and back; else none.

    ``available``: bytes of host memory. ``takes_kv_cache``: the KV cache is to be made of it, too.
    *Raises* ``ConfigError`` if the tier comes to less than two pages or does not fit.
    """
    if config.host_cache_gib is not None:
        num_pages = int(config.host_cache_gib * _GIB) // page_bytes
        name, remedy = "host_cache_gib", "lower host_cache_gib"
        if num_pages < 2:
            raise ConfigError(
                f"host_cache_gib ({config.host_cache_gib:g} GiB) holds {num_pages} pages of "
                f"{page_bytes} bytes; it must hold two at least ({2 * page_bytes / _GIB:.4f} GiB); "
                "raise it, or leave it out"
            )
    elif config.cache_dir is not None:
        least, most = STAGED_PAGES
        num_pages = min(max(least, STAGED_BYTES // page_bytes), most)
        name, remedy = "for cache_dir", "leave cache_dir out"
    else:
        return 0
    reserved = 0.0
    if takes_kv_cache and config.num_pages is None and config.kv_cache_gib is not None:
        reserved = config.kv_cache_gib
        remedy += ", or kv_cache_gib"
    wanted = num_pages * page_bytes / _GIB
    if wanted + reserved > available / _GIB:
        beside = f" beside a KV cache of {reserved:.2f} GiB" if reserved else ""
        raise ConfigError(
            f"the host cache ({name}: {wanted:.2f} GiB) does not fit{beside}: "
            f"{available / _GIB:.2f} GiB of memory are available; {remedy}"
        )
    logger.info("host cache: %d pages, %.2f GiB", num_pages, wanted)
    return min(num_pages, 2**31 - 1)


def _machine_bytes(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        logger.debug("no usable /proc/meminfo", exc_info=True)
    return _portable_bytes()


def _portable_bytes() -> int:
    """Free memory where the system tells it, else (macOS) half of what is installed."""
    page = os.sysconf("SC_PAGE_SIZE")
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return page * os.sysconf("SC_AVPHYS_PAGES")
    return page * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup_bytes(root: Path) -> list[int]:
    """What each control group around this process still allows."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            found += _walk(root / "sys/fs/cgroup", path, _V2)
        elif "memory" in controllers.split(","):
            found += _walk(root / "sys/fs/cgroup/memory", path, _V1)
    return found


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _walk(mount: Path, path: str, names: tuple[str, str, str]) -> list[int]:
    """From the process's group up to the mount point, since each level has a limit of its own.

    In a container the path may name a group that is not visible there; its levels are skipped and
    the mount point itself is the container's group.
    """
    group = mount / path.strip("/")
    levels = [group, *group.parents]
    remaining = (_remaining(level, names) for level in levels[: levels.index(mount) + 1])
    return [limit for limit in remaining if limit is not None]


def _remaining(group: Path, names: tuple[str, str, str]) -> int | None:
    """Limit - usage + reclaimable file cache of one group; None if it sets no limit."""
    limit_file, usage_file, cache_name = names
    try:
        limit = (group / limit_file).read_text().strip()
        if limit == "max":
            return None
        usage = int((group / usage_file).read_text())
        stat = (group / "memory.stat").read_text()
        cache = next(
            (int(line.split()[1]) for line in stat.splitlines() if line.split()[0] == cache_name),
            0,
        )
        return max(0, int(limit) - usage + cache)
    except (OSError, ValueError, IndexError):
        return None
