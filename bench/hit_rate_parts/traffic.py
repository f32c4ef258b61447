"""Prompts and their replies, token by token: what the simulated server is sent.

A token stands for the piece of text that it is in (a block of a trace; a piece of a generated
prompt), so two texts agree exactly as far as their pieces do, wherever pages begin and end.

A recorded trace says how long a reply was, not what it was: such replies come back in no prompt.
Generated prompts repeat them where a conversation goes on, and such a prompt is not sent before the
reply that it repeats has ended (``Call.after``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hit_rate_parts.prompts import Key, Prompt
from hit_rate_parts.trace import Trace, TraceError
from radixserve.ids import TokenArray


@dataclass(frozen=True, slots=True)
class TokenRun:
    """The same token, so many times."""

    token_id: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and the reply that it will get."""

    time_s: float
    prompt: tuple[TokenRun, ...]
    reply: TokenRun
    after: int | None = None
    """Which call's reply the prompt repeats last, by its place in the traffic."""

    @property
    def num_prompt_tokens(self) -> int:
        """How long the prompt is."""
        return sum(run.num_tokens for run in self.prompt)

    @property
    def num_tokens(self) -> int:
        """How long prompt and reply are."""
        return self.num_prompt_tokens + self.reply.num_tokens

    def token_ids(self) -> TokenArray:
        """Prompt and reply, int32[num_tokens]."""
        runs = (*self.prompt, self.reply)
        return np.repeat(
            np.array([run.token_id for run in runs], dtype=np.int32),
            [run.num_tokens for run in runs],
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls in order of time. ``block_tokens`` is the unit in which capacities are counted."""

    name: str
    block_tokens: int
    calls: tuple[Call, ...]

    def first(self, num_calls: int | None) -> "Traffic":
        """Only the first ``num_calls``, if there are more."""
        return replace(self, calls=self.calls[:num_calls])

    def at_rate(self, rate: float) -> "Traffic":
        """The same calls, ``rate`` of them a second in the middle of the traffic (``middle_rate``):
        all the pauses are shorter or longer."""
        factor = middle_rate([call.time_s for call in self.calls]) / rate
        return replace(
            self,
            calls=tuple(replace(call, time_s=factor * call.time_s) for call in self.calls),
        )


def middle_rate(times_s: Sequence[float]) -> float:
    """How many of these a second, without the first and the last quarter of them.

    A workload takes a while to come up to its rate, and tails off. *Raises* ``TraceError`` if there
    is nothing to measure.
    """
    ordered = sorted(times_s)
    first, last = len(ordered) // 4, 3 * len(ordered) // 4
    if last == first or ordered[last] <= ordered[first]:
        raise TraceError(
            f"{len(ordered)} requests have no rate; a load takes at least four, at several times"
        )
    return (last - first) / (ordered[last] - ordered[first])


def traffic_of_trace(trace: Trace) -> Traffic:
    """A recorded trace, with replies that nothing repeats.

    *Raises* ``TraceError`` if it does not say how long they were.
    """
    num_numbers = 1 + max(max(request.blocks) for request in trace.requests)
    calls = []
    for index, request in enumerate(trace.requests):
        if request.num_reply_tokens is None:
            raise TraceError(
                f"{trace.name}: request {index + 1} has no output_length, without which it cannot "
                "be served; add it, or use --mode trace"
            )
        runs = map(TokenRun, request.blocks, trace.block_lengths(request))
        # Somebody who gave up before the first token still had the prompt computed.
        reply = TokenRun(num_numbers + index, max(1, request.num_reply_tokens))
        calls.append(Call(request.time_s, tuple(runs), reply))
    return Traffic(trace.name, trace.block_tokens, tuple(calls))


def traffic_of_prompts(name: str, prompts: Sequence[Prompt], block_tokens: int) -> Traffic:
    """Generated prompts, given in order of time."""
    numbers: dict[Key, int] = {}
    replied: dict[Key, int] = {}
    calls = []
    for index, prompt in enumerate(prompts):
        runs = tuple(
            TokenRun(numbers.setdefault(piece.name, len(numbers)), piece.num_tokens)
            for piece in prompt.pieces
        )
        repeated = [replied[piece.name] for piece in prompt.pieces if piece.name in replied]
        reply = TokenRun(
            numbers.setdefault(prompt.reply.name, len(numbers)), prompt.reply.num_tokens
        )
        replied.setdefault(prompt.reply.name, index)
        calls.append(Call(prompt.time_s, runs, reply, max(repeated, default=None)))
    return Traffic(name, block_tokens, tuple(calls))
