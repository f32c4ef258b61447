"""One uniform per (seed, position): pinned, spread evenly, unrelated to its neighbours."""

import numpy as np
import pytest

from radixserve.sampling.noise import choice_seed, uniform


def test_golden_values() -> None:
    """A change of the noise changes every seeded answer; it must not happen unnoticed."""
    assert uniform(0, 0) == 0.6524484863740322
    assert uniform(42, 17) == 0.44715182605341497
    assert uniform(-1, 1) == 0.7408050620013819
    assert choice_seed(42, 3) == 64591033794190828


@pytest.mark.parametrize("by", ["seed", "position"])
def test_neighbours_are_uniform_and_uncorrelated(by: str) -> None:
    count, bins = 20_000, 100
    if by == "seed":
        numbers = np.array([uniform(n, 5) for n in range(count)])
    else:
        numbers = np.array([uniform(5, n) for n in range(count)])
    observed = np.bincount((numbers * bins).astype(int), minlength=bins)
    chi_square = ((observed - count / bins) ** 2 / (count / bins)).sum()
    # 99 degrees of freedom: beyond 160 with a probability of about 1e-4.
    assert chi_square < 160
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / count**0.5


def test_seed_and_position_do_not_trade_places() -> None:
    numbers = {uniform(seed, position) for seed in range(100) for position in range(100)}
    assert len(numbers) == 10_000


def test_open_interval_and_any_seed() -> None:
    for seed in (0, -(2**63), 2**64 - 1, 2**63):
        assert 0.0 < uniform(seed, 2**31) < 1.0
    assert uniform(-1, 0) == uniform(2**64 - 1, 0), "seeds are taken modulo 2^64"


def test_choices_differ_and_the_first_keeps_the_seed() -> None:
    assert choice_seed(7, 0) == 7
    seeds = {choice_seed(seed, index) for seed in range(50) for index in range(64)}
    assert len(seeds) == 50 * 64
