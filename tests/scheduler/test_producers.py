"""Who computes what next, against a search through everybody."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cache.public_prefixes import PublicPrefixes
from radixserve.request import Request
from radixserve.scheduler.producers import Producers, Production
from tests.scheduler.requests import make_request

SIZE = 3
# Few tokens and few stems, so that prefixes are often shared and pages often alike.
TOKENS = st.lists(st.integers(1, 2), min_size=1, max_size=14)


def num_common(left: Request, right: Request) -> int:
    pairs = zip(left.token_ids, right.token_ids, strict=False)
    return next(
        (at for at, (a, b) in enumerate(pairs) if a != b), min(left.num_tokens, right.num_tokens)
    )


def search(
    announced: dict[Request, int], newcomer: Request, num_cached_tokens: int
) -> Production | None:
    """The best of all who are at the newcomer's page and share a whole page that it lacks."""
    best: Production | None = None
    for producer, committed in announced.items():
        page = committed // SIZE
        if producer.namespace != newcomer.namespace or page != num_cached_tokens // SIZE:
            continue
        shared = num_common(producer, newcomer) // SIZE * SIZE
        lacks_whole_page = shared - SIZE >= num_cached_tokens
        if lacks_whole_page and (best is None or shared > best.num_shared_tokens):
            best = Production(producer, shared)
    return best


@settings(deadline=None)
@given(
    running=st.lists(
        st.tuples(TOKENS, st.sampled_from(["", "other"]), st.integers(0, 4), st.booleans()),
        max_size=6,
    ),
    newcomer=TOKENS,
    num_cached_tokens=st.integers(0, 12),
)
def test_finds_whom_a_search_finds(
    running: list[tuple[list[int], str, int, bool]], newcomer: list[int], num_cached_tokens: int
) -> None:
    producers = Producers(SIZE, PublicPrefixes())
    announced: dict[Request, int] = {}
    for arrival, (tokens, namespace, pages, leaves) in enumerate(running):
        request = make_request(arrival, tokens, namespace=namespace)
        committed = min(pages, len(tokens) // SIZE) * SIZE
        # Announcing again moves it; before that it was elsewhere.
        producers.announce(request, 0)
        producers.announce(request, committed)
        announced[request] = committed
        if leaves:
            producers.withdraw(request)
            producers.withdraw(request)
            del announced[request]
    asking = make_request(99, newcomer)
    num_cached_tokens = min(num_cached_tokens, len(newcomer) - 1)
    found = producers.find(asking, num_cached_tokens)
    assert found == search(announced, asking, num_cached_tokens)
    for request in announced:
        producers.withdraw(request)
    assert producers.find(asking, num_cached_tokens) is None
    assert not producers._by_key
    assert not producers._keys


def test_a_page_that_is_cached_in_part_is_not_waited_for() -> None:
    """Only whole pages are shared in flight; of this one the newcomer needs a piece."""
    producers = Producers(4, PublicPrefixes())
    producer = make_request(1, list(range(1, 10)))
    producers.announce(producer, 0)
    newcomer = make_request(2, list(range(1, 10)))
    assert producers.find(newcomer, 0) == Production(producer, 8)
    # Two tokens of page 0 are cached: page 1 is the first that is lacking as a whole.
    assert producers.find(newcomer, 2) == Production(producer, 8)
    assert producers.find(make_request(3, [1, 2, 3, 4, 5]), 0) == Production(producer, 4)
    assert producers.find(make_request(4, [1, 2, 3, 4, 5]), 2) is None


def test_an_unfinished_page_is_not_announced_until_its_tokens_are_known() -> None:
    producers = Producers(4, PublicPrefixes())
    producer = make_request(1, [1, 2, 3])
    producers.announce(producer, 0)
    newcomer = make_request(2, [1, 2, 3, 4, 5])
    assert producers.find(newcomer, 0) is None
    producer.append(4)
    producers.announce(producer, 0)
    assert producers.find(newcomer, 0) == Production(producer, 4)


def test_the_same_page_behind_different_prefixes_is_not_shared() -> None:
    producers = Producers(2, PublicPrefixes())
    producer = make_request(1, [1, 1, 5, 6])
    producers.announce(producer, 2)
    assert producers.find(make_request(2, [2, 2, 5, 6, 7]), 2) is None
    assert producers.find(make_request(3, [1, 1, 5, 6, 7]), 2) == Production(producer, 4)


def test_whoever_shares_most_is_the_one_to_wait_for() -> None:
    producers = Producers(2, PublicPrefixes())
    short, long = make_request(1, [1, 2, 3, 4]), make_request(2, [1, 2, 3, 4, 5, 6, 7])
    for request in (short, long):
        producers.announce(request, 0)
    newcomer = make_request(3, [1, 2, 3, 4, 5, 6, 9])
    assert producers.find(newcomer, 0) == Production(long, 6)
    producers.withdraw(long)
    assert producers.find(newcomer, 0) == Production(short, 4)


def test_an_announced_page_is_compared_by_value() -> None:
    """The buffer that a key was made from is written into as the request grows."""
    producers = Producers(2, PublicPrefixes())
    producer = make_request(1, [1, 2])
    producers.announce(producer, 0)
    for token in range(200):
        producer.append(token)
    assert np.array_equal(producer.token_ids[:2], [1, 2])
    assert producers.find(make_request(2, [1, 2, 3]), 0) == Production(producer, 2)
