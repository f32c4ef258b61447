"""Which groups become levels: always the cheapest choice that there is."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st

from radixserve.cascade import CascadeCosts
from radixserve.scheduler.cascade_levels import choose_levels


@dataclass(frozen=True, slots=True)
class Groups:
    """The arguments of ``choose_levels``."""

    parents: list[int]
    ends: list[int]
    num_rows: list[int]
    num_tokens: list[int]


@st.composite
def groups(draw: st.DrawFn) -> Groups:
    size = draw(st.integers(1, 7))
    parents = [draw(st.integers(max(-1, group - 3), group - 1)) for group in range(size)]
    ends: list[int] = []
    for parent in parents:
        begin = ends[parent] if parent >= 0 else 0
        ends.append(begin + draw(st.sampled_from([0, 4, 4, 8, 20, 80])))
    num_rows = [
        max(0, 2 - parents.count(group)) + draw(st.sampled_from([0, 0, 1, 5]))
        for group in range(size)
    ]
    num_tokens = [count + draw(st.sampled_from([0, 0, 30])) for count in num_rows]
    return Groups(parents, ends, num_rows, num_tokens)


def keys_read(tree: Groups, costs: CascadeCosts, chosen: Sequence[bool]) -> float:
    """What a choice costs, as ``cascade_levels.py`` states it, counted from outside in."""
    tokens = list(tree.num_tokens)
    for group in reversed(range(len(tokens))):
        if tree.parents[group] >= 0:
            tokens[tree.parents[group]] += tokens[group]
    kept_ends: list[int] = []
    total = 0.0
    for group, parent in enumerate(tree.parents):
        begin, end = kept_ends[parent] if parent >= 0 else 0, tree.ends[group]
        if chosen[group]:
            total += costs.level_keys + costs.token_keys * tokens[group] + end - begin
            begin = end
        total += tree.num_rows[group] * (end - begin)
        kept_ends.append(begin)
    return total


def choose(tree: Groups, costs: CascadeCosts) -> list[bool]:
    return choose_levels(tree.parents, tree.ends, tree.num_rows, tree.num_tokens, costs)


@settings(max_examples=300)
@given(
    tree=groups(),
    level_keys=st.sampled_from([0, 1, 10, 50, 200]),
    token_keys=st.sampled_from([0, 0.5, 1, 3]),
)
@example(
    # Several that are dropped meet in one that is dropped.
    tree=Groups(
        [-1, -1, 1, 2, 2, 2],
        [20, 20, 28, 48, 32, 32],
        [2, 6, 1, 7, 2, 2],
        [32, 6, 31, 7, 2, 32],
    ),
    level_keys=0,
    token_keys=3,
)
def test_no_choice_is_cheaper(tree: Groups, level_keys: float, token_keys: float) -> None:
    costs = CascadeCosts(level_keys, token_keys)
    every = itertools.product([False, True], repeat=len(tree.parents))
    cheapest = min(keys_read(tree, costs, chosen) for chosen in every)
    chosen = choose(tree, costs)
    assert abs(keys_read(tree, costs, chosen) - cheapest) < 1e-6
    # No level is empty, not even one that costs nothing.
    kept_ends: list[int] = []
    for parent, end, is_kept in zip(tree.parents, tree.ends, chosen, strict=True):
        begin = kept_ends[parent] if parent >= 0 else 0
        assert begin < end or not is_kept
        kept_ends.append(end if is_kept else begin)


def test_a_level_pays_as_soon_as_it_spares_more_than_it_costs() -> None:
    # Three rows and four tokens behind 100 keys: 200 reads are spared.
    tree = Groups([-1], [100], [3], [4])
    assert choose(tree, CascadeCosts(200 - 4 * 7 - 1, 7)) == [True]
    assert choose(tree, CascadeCosts(200 - 4 * 7, 7)) == [False]


def test_the_keys_of_a_dropped_level_can_make_the_one_inside_pay() -> None:
    costs = CascadeCosts(100, 0)
    # By themselves neither the 40 keys of two nor the 50 of three rows in front of them pay.
    assert choose(Groups([-1], [40], [2], [2]), costs) == [False]
    assert choose(Groups([-1], [50], [3], [3]), costs) == [False]
    assert choose(Groups([-1, 0], [50, 110], [1, 2], [1, 2]), costs) == [False, True]
    # A chunk keeps away from what the others share.
    assert choose(Groups([-1, 0], [50, 90], [1, 5], [900, 5]), CascadeCosts(100, 1)) == [
        False,
        True,
    ]


def test_what_is_kept_inside_reads_once() -> None:
    # Two groups of ten read the 40 keys around them twice, not twenty times.
    tree = Groups([-1, 0, 0], [40, 240, 240], [0, 10, 10], [0, 10, 10])
    assert choose(tree, CascadeCosts(39, 0)) == [True, True, True]
    assert choose(tree, CascadeCosts(40, 0)) == [False, True, True]


def test_groups_without_keys_of_their_own() -> None:
    # Namespaces, or rows that part inside the first page.
    assert choose(Groups([-1, 0], [0, 0], [1, 2], [1, 2]), CascadeCosts(0, 0)) == [False, False]
    # Behind a page that is everybody's, those two part which are worth reading it once for.
    tree = Groups([-1, 0, 0], [40, 40, 40], [0, 3, 3], [0, 3, 900])
    assert choose(tree, CascadeCosts(10, 1)) == [False, True, False]
