"""What is worth moving: costs per token and per page, as measured."""

import pytest

from radixserve.tiers.costs import Costs


def measured(*, prefill_s: float, move_s: float, read_s: float | None = None) -> Costs:
    """Per page of 16 tokens."""
    costs = Costs(16)
    costs.observe_prefill(1600, 100 * prefill_s)
    costs.observe_moves(100, 100 * move_s)
    if read_s is not None:
        costs.observe_read(100, 100 * read_s, 100 * read_s)
    return costs


def test_what_was_not_measured_is_worth_trying() -> None:
    costs = Costs(16)
    assert costs.is_worth_host()
    assert costs.is_worth_disk()
    assert (costs.page_prefill_s, costs.page_move_s, costs.page_read_s) == (None, None, None)
    costs.observe_prefill(100, 1.0)
    assert costs.is_worth_host()
    costs.observe_moves(10, 1000.0)
    assert not costs.is_worth_host()
    assert costs.is_worth_disk()


def test_a_page_is_loaded_if_that_takes_less_time_than_computing_it() -> None:
    costs = measured(prefill_s=1.0, move_s=0.9, read_s=0.05)
    assert costs.page_prefill_s == pytest.approx(1.0)
    assert costs.page_move_s == pytest.approx(0.9)
    assert costs.page_read_s == pytest.approx(0.05)
    assert costs.is_worth_host()
    assert costs.is_worth_disk()
    assert not measured(prefill_s=1.0, move_s=1.1).is_worth_host()


def test_a_page_in_a_file_is_read_and_then_moved() -> None:
    costs = measured(prefill_s=1.0, move_s=0.6, read_s=0.6)
    assert costs.is_worth_host()
    assert not costs.is_worth_disk()
    read_alone = Costs(16)
    read_alone.observe_prefill(16, 1.0)
    read_alone.observe_read(1, 0.6, 0.6)
    assert read_alone.is_worth_disk()


def test_what_is_not_worth_it_is_tried_again_now_and_then() -> None:
    costs = measured(prefill_s=1.0, move_s=2.0, read_s=2.0)
    answers = [costs.is_worth_host() for _ in range(1024)]
    assert answers.count(True) == 4
    assert answers[255] is True
    # Each question has a count of its own.
    assert [costs.is_worth_disk() for _ in range(256)].count(True) == 1


def test_who_only_asks_is_no_trial_and_takes_none() -> None:
    costs = measured(prefill_s=1.0, move_s=2.0, read_s=2.0)
    for judge in costs.judges(loads=False):
        assert not any(judge() for _ in range(1000))
    for judge in costs.judges(loads=True):
        assert [judge() for _ in range(256)] == [False] * 255 + [True]
    cheap = measured(prefill_s=1.0, move_s=0.1, read_s=0.1)
    assert all(judge() for judge in cheap.judges(loads=False))


def test_one_hiccup_decides_nothing_and_a_change_does() -> None:
    costs = measured(prefill_s=1.0, move_s=0.5)
    costs.observe_moves(1, 1000.0)
    assert costs.page_move_s == pytest.approx(0.5, rel=0.1)
    assert costs.is_worth_host()
    for _ in range(100):
        costs.observe_moves(32, 32 * 5.0)
    assert costs.page_move_s == pytest.approx(5.0, rel=0.05)
    for _ in range(200):
        costs.observe_moves(32, 32 * 0.1)
    assert costs.page_move_s == pytest.approx(0.1, rel=0.05)


def test_a_small_step_weighs_little() -> None:
    costs = Costs(16)
    costs.observe_prefill(1000, 1.0)
    costs.observe_prefill(1, 0.005)
    assert costs.page_prefill_s == pytest.approx(0.016, rel=0.02)


def test_nothing_and_no_time_tell_nothing() -> None:
    costs = Costs(16)
    costs.observe_moves(0, 1.0)
    costs.observe_moves(5, 0.0)
    costs.observe_read(-1, 1.0, 1.0)
    assert costs.page_move_s is None
    assert costs.page_read_s is None


@pytest.mark.parametrize(
    ("streams_s", "num_pages"),
    [(None, 256), (0.0, 1), (0.032, 1), (0.067, 2), (0.334, 10), (100.0, 256)],
)
def test_moves_take_three_hundredths_of_the_streams_time(
    streams_s: float | None, num_pages: int
) -> None:
    assert measured(prefill_s=1.0, move_s=0.001).max_moved_pages(streams_s) == num_pages


def test_files_are_read_no_longer_than_pages_are_moved() -> None:
    costs = measured(prefill_s=1.0, move_s=0.001)
    assert costs.max_read_pages(40) == 1
    # However long they wait for the disk.
    costs.observe_read(10, 5.0, 0.04)
    assert costs.max_read_pages(40) == 10
    assert costs.max_read_pages(3) == 1
    # Where nobody streams, nobody is held up.
    assert costs.max_read_pages(256) == 256


def test_beside_streams_one_page_shows_what_pages_cost() -> None:
    assert Costs(16).max_moved_pages(10.0) == 1
    assert Costs(16).max_moved_pages(None) == 256
