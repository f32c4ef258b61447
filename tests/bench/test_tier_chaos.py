"""The disk tier under damage and SIGKILL, in small: ``bench/tier_chaos.py`` is the long version."""

from pathlib import Path

import numpy as np
import pytest

import tier_chaos
from radixserve.tiers import page_io
from radixserve.tiers.page_file import PageBytes
from tier_chaos_parts import worker
from tier_chaos_parts.universe import Universe, open_directory


def run_rounds(path: Path, kinds: dict[str, int]) -> tier_chaos.Tally:
    chaos = tier_chaos.Chaos(path / "cache", seed=len(kinds))
    for kind, count in kinds.items():
        for _ in range(count):
            chaos.round(kind)
    chaos.close()
    return chaos.tally


def test_nothing_wrong_comes_of_damage(tmp_path: Path) -> None:
    kinds = {"corruption": 30, "truncation": 20, "replacement": 8}
    tally = run_rounds(tmp_path, kinds)
    assert tally.violations == []
    assert tally.is_clean
    assert tally.rejected == kinds
    assert tally.read == kinds


def test_nothing_wrong_comes_of_kills(tmp_path: Path) -> None:
    tally = run_rounds(tmp_path, {"kill": 12})
    assert tally.violations == []
    assert tally.is_clean
    assert tally.done == {"kill": 12}
    assert tally.read["kill"] > 12


def test_it_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tier that checks nothing: the bench must notice.
    def believe(header: bytes, identity: bytes, data: PageBytes) -> None:
        pass

    monkeypatch.setattr(page_io, "check_page", believe)
    tally = run_rounds(tmp_path, {"corruption": 5})
    assert tally.wrong["corruption"] + sum("was used" in line for line in tally.violations) > 0
    assert not tally.is_clean


def test_the_worker_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    universe = Universe()
    monkeypatch.setattr(worker, "Universe", lambda: universe)
    directory = open_directory(tmp_path)
    # Files that are sound, and of other pages' bytes.
    for number, key in enumerate(universe.keys[:60]):
        assert directory.write(key, universe.pages[number + 1])
    directory.close()
    assert worker.main(tmp_path, seed=0) == worker.WRONG
    assert not np.array_equal(universe.pages[0], universe.pages[1])
