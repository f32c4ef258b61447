"""Log-probabilities in OpenAI's two formats: the chat endpoint's and the older completions'."""

from collections.abc import Sequence
from typing import Any, Final

from radixserve.text.tokenizer import Tokenizer
from radixserve.types import TokenLogprob

# What OpenAI reports for a probability of zero, whose logarithm JSON cannot write.
MIN_LOGPROB: Final = -9999.0


def chat_logprobs(entries: Sequence[TokenLogprob], tokenizer: Tokenizer) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat answer or chunk."""
    return {
        "content": [
            {
                **_chat_token(entry.token_id, entry.logprob, tokenizer),
                "top_logprobs": [_chat_token(*each, tokenizer) for each in entry.top],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def completion_logprobs(
    entries: Sequence[TokenLogprob], tokenizer: Tokenizer, first_offset: int
) -> dict[str, Any]:
    """``choices[].logprobs`` of a completion or chunk.

    ``first_offset`` is where the first token begins in the choice's text, in characters; the next
    chunk begins at ``next_offset``.
    """
    tokens = [tokenizer.token_text(entry.token_id) for entry in entries]
    offsets = []
    offset = first_offset
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [_finite(entry.logprob) for entry in entries],
        "top_logprobs": [_by_text(entry, tokenizer) for entry in entries],
        "text_offset": offsets,
    }


def echoed_logprobs(
    prompt_ids: Sequence[int], entries: Sequence[TokenLogprob | None], tokenizer: Tokenizer
) -> dict[str, Any]:
    """The same of a prompt that comes before its completion. Its first token has none."""
    first = tokenizer.token_text(prompt_ids[0])
    return joined(
        {
            "tokens": [first],
            "token_logprobs": [None],
            "top_logprobs": [None],
            "text_offset": [0],
        },
        completion_logprobs(
            [entry for entry in entries if entry is not None], tokenizer, len(first)
        ),
    )


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One run of tokens after the other."""
    return {name: [*first[name], *second[name]] for name in first}


def scored_prompt(
    entries: Sequence[TokenLogprob | None], tokenizer: Tokenizer
) -> list[dict[str, Any] | None]:
    """``prompt_logprobs`` in vLLM's form: by token id, the prompt's token and the likeliest ones.
    The rank of a token that is not among these is not known."""
    return [None if entry is None else _by_id(entry, tokenizer) for entry in entries]


def _by_id(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    ranked: dict[int, tuple[float, int | None]] = {entry.token_id: (entry.logprob, None)}
    ranked |= {token_id: (value, rank) for rank, (token_id, value) in enumerate(entry.top, 1)}
    return {
        str(token_id): {
            "logprob": _finite(value),
            "rank": rank,
            "decoded_token": tokenizer.token_text(token_id),
        }
        for token_id, (value, rank) in ranked.items()
    }


def next_offset(logprobs: dict[str, Any], first_offset: int) -> int:
    """Where the token after these begins."""
    return first_offset + sum(len(token) for token in logprobs["tokens"])


def _by_text(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, float]:
    """The alternatives, the likeliest first; the chosen token is among them, as OpenAI has it, so
    there may be one more than was asked for. Of tokens with one text the likeliest counts."""
    values: dict[str, float] = {}
    for token_id, value in (*entry.top, (entry.token_id, entry.logprob)):
        values.setdefault(tokenizer.token_text(token_id), _finite(value))
    return values


def _chat_token(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": tokenizer.token_text(token_id),
        "logprob": _finite(logprob),
        "bytes": list(tokenizer.token_bytes(token_id)),
    }


def _finite(logprob: float) -> float:
    # `not >` also catches NaN.
    return logprob if logprob > MIN_LOGPROB else MIN_LOGPROB
