"""Available memory from made-up /proc and /sys trees, and the number of pages made of it."""

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from radixserve.config import EngineConfig
from radixserve.errors import ConfigError
from radixserve.memory import (
    DEFAULT_SHARE,
    available_bytes,
    give_back_freed,
    host_pages_for,
    pages_for,
)

GIB = 1 << 30


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def meminfo(gib: float) -> str:
    return f"MemTotal:  99999999 kB\nMemFree:  5 kB\nMemAvailable:  {int(gib * (1 << 20))} kB"


def test_the_machine_alone(tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, {"proc/meminfo": meminfo(3)})) == 3 * GIB


def test_cgroup_v2_is_searched_upwards_and_cache_is_reclaimable(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/meminfo": meminfo(64),
            "proc/self/cgroup": "0::/slice/service",
            "sys/fs/cgroup/slice/service/memory.max": "max",
            "sys/fs/cgroup/slice/service/memory.current": GIB,
            "sys/fs/cgroup/slice/service/memory.stat": "inactive_file 1",
            "sys/fs/cgroup/slice/memory.max": 8 * GIB,
            "sys/fs/cgroup/slice/memory.current": 5 * GIB,
            "sys/fs/cgroup/slice/memory.stat": f"anon 7\ninactive_file {2 * GIB}",
        },
    )
    assert available_bytes(root) == 5 * GIB


def test_a_containers_own_group_is_the_mount_point(tmp_path: Path) -> None:
    """The path of a group outside the container's view leads nowhere; its limit counts anyway."""
    root = write(
        tmp_path,
        {
            "proc/meminfo": meminfo(64),
            "proc/self/cgroup": "0::/docker/abc",
            "sys/fs/cgroup/memory.max": 4 * GIB,
            "sys/fs/cgroup/memory.current": GIB,
            "sys/fs/cgroup/memory.stat": "anon 7",
        },
    )
    assert available_bytes(root) == 3 * GIB


def test_cgroup_v1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/abc"
    root = write(
        tmp_path,
        {
            "proc/meminfo": meminfo(64),
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
            f"{group}/memory.limit_in_bytes": 2 * GIB,
            f"{group}/memory.usage_in_bytes": 3 * GIB,
            f"{group}/memory.stat": "cache 1\ntotal_inactive_file 0",
        },
    )
    assert available_bytes(root) == 0, "over the limit is nothing left, not less than nothing"


@pytest.mark.parametrize("content", ["MemTotal: 5 kB", "MemAvailable: many kB", "MemAvailable:"])
def test_an_unusable_meminfo_falls_back(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"SC_PAGE_SIZE": 4096, "SC_AVPHYS_PAGES": 100, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)
    monkeypatch.setattr(os, "sysconf_names", values)
    assert available_bytes(write(tmp_path, {"proc/meminfo": content})) == 4096 * 100


def test_without_proc_or_free_pages_half_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)
    monkeypatch.setattr(os, "sysconf_names", values)
    assert available_bytes(tmp_path) == 4096 * 500


def test_unreadable_limits_are_no_limits(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/meminfo": meminfo(2),
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": "plenty",
            "sys/fs/cgroup/a/memory.current": 1,
            "sys/fs/cgroup/a/memory.stat": "",
        },
    )
    assert available_bytes(root) == 2 * GIB


def test_this_machine_has_some() -> None:
    assert available_bytes() > 1 << 20


def pages(
    config: EngineConfig,
    *,
    page_bytes: int,
    max_model_len: int,
    available: int,
    max_running: int = 64,
    share: float = DEFAULT_SHARE,
) -> int:
    return pages_for(
        config,
        page_bytes=page_bytes,
        max_model_len=max_model_len,
        max_running=max_running,
        available=available,
        share=share,
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_was_freed_between_other_blocks_goes_back_to_the_system() -> None:
    """As while a model loads: each weight is freed behind what was made of it."""
    size = 4 << 20
    # Once such a block was freed, glibc no longer gives each of them a mapping of its own.
    bytearray(2 * size)
    blocks = [b"x" * size for _ in range(24)]
    del blocks[::2]
    before = resident_bytes()
    give_back_freed()
    assert before - resident_bytes() > 8 * size
    assert len(blocks) == 12


def test_explicit_pages_are_taken_as_they_are() -> None:
    config = EngineConfig(num_pages=7, kv_cache_gib=1.0)
    assert pages(config, page_bytes=10**9, max_model_len=10**6, available=0) == 7


def test_explicit_bytes_are_all_used() -> None:
    config = EngineConfig(kv_cache_gib=2.0)
    assert pages(config, page_bytes=1 << 20, max_model_len=160, available=0) == 2048


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_the_default_is_a_share_of_what_is_available(share: float) -> None:
    config, available = EngineConfig(), 10 * GIB
    found = pages(config, page_bytes=1 << 20, max_model_len=1600, available=available, share=share)
    assert found == int(share * 10 * 1024)


def test_the_default_is_bounded_by_what_is_useful() -> None:
    config, available = EngineConfig(), 10 * GIB
    assert pages(config, page_bytes=1, max_model_len=1600, available=available) == 256 * 101
    many = pages(config, page_bytes=1, max_model_len=1600, available=available, max_running=1000)
    assert many == 1000 * 101


@pytest.mark.parametrize("kv_cache_gib", [None, 0.001])
def test_a_pool_smaller_than_one_context_is_refused(kv_cache_gib: float | None) -> None:
    config = EngineConfig(kv_cache_gib=kv_cache_gib)
    with pytest.raises(ConfigError, match=r"holds \d+ pages .* max_model_len \(8000\).*needs 501"):
        pages(config, page_bytes=1 << 20, max_model_len=8000, available=10 << 20)


def host_pages(
    *, page_bytes: int = 1 << 20, available: int = 64 * GIB, on_cpu: bool = True, **settings: Any
) -> int:
    return host_pages_for(
        EngineConfig(**settings),
        page_bytes=page_bytes,
        available=available,
        takes_kv_cache=on_cpu,
    )


def test_no_host_tier_unless_asked_for() -> None:
    assert host_pages() == 0


def test_host_memory_is_as_large_as_asked_for() -> None:
    assert host_pages(host_cache_gib=2.0) == 2048
    assert host_pages(host_cache_gib=2.0, cache_dir="/somewhere") == 2048


@pytest.mark.parametrize(
    ("page_bytes", "expected"), [(100, 1024), (1 << 17, 512), (1 << 20, 64), (8 << 20, 64)]
)
def test_a_directory_alone_takes_room_for_pages_on_their_way(
    page_bytes: int, expected: int
) -> None:
    assert host_pages(page_bytes=page_bytes, cache_dir="/somewhere") == expected


def test_a_host_tier_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"host_cache_gib: 3\.00 GiB\) does not fit: 2\.00 .*; lower host_cache"
    ):
        host_pages(host_cache_gib=3.0, available=2 * GIB)
    with pytest.raises(ConfigError, match=r"for cache_dir: .* does not fit: .*leave cache_dir out"):
        host_pages(cache_dir="/somewhere", available=1 << 20)
    assert host_pages(host_cache_gib=2.0, available=2 * GIB) == 2048


def test_what_both_tiers_ask_for_must_fit_together_where_memory_is_one() -> None:
    sizes: dict[str, Any] = {"host_cache_gib": 1.5, "kv_cache_gib": 1.0, "available": 2 * GIB}
    with pytest.raises(ConfigError, match=r"beside a KV cache of 1\.00 GiB.*or kv_cache_gib"):
        host_pages(**sizes)
    assert host_pages(**sizes, on_cpu=False) == 1536
    # A number of pages overrides their size.
    assert host_pages(**sizes, num_pages=9) == 1536


def test_a_host_tier_of_hardly_a_page_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds 1 pages of 1048576 bytes; it must hold two"):
        host_pages(host_cache_gib=1.5 / 1024)
