"""What a cache of whole pages loses at the ends of short prompts, and what exact matching regains.

    |== page ==|== page ==|== pa|          what a prompt has in common with one before it
                          |~~~~~|          lost by rounding down to whole pages

The calls of a workload go one after another, prompt and reply, through two caches of equal memory:
vLLM's rule, which finds whole pages, and the project's, which copies the page in which a match
ends. Per request,

    lost       tokens in common with any call before it, beyond the whole pages of them, counted
               where vLLM's rule found all of those pages; where it had evicted some, rounding is
               not what cost it the rest
    regained   of these, how many the project's cache found; fewer than vLLM's rule found count
               against it, and more than was lost (others' evictions) does not count for it
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from hit_rate_parts.policies import OURS, VLLM, policy_maker
from hit_rate_parts.prompts import BlockNumbers, Piece, Prompt
from hit_rate_parts.real_cache import TraceClock
from hit_rate_parts.traffic import Traffic, traffic_of_prompts
from hit_rate_parts.vllm import VLLMCache
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.ids import DEFAULT_NAMESPACE

WANTED_SHARE = 0.8
"""Of what rounding loses, to be regained."""


@dataclass(frozen=True, slots=True)
class RoundingResult:
    """How one policy fared on one workload at one capacity, against vLLM's rule."""

    workload: str
    policy: str
    capacity_blocks: int
    block_tokens: int
    page_size: int
    num_requests: int
    mean_prompt_tokens: float
    token_hit_rate: float
    hit_tokens_per_request: float
    lost_tokens_per_request: float
    """What rounding costs vLLM's rule at this capacity."""
    num_losing_requests: int
    regained_share: float


def compare(
    name: str,
    prompts: Sequence[Prompt],
    policies: Sequence[str],
    capacity_blocks: int,
    *,
    block_tokens: int,
    page_size: int,
) -> list[RoundingResult]:
    """vLLM's rule, then each of the project's policies that is named, at one capacity.

    *Raises* ``ValueError`` if a request does not fit. *Cost*: about 0.2 ms a request and policy.
    """
    traffic = traffic_of_prompts(name, prompts, block_tokens)
    num_pages = capacity_blocks * block_tokens // page_size
    longest = max(call.num_tokens for call in traffic.calls)
    if longest > (num_pages - 1) * page_size:
        raise ValueError(
            f"{name}: a request of {longest} tokens does not fit into {num_pages} pages of "
            f"{page_size}; expected a larger --capacity-blocks"
        )
    common = list(_in_common(traffic))
    whole = list(_vllm_hits(prompts, num_pages, page_size))
    lost = [
        exact - found if found == exact // page_size * page_size else 0
        for exact, found in zip(common, whole, strict=True)
    ]
    num_requests = len(traffic.calls)
    num_prompt_tokens = sum(call.num_prompt_tokens for call in traffic.calls)

    def result(policy: str, hits: list[int]) -> RoundingResult:
        regained = sum(
            min(hit - found, missing)
            for hit, found, missing in zip(hits, whole, lost, strict=True)
            if missing
        )
        return RoundingResult(
            workload=name,
            policy=policy,
            capacity_blocks=capacity_blocks,
            block_tokens=block_tokens,
            page_size=page_size,
            num_requests=num_requests,
            mean_prompt_tokens=num_prompt_tokens / num_requests,
            token_hit_rate=sum(hits) / num_prompt_tokens,
            hit_tokens_per_request=sum(hits) / num_requests,
            lost_tokens_per_request=sum(lost) / num_requests,
            num_losing_requests=sum(missing > 0 for missing in lost),
            regained_share=regained / sum(lost) if any(lost) else 1.0,
        )

    return [
        result(VLLM, whole),
        *(
            result(policy, list(_exact_hits(traffic, policy, num_pages, page_size)))
            for policy in dict.fromkeys(policies)
            if policy in OURS
        ),
    ]


def _in_common(traffic: Traffic) -> Iterator[int]:
    """Per call, the prompt tokens (its last one aside) that some earlier call begins with too."""
    # A node of a trie of tokens is a number: 0 is the root.
    trie: dict[tuple[int, int], int] = {}
    for call in traffic.calls:
        node = num_common = 0
        # The last token of a reply is never computed.
        for token in call.token_ids()[:-1].tolist():
            below = trie.get((node, token))
            if below is None:
                # Nor is anything known below it.
                below = trie[node, token] = len(trie) + 1
            else:
                num_common += 1
            node = below
        yield min(num_common, call.num_prompt_tokens - 1)


def _vllm_hits(prompts: Sequence[Prompt], num_pages: int, page_size: int) -> Iterator[int]:
    """Per call, the tokens that vLLM's rule finds."""
    numbers = BlockNumbers(page_size)
    cache = VLLMCache(num_pages)
    for prompt in prompts:
        computed = Piece(prompt.reply.name, prompt.reply.num_tokens - 1)
        num_tokens = prompt.num_tokens + computed.num_tokens
        blocks = numbers.blocks((*prompt.pieces, computed))
        num_matchable = (prompt.num_tokens - 1) // page_size
        num_hit = cache.serve(blocks, num_matchable, num_tokens // page_size)
        assert num_hit is not None, "all requests fit"
        yield num_hit * page_size


def _exact_hits(
    traffic: Traffic, policy_name: str, num_pages: int, page_size: int
) -> Iterator[int]:
    """Per call, the tokens that the project's cache finds, as the scheduler would ask it."""
    clock = TraceClock()
    policy = policy_maker(policy_name)(clock, num_pages, page_size)
    cache = PrefixCache(num_pages, page_size, policy, clock=clock)
    for call in tqdm(traffic.calls, desc=policy_name, unit="req", disable=None, leave=False):
        clock.now_s = call.time_s
        computed = call.token_ids()[:-1]
        asked = computed[: call.num_prompt_tokens - 1]
        try:
            lease = cache.acquire(DEFAULT_NAMESPACE, asked)
        except OutOfPagesError:
            lease = cache.acquire(DEFAULT_NAMESPACE, asked, whole_pages_only=True)
        cache.reserve(lease, len(computed))
        if lease.pending_copy is not None:
            cache.finish_copy(lease)
        yield lease.num_cached_tokens
        cache.commit(lease, computed)
        cache.release(lease, computed)


def rounding_table(results: Sequence[RoundingResult]) -> str:
    """A row a capacity and policy."""
    lines = ["blocks     policy        hits %   hit tokens/request   lost to rounding   regained"]
    for one in results:
        is_exact = one.policy != VLLM
        verdict = "met" if one.regained_share >= WANTED_SHARE else "NOT met"
        lines.append(
            f"{one.capacity_blocks:<11,}{one.policy:<12}{100 * one.token_hit_rate:>8.1f}"
            f"{one.hit_tokens_per_request:>21.1f}"
            + (
                f"{'':>19}{100 * one.regained_share:>10.1f}%  {verdict}"
                if is_exact
                else f"{one.lost_tokens_per_request:>19.2f}"
            )
        )
    return "\n".join(lines)
