"""The parts of supervision that are no more than a decision each: blame, restarts, hanging,
quarantine, figures, and the directories of dead servers."""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from radixserve.engine.blame import Blame, count_oom_kills
from radixserve.engine.client import Exit
from radixserve.engine.figures import Figures
from radixserve.engine.quarantine import MAX_QUARANTINED, QUARANTINE_S, Quarantine
from radixserve.engine.restarts import (
    MAX_BARREN_DEATHS,
    MAX_IDLE_DEATHS,
    STABLE_S,
    RestartPolicy,
)
from radixserve.engine.socket_dir import SocketDirectory, remove_stale
from radixserve.engine.watchdog import Watchdog
from radixserve.errors import InvalidRequestError
from radixserve.ids import Namespace, RequestId
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.types import (
    NO_HINTS,
    CacheHints,
    CacheInfo,
    EngineInfo,
    EngineRequest,
    EngineStats,
    TierInfo,
)

# -- blame ----------------------------------------------------------------------------------------


class OomKills:
    """What the kernel counts."""

    def __init__(self) -> None:
        self.count = 7

    def __call__(self) -> int:
        return self.count


@pytest.mark.parametrize(
    ("status", "counts"),
    [
        (0, True),
        (1, True),
        (-signal.SIGSEGV, True),
        (-signal.SIGABRT, True),
        (-signal.SIGBUS, True),
        (-signal.SIGTERM, False),
        (-signal.SIGINT, False),
        (-signal.SIGHUP, False),
        (-signal.SIGKILL, False),
    ],
)
def test_a_signal_from_outside_counts_against_nobody(status: int, counts: bool) -> None:
    blame = Blame(OomKills())
    blame.begin()
    assert blame.counts(Exit(status, None), has_progressed=False) is counts


def test_what_was_killed_by_us_counts() -> None:
    blame = Blame(OomKills())
    assert blame.counts(Exit(-signal.SIGKILL, "it made no progress"), has_progressed=True)


def test_a_kill_by_the_kernel_for_memory_counts() -> None:
    kills = OomKills()
    blame = Blame(kills)
    for _ in range(2):
        blame.begin()
        kills.count += 1
        assert blame.counts(Exit(-signal.SIGKILL, None), has_progressed=True)
    blame.begin()
    assert not blame.counts(Exit(-signal.SIGKILL, None), has_progressed=True)


def test_a_second_kill_without_progress_counts_and_one_with_progress_does_not() -> None:
    blame, killed = Blame(OomKills()), Exit(-signal.SIGKILL, None)
    blame.begin()
    assert not blame.counts(killed, has_progressed=False)
    assert not blame.counts(killed, has_progressed=True)
    assert blame.counts(killed, has_progressed=False)
    assert blame.counts(killed, has_progressed=False)
    blame.counts(Exit(1, None), has_progressed=False)
    assert not blame.counts(killed, has_progressed=False)


def test_the_kernels_count_is_read_if_there_is_one(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    assert count_oom_kills(vmstat) == 0
    vmstat.write_text("nr_free_pages 5\noom_kill 12\noom_kill_other 99\n")
    assert count_oom_kills(vmstat) == 12
    vmstat.write_text("nr_free_pages 5\n")
    assert count_oom_kills(vmstat) == 0
    assert count_oom_kills() >= 0


# -- restarts -------------------------------------------------------------------------------------


def test_an_engine_that_dies_idle_again_and_again_is_given_up() -> None:
    policy = RestartPolicy()
    delays = []
    for _ in range(MAX_IDLE_DEATHS):
        delays.append(policy.delay_s)
        policy.died(lived_s=1.0, had_work=False, has_progressed=False)
    assert delays == [0.0, 0.0, 0.5, 1.0, 2.0]
    assert policy.delay_s is None


@pytest.mark.parametrize("good", [{"has_progressed": True}, {"lived_s": STABLE_S}])
def test_a_good_life_makes_up_for_bad_ones(good: dict[str, float]) -> None:
    policy = RestartPolicy()
    for _ in range(10 * MAX_IDLE_DEATHS):
        bad = {"lived_s": 1.0, "had_work": False, "has_progressed": False}
        for _ in range(MAX_IDLE_DEATHS - 2):
            policy.died(**bad)  # type: ignore[arg-type]  # flags, among the numbers
        policy.died(**bad | good)  # type: ignore[arg-type]  # likewise
        assert policy.delay_s == 0.0


def test_a_trial_is_not_slowed_but_does_not_go_on_forever() -> None:
    policy = RestartPolicy()
    for _ in range(MAX_BARREN_DEATHS):
        assert policy.delay_s == 0.0
        policy.died(lived_s=1.0, had_work=True, has_progressed=False)
    assert policy.delay_s is None


# -- hanging --------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_an_engine_that_says_nothing_hangs_with_work_and_without() -> None:
    for has_work in (True, False):
        clock = Clock()
        dog = Watchdog(100.0, clock)
        assert dog.interval_s == 5.0
        clock.now_s += 100
        assert not dog.is_hung(has_work=has_work)
        clock.now_s += 1
        assert dog.quiet_s == 101
        assert not dog.is_hung(has_work=has_work), "it is looked at once more"
        assert dog.is_hung(has_work=has_work)


def test_a_pong_is_enough_where_there_is_no_work_and_not_where_there_is() -> None:
    clock = Clock()
    dog = Watchdog(2.0, clock)
    assert dog.interval_s == 0.5
    for _ in range(100):
        clock.now_s += 1
        dog.heard(step=False)
        assert not dog.is_hung(has_work=False)
    # The time in which a step is due begins with the work.
    verdicts = []
    for _ in range(6):
        verdicts.append(dog.is_hung(has_work=True))
        clock.now_s += 1
        dog.heard(step=False)
    assert verdicts == [False, False, False, False, True, True]
    dog.heard(step=True)
    assert not dog.is_hung(has_work=True)


def test_a_server_that_was_stopped_itself_does_not_blame_the_engine() -> None:
    clock = Clock()
    dog = Watchdog(100.0, clock)
    clock.now_s += 10_000
    assert not dog.is_hung(has_work=True)
    dog.heard(step=True)
    assert not dog.is_hung(has_work=True)


# -- quarantine -----------------------------------------------------------------------------------


def request_of(prompt_ids: list[int], *, seed: int = 0, temperature: float = 1.0) -> EngineRequest:
    params = SamplingParams(temperature=temperature).resolve(
        SamplingDefaults(), max_tokens=8, seed=seed
    )
    return EngineRequest(
        request_id=RequestId(str(prompt_ids)),
        prompt_ids=prompt_ids,
        params=params,
        end_token_ids=[],
    )


def test_the_same_request_is_refused_for_a_while() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    quarantine.check(request_of([1]))
    quarantine.add(request_of([1]))
    with pytest.raises(InvalidRequestError, match="refused for 600 s more") as caught:
        quarantine.check(request_of([1], seed=99))
    assert caught.value.code == "quarantined"
    quarantine.check(request_of([1, 1]))
    quarantine.check(request_of([1], temperature=0.5))
    clock.now_s += QUARANTINE_S - 1
    with pytest.raises(InvalidRequestError, match="1 s more"):
        quarantine.check(request_of([1]))
    clock.now_s += 1
    quarantine.check(request_of([1]))
    assert len(quarantine) == 0


def test_nobody_can_have_anothers_request_refused() -> None:
    """Regression: the key was the prompt and its parameters alone."""
    quarantine = Quarantine(Clock())
    bad = replace(request_of([1]), namespace=Namespace("mallory"), hints=CacheHints(keep_s=9.0))
    quarantine.add(bad)
    quarantine.check(replace(bad, namespace=Namespace("alice")))
    quarantine.check(replace(bad, hints=NO_HINTS))
    with pytest.raises(InvalidRequestError):
        quarantine.check(bad)


def test_quarantine_is_bounded() -> None:
    quarantine = Quarantine(Clock())
    for number in range(MAX_QUARANTINED + 3):
        quarantine.add(request_of([number]))
    assert len(quarantine) == MAX_QUARANTINED
    quarantine.check(request_of([2]))
    with pytest.raises(InvalidRequestError):
        quarantine.check(request_of([3]))


# -- figures --------------------------------------------------------------------------------------


INFO = EngineInfo(
    model="",
    model_dir="",
    architecture="",
    num_parameters=0,
    device="",
    dtype="",
    attention="",
    max_model_len=1,
    vocab_size=1,
    page_size=4,
    num_pages=9,
    kv_cache_bytes=1,
    eos_token_ids=[],
    sampling_defaults=SamplingDefaults(),
    load_seconds=0,
)


def test_counters_go_on_and_gauges_do_not() -> None:
    figures = Figures(INFO)
    empty = figures.now
    assert empty.cache.free_pages == empty.cache.total_pages == 9
    used = CacheInfo(free_pages=1, cached_pages=3, in_use_pages=5, total_pages=9, page_size=4)
    first = EngineStats(
        num_waiting=1,
        num_running=2,
        cache=used,
        num_steps=10,
        generated_tokens=30,
        admissions={"evicted": 2, "diverged": 1},
    )
    figures.update(first)
    assert figures.now == first
    figures.restart()
    assert figures.now == replace(
        first, num_waiting=0, num_running=0, cache=empty.cache, num_deferred=0
    )
    figures.update(replace(first, num_steps=1, admissions={"evicted": 1, "complete": 4}))
    for _ in range(2):
        now = figures.now
        assert (now.num_steps, now.generated_tokens, now.num_running) == (11, 60, 2)
        assert now.admissions == {"evicted": 3, "diverged": 1, "complete": 4}
        assert now.cache == used


def test_counters_of_tiers_go_on() -> None:
    info = replace(INFO, num_host_pages=6)
    figures = Figures(info)
    empty = figures.now.tiers
    assert empty is not None
    assert empty.host_free_pages == empty.host_total_pages == 6
    assert Figures(INFO).now.tiers is None
    tiers = TierInfo(
        host_free_pages=1,
        host_cached_pages=2,
        host_in_use_pages=3,
        host_total_pages=6,
        disk_pages=7,
        disk_bytes=8,
        disk_limit_bytes=9,
        host_loaded_pages=10,
        disk_loaded_pages=20,
        disk_stored_pages=30,
        rejected_files=40,
        lost_pages=50,
    )
    stats = replace(figures.now, host_tokens=5, disk_tokens=6, tiers=tiers)
    figures.update(stats)
    assert figures.now == stats
    figures.restart()
    figures.update(stats)
    now = figures.now
    assert (now.host_tokens, now.disk_tokens) == (10, 12)
    assert now.tiers == replace(
        tiers,
        host_loaded_pages=20,
        disk_loaded_pages=40,
        disk_stored_pages=60,
        rejected_files=80,
        lost_pages=100,
    )


# -- directories ----------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def dead_pid() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_directory_is_this_users_alone_and_goes(temporary: Path) -> None:
    directory = SocketDirectory()
    (found,) = temporary.iterdir()
    assert found.name.startswith(f"radixserve-{os.getpid()}-")
    assert found.stat().st_mode & 0o777 == 0o700
    assert Path(directory.socket_path).parent == found
    assert remove_stale() == []
    directory.remove()
    assert list(temporary.iterdir()) == []


def test_what_dead_servers_left_is_removed_and_nothing_else(temporary: Path) -> None:
    stale = temporary / f"radixserve-{dead_pid()}-abc"
    torn = temporary / f"radixserve-{dead_pid()}-def"
    others = [temporary / f"radixserve-{os.getpid()}-ghi", temporary / "radixserve-cache"]
    for one in (stale, torn, *others):
        one.mkdir()
    (stale / "engine").touch()
    (stale / "lock").touch()
    link = temporary / f"radixserve-{dead_pid()}-jkl"
    link.symlink_to(others[0])
    file = temporary / f"radixserve-{dead_pid()}-mno"
    file.touch()
    assert sorted(remove_stale()) == sorted([stale, torn])
    assert sorted(temporary.iterdir()) == sorted([*others, link, file])


def test_a_directory_whose_lock_is_held_stays(temporary: Path) -> None:
    """Its server may live where its process id means something else: in another container."""
    directory = SocketDirectory()
    (made,) = temporary.iterdir()
    made.rename(temporary / f"radixserve-{dead_pid()}-xyz")
    assert remove_stale() == []
    os.close(directory._lock)
    assert len(remove_stale()) == 1
    directory._directory.cleanup()


def test_where_there_is_nothing_to_list_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert remove_stale() == []
