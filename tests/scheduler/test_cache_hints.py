"""What a request's hints ask the cache to keep once it ends."""

import numpy as np
import pytest

from radixserve.cache.retention import Keep
from radixserve.ids import DEFAULT_NAMESPACE, RequestId
from radixserve.request import Request
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.keeping import keeps_of
from radixserve.types import NO_HINTS, CacheHints, PrefixMark

MARKS = (PrefixMark(num_tokens=3, keep_s=3600.0), PrefixMark(num_tokens=7, keep_s=300.0))


@pytest.mark.parametrize(
    ("hints", "num_kept_tokens", "expected"),
    [
        (NO_HINTS, 15, []),
        (CacheHints(keep_s=300.0), 15, [Keep(10, 300.0)]),
        (CacheHints(keep_s=300.0), 4, [Keep(4, 300.0)]),
        (CacheHints(returns_soon=True), 15, [Keep(15, 60.0)]),
        (CacheHints(returns_soon=True, keep_s=300.0), 15, [Keep(15, 300.0)]),
        (CacheHints(marks=MARKS), 15, [Keep(7, 300.0), Keep(3, 3600.0)]),
        (CacheHints(marks=MARKS), 5, [Keep(5, 300.0), Keep(3, 3600.0)]),
        (
            CacheHints(marks=MARKS, returns_soon=True),
            15,
            [Keep(15, 60.0), Keep(7, 300.0), Keep(3, 3600.0)],
        ),
    ],
)
def test_hints_become_wishes(hints: CacheHints, num_kept_tokens: int, expected: list[Keep]) -> None:
    request = Request(
        RequestId("r"),
        np.zeros(10, dtype=np.int32),
        SamplingParams(max_tokens=9),
        namespace=DEFAULT_NAMESPACE,
        stop_token_ids=frozenset(),
        arrival=0,
        hints=hints,
    )
    assert keeps_of(request, num_kept_tokens) == expected
