"""The ``usage`` object: what a request cost, cached tokens always included."""

from typing import Any

from radixserve_frontend.dialect import Totals


def usage_of(totals: Totals) -> dict[str, Any]:
    """OpenAI's usage."""
    return {
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.generated_tokens,
        "total_tokens": totals.prompt_tokens + totals.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": totals.cached_tokens},
    }
