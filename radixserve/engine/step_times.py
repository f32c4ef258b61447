"""What steps took: told to those who learn from it, and what follows for the next step.

    the pacer           seconds of a step of streams, and of a chunk's token (``pacing.py``)
    the tiers' costs    seconds to compute a page, and to move one (``tiers/costs.py``)

Knows plans and results; no clock, no requests. *Cost*: O(rows).
"""

from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.tiers.costs import Costs


class StepTimes:
    """See the module. ``costs``: None without tiers."""

    def __init__(self, pacer: Pacer, costs: Costs | None, page_size: int) -> None:
        self._pacer = pacer
        self._costs = costs
        self._page_size = page_size

    def max_chunk_tokens(self) -> int | None:
        """How many chunk tokens the next step may carry beside one-token rows. None: any."""
        return self._pacer.max_chunk_tokens()

    def max_moved_pages(self) -> int | None:
        """How many pages it may load, or copy for the disk, beside them. None: any."""
        if self._costs is None:
            return None
        return self._costs.max_moved_pages(self._pacer.streams_s)

    def observe(self, plan: StepPlan, result: StepResult, step_s: float) -> None:
        """Learn from a step that took so long."""
        num_streams = sum(row.num_scheduled_tokens == 1 for row in plan.rows)
        num_chunk_tokens = plan.num_scheduled_tokens - num_streams
        streams_s = self._pacer.streams_s
        # What was moved may have been moved while the pass ran, or not.
        pass_s = max(step_s - result.moved_s, step_s / 2)
        if plan.rows:
            self._pacer.observe(num_streams, num_chunk_tokens, pass_s)
        if self._costs is None:
            return
        if result.moved_s:
            self._costs.observe_moves(len(plan.moves), result.moved_s)
        # Stores come before the pass, loads may run beside it. With a full pool most chunks evict:
        # those with stores must count.
        is_known = not plan.moves or (not plan.moves.loads and result.moved_s > 0)
        if is_known and num_chunk_tokens >= self._page_size:
            if num_streams and streams_s is not None:
                # As the pacer reckons: the streams alone would have taken about so long.
                pass_s = max(pass_s - streams_s, 0.05 * pass_s)
            self._costs.observe_prefill(num_chunk_tokens, pass_s)
