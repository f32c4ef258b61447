"""Requests for tests of the scheduler's parts: tokens and an ordinal, nothing else."""

import numpy as np

from radixserve.ids import Namespace, RequestId
from radixserve.request import Request
from radixserve.sampling.params import SamplingParams


def make_request(
    arrival: int,
    tokens: list[int] | None = None,
    *,
    namespace: str = "",
    max_tokens: int = 100,
    tenant: str = "",
    priority: int = 0,
) -> Request:
    return Request(
        RequestId(f"r{arrival}"),
        np.asarray(tokens or [1], dtype=np.int32),
        SamplingParams(max_tokens=max_tokens),
        namespace=Namespace(namespace),
        stop_token_ids=frozenset(),
        arrival=arrival,
        tenant=tenant,
        priority=priority,
    )
