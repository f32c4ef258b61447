"""What requests may ask beyond the dialects that others made, the same in each."""

from typing import Annotated

from pydantic import Field

from radixserve.types import MAX_DEADLINE_S, MAX_PRIORITY
from radixserve_frontend.strict import StrictModel


class Extras(StrictModel):
    """Fields of our own. See ``SamplingParams``, ``CacheHints`` and ``Engine.submit``."""

    min_p: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    cache_salt: str | None = None
    cache_report: bool | None = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S)] | None = None
