"""How a prompt fared with the cache, as JSON: sources of its tokens, the cause, the text around.

The text is the request's own, decoded from its own tokens around the place where the match ended;
nothing of what the cache holds is in it. Tokens are cut anywhere, so half a character shows as
U+FFFD.
"""

from collections.abc import Sequence
from typing import Any, Final

from radixserve.text.tokenizer import Tokenizer
from radixserve.types import CacheExplanation, CacheReport, EngineStats, MissCause
from radixserve_frontend.generation import Generation

NUM_TOKENS_AROUND: Final = 12
"""Shown on each side of the place where a match ended."""


def cache_report_of(generation: Generation, tokenizer: Tokenizer) -> Any:
    """The ``cache_report`` of an answer: an object, or, if it has several prompts, a list."""
    reports = [
        None if report is None else _report(report, prompt, tokenizer)
        for report, prompt in zip(generation.cache_reports, generation.job.prompts, strict=True)
    ]
    return reports[0] if len(reports) == 1 else reports


def explanation_of(
    explanation: CacheExplanation, prompt: Sequence[int], tokenizer: Tokenizer
) -> dict[str, Any]:
    """What ``POST /cache/explain`` answers; of other namespaces only if somebody looked there."""
    elsewhere = explanation.in_other_namespaces
    others = {} if elsewhere is None else {"in_other_namespaces": elsewhere}
    return {
        "prompt_tokens": explanation.num_prompt_tokens,
        **_match(
            explanation.matched_tokens,
            explanation.cause,
            explanation.evicted_seconds_ago,
            prompt,
            tokenizer,
        ),
        # Behind the match, in whole pages; the first may cover its end.
        "loadable": {"host": explanation.host_tokens, "disk": explanation.disk_tokens},
        **others,
    }


def tokens_by_source(stats: EngineStats) -> dict[str, int]:
    """Prompt tokens of all admitted requests, as ``_report`` has those of one."""
    elsewhere = stats.in_flight_tokens + stats.host_tokens + stats.disk_tokens
    return {
        "device": stats.cached_tokens - elsewhere,
        "host": stats.host_tokens,
        "disk": stats.disk_tokens,
        "in_flight": stats.in_flight_tokens,
        "computed": stats.prompt_tokens - stats.cached_tokens,
    }


def _report(report: CacheReport, prompt: Sequence[int], tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "prompt_tokens": len(prompt),
        "sources": {
            "device": report.device_tokens,
            "host": report.host_tokens,
            "disk": report.disk_tokens,
            "in_flight": report.in_flight_tokens,
            "computed": report.computed_tokens,
        },
        **_match(
            report.matched_tokens, report.cause, report.evicted_seconds_ago, prompt, tokenizer
        ),
    }


def _match(
    num_tokens: int,
    cause: MissCause,
    evicted_seconds_ago: float | None,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    before = prompt[max(0, num_tokens - NUM_TOKENS_AROUND) : num_tokens]
    after = prompt[num_tokens : num_tokens + NUM_TOKENS_AROUND]
    return {
        "matched_tokens": num_tokens,
        "cause": cause,
        # Whole seconds: when precisely it went may tell what somebody else did just then.
        "evicted_seconds_ago": None if evicted_seconds_ago is None else round(evicted_seconds_ago),
        "text_around": {"before": _text(before, tokenizer), "after": _text(after, tokenizer)},
    }


def _text(token_ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return b"".join(map(tokenizer.token_bytes, token_ids)).decode("utf-8", "replace")
