"""A runner without a model: it keeps, in every slot of every page, a hash of the whole prefix.

Before it "computes" a row it reads the row's context back through the page table and fails if any
slot holds anything but exactly this request's own prefix. So a page shared wrongly, copied too
late, written while somebody else holds it, or freed too early is caught at once, and the next
token, a function of the prefix, tells whether the whole history was right.
"""

import numpy as np

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import Namespace, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineRequest, SampledToken, TokenDelta

VOCAB_SIZE = 50
_MASK = (1 << 61) - 1


def extend_hash(prefix_hash: int, token: int) -> int:
    return (prefix_hash * 1_000_003 + token + 1) & _MASK


def prefix_hash(namespace: str, tokens: list[int]) -> int:
    result = sum(namespace.encode()) + 7
    for token in tokens:
        result = extend_hash(result, token)
    return result


def next_token(prefix: int, seed: int) -> int:
    """What the simulated model says after a prefix; never the end-of-sequence token 0 by itself."""
    return 1 + (prefix ^ (seed * 0x9E3779B97F4A7C15)) % (VOCAB_SIZE - 1)


def oracle(
    prompt: list[int], count: int, *, namespace: str = "", seed: int = 0, stop: frozenset[int]
) -> list[int]:
    """The answer of an engine that has no cache, no batch and no bounds."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(prefix_hash(namespace, tokens), seed))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


class SimulatedRunner:
    """Executes plans on an array of prefix hashes. Raises AssertionError on any wrong content."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.content = np.full((num_pages, page_size), -1, dtype=np.int64)
        self.num_computed_tokens = 0
        self.plans: list[StepPlan] = []

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        size = self.content.shape[1]
        sources = {copy.source for copy in plan.copies}
        targets = [copy.target for copy in plan.copies]
        assert not sources & set(targets), "a page is source and target in one step"
        assert len(set(targets)) == len(targets), "two copies into one page"
        for copy in plan.copies:
            self.content[copy.target] = self.content[copy.source]
        written: set[int] = set()
        sampled = []
        for row in plan.rows:
            request = row.request
            assert request.lease is not None
            table = request.lease.page_table
            tokens = request.token_ids.tolist()
            end = row.start + row.num_scheduled_tokens
            assert row.start == request.num_computed_tokens
            assert end <= len(tokens)
            assert len(table) * size >= end, "no page for a planned token"
            current = prefix_hash(request.namespace, [])
            for position, token in enumerate(tokens[:end]):
                current = extend_hash(current, token)
                page, offset = int(table[position // size]), position % size
                if position < row.start:
                    assert self.content[page, offset] == current, (
                        f"{request}: position {position} holds somebody else's keys"
                    )
                else:
                    self.content[page, offset] = current
                    written.add(page)
            self.num_computed_tokens += row.num_scheduled_tokens
            sampled.append(
                tuple(
                    SampledToken(next_token(current, (request.params.seed or 0) + choice))
                    for choice in (
                        range(row.num_samples) if row.num_samples > 1 else [request.index]
                    )
                )
                if row.num_samples
                else ()
            )
        return StepResult(tuple(sampled))


class Simulation:
    """A scheduler, its cache and a simulated runner, and everything they have said."""

    def __init__(
        self,
        *,
        num_pages: int = 64,
        page_size: int = 4,
        max_batch_tokens: int = 64,
        max_running: int = 8,
        enable_prefix_cache: bool = True,
        max_overtakes: int = 64,
    ) -> None:
        self.cache = PrefixCache(num_pages, page_size)
        self.runner = SimulatedRunner(num_pages, page_size)
        self.scheduler = Scheduler(
            self.cache,
            max_batch_tokens=max_batch_tokens,
            max_running=max_running,
            enable_prefix_cache=enable_prefix_cache,
            max_overtakes=max_overtakes,
        )
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], TokenDelta] = {}
        self.admitted: list[str] = []

    def add(
        self,
        name: str,
        prompt: list[int],
        max_tokens: int = 4,
        *,
        n: int = 1,
        seed: int = 0,
        namespace: str = "",
        stop_token_ids: tuple[int, ...] = (),
    ) -> None:
        self.scheduler.add(
            EngineRequest(
                request_id=RequestId(name),
                prompt_ids=prompt,
                params=SamplingParams(
                    n=n, seed=seed, max_tokens=max_tokens, stop_token_ids=stop_token_ids
                ),
                end_token_ids=[0, *stop_token_ids],
                namespace=Namespace(namespace),
            )
        )

    def step(self, *, max_chunk_tokens: int | None = None, check: bool = True) -> StepPlan:
        plan = self.scheduler.schedule(max_chunk_tokens=max_chunk_tokens)
        if check:
            self.scheduler.check_invariants()
        for row in plan.rows:
            name = str(row.request.request_id)
            if name not in self.admitted:
                self.admitted.append(name)
        self.take(self.scheduler.update(plan, self.runner.run(plan)))
        if check:
            self.scheduler.check_invariants()
        return plan

    def take(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            key = (str(delta.request_id), delta.index)
            assert key not in self.ends, "a choice went on after its end"
            self.answers.setdefault(key, []).extend(delta.token_ids)
            if delta.finish_reason is not None:
                self.ends[key] = delta

    def run(self, *, max_steps: int = 10_000, check: bool = True) -> None:
        """Step until nothing is left to do."""
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step(check=check)
        raise AssertionError(f"still not done after {max_steps} steps")

    def assert_no_leaks(self) -> None:
        info = self.cache.info()
        assert info.in_use_pages == 0
        assert info.free_pages + info.cached_pages == info.total_pages
        self.scheduler.check_invariants()
