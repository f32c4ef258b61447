"""The ``usage`` object: what a request cost, cached tokens always included."""

from typing import Any

from radixserve_frontend.generation import Generation


def usage_of(generation: Generation) -> dict[str, Any]:
    """OpenAI's usage. Prompt tokens count once per prompt, whatever ``n`` is."""
    prompt_tokens = generation.job.num_prompt_tokens
    completion_tokens = generation.num_generated_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.num_cached_tokens},
    }
