"""Newest first, owners in turn, never too many."""

from hypothesis import given
from hypothesis import strategies as st

from radixserve.fair_stack import FairStack


def stack_of(*items: str, max_items: int = 10, max_per_owner: int = 10) -> FairStack[str]:
    """A thing's owner is its first letter."""
    stack: FairStack[str] = FairStack(max_items=max_items, max_per_owner=max_per_owner)
    for item in items:
        stack.push(item[0], item)
    return stack


def all_of(stack: FairStack[str]) -> list[str]:
    found = []
    while (item := stack.pop()) is not None:
        found.append(item)
    return found


def test_owners_take_turns_and_each_ones_newest_comes_first() -> None:
    assert all_of(stack_of("a1", "a2", "a3", "b1", "c1", "c2")) == [
        "a3", "b1", "c2", "a2", "c1", "a1",
    ]  # fmt: skip


def test_who_comes_back_waits_for_the_others() -> None:
    stack = stack_of("a1", "b1", "a2")
    assert stack.pop() == "a2"
    stack.push("a", "a2")
    assert all_of(stack) == ["b1", "a2", "a1"]


def test_an_owners_oldest_goes_for_its_newest() -> None:
    assert all_of(stack_of("a1", "a2", "a3", "b1", max_per_owner=2)) == ["a3", "b1", "a2"]


def test_who_has_the_most_gives_up_its_oldest() -> None:
    assert all_of(stack_of("a1", "a2", "b1", "c1", max_items=3)) == ["a2", "b1", "c1"]
    # All have one: somebody's goes, and the place with it.
    stack = stack_of("a1", "b1", "c1", max_items=2)
    assert (len(stack), all_of(stack)) == (2, ["b1", "c1"])


def test_what_is_void_is_dropped() -> None:
    stack = stack_of("a1", "a2", "b1")
    stack.drop(lambda item: item in ("a2", "b1"))
    assert (len(stack), list(stack), all_of(stack)) == (1, ["a1"], ["a1"])


@given(st.lists(st.sampled_from("aaabbc")), st.integers(1, 4), st.integers(1, 6))
def test_never_too_many_and_a_small_owner_keeps_its_own(
    owners: list[str], max_per_owner: int, max_items: int
) -> None:
    stack: FairStack[str] = FairStack(max_items=max_items, max_per_owner=max_per_owner)
    for number, owner in enumerate(owners):
        stack.push(owner, f"{owner}{number}")
        counts = {each: sum(item[0] == each for item in stack) for each in "abc"}
        assert len(stack) <= max_items
        assert max(counts.values()) <= max_per_owner
        # What was put in last stays, unless everybody has but one.
        assert f"{owner}{number}" in list(stack) or max_items < 3
    assert len(all_of(stack)) <= max_items
