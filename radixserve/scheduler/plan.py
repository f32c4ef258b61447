"""A step as data: what the scheduler decided and what the runner found. No torch, no behaviour.

plan = scheduler.schedule()     which tokens of which requests, which pages to copy first
launched = runner.launch(plan)  the step is on its way; the next one may be planned meanwhile
result = launched.wait()        the tokens that were sampled
scheduler.update(plan, result)  progress, pages into the tree, what is new to tell
"""

from dataclasses import dataclass

from radixserve.cache.prefix_cache import PageCopy
from radixserve.cascade import NO_CASCADE, Cascade
from radixserve.request import Request
from radixserve.tiers.moves import NO_MOVES, Moves
from radixserve.types import SampledToken, TokenLogprob


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """Tokens ``[start, start + num_scheduled_tokens)`` of one request, to be run this step.

    At the moment of launch the request's tokens and lease are as planned, and may be read. If the
    row is of one token at ``start >= request.num_tokens``, then that token is pending: the step
    launched before this one samples it. Later they may have changed in any way: the request may
    even have ended, and then the row computes in vain.
    """

    request: Request
    start: int
    num_scheduled_tokens: int
    num_samples: int
    """How many tokens to choose from the last token's logits: 0 inside a prompt, 1 at its end and
    while decoding, ``n`` at the end of the prompt of a request that then forks."""
    num_scores: int = 0
    """Of how many of the row's tokens, from its first on, the logits also are to score the token
    behind: where log-probabilities of the prompt are wanted, else 0."""


@dataclass(frozen=True, slots=True)
class PlannedLoad:
    """Tokens ``[start, start + num_tokens)`` of one request, whole pages, whose keys and values are
    loaded from a tier instead of computed. A request has a row or a load in a plan, not both."""

    request: Request
    start: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the device does next: moves between tiers, page copies, one forward pass; each before
    the one after it, and each possibly empty."""

    rows: tuple[PlannedRow, ...]
    copies: tuple[PageCopy, ...]
    """To be performed, in any order, before the pass writes any page. Each pending copy is in one
    plan and in no other: the first that has a row of its lease."""
    moves: Moves = NO_MOVES
    """Pages that go to the host tier or come from it, those of ``loads`` among them."""
    loads: tuple[PlannedLoad, ...] = ()
    cascade: Cascade = NO_CASCADE
    """What ``rows`` share."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rows and not self.moves

    @property
    def num_scheduled_tokens(self) -> int:
        return sum(row.num_scheduled_tokens for row in self.rows)


@dataclass(frozen=True, slots=True)
class StepResult:
    """``sampled[i]``: ``plan.rows[i].num_samples`` tokens; None where logits were not numbers."""

    sampled: tuple[tuple[SampledToken | None, ...], ...]
    scores: tuple[tuple[TokenLogprob, ...], ...] = ()
    """``scores[i]``: of the ``plan.rows[i].num_scores`` prompt tokens from ``start + 1`` on; empty
    if no row has any."""
    moved_s: float = 0.0
    """How long ``plan.moves`` took, in seconds; 0 if there were none or it is not known."""
