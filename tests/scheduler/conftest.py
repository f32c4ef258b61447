"""How many steps are in flight while the next is planned, and how far the device lags behind."""

import pytest

from tests.support.simulation import Pace


@pytest.fixture(scope="session", params=[1, 2, 3], ids=["depth1", "depth2", "depth3"])
def depth(request: pytest.FixtureRequest) -> int:
    """The scheduler's promises hold however far it plans ahead; 1 is not ahead at all."""
    depth: int = request.param
    return depth


@pytest.fixture(params=Pace, ids=[pace.name for pace in Pace])
def pace(request: pytest.FixtureRequest) -> Pace:
    chosen: Pace = request.param
    return chosen
