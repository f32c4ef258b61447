"""What a completion's answer is made of: continuations and, where they are asked for, the prompts.

``best_of`` candidates are generated for every prompt and ``n`` of them returned: those whose tokens
are the likeliest on average, the best first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from radixserve.engine.interface import TextDelta
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import TokenLogprob
from radixserve_frontend.dialect import Totals
from radixserve_frontend.http_errors import ErrorAnswer
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.openai.logprobs import (
    completion_logprobs,
    echoed_logprobs,
    joined,
    next_offset,
    scored_prompt,
)
from radixserve_frontend.openai.reply import CollectedChoice, Envelope, break_off

# OpenAI's name for chunks and answers alike.
_KIND: Final = "text_completion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the answer is to hold."""

    n: int
    """Choices returned for each prompt."""
    best_of: int
    """Choices generated for each prompt."""
    logprobs: bool
    echo: bool
    """Each choice begins with its prompt."""
    prompt_logprobs: bool
    continuation: bool
    """False: nothing but the prompt is wanted (``max_tokens`` 0), and the one token that the engine
    generated is not told."""

    @property
    def echoes_logprobs(self) -> bool:
        return self.echo and self.logprobs


@dataclass(frozen=True, slots=True)
class PromptParts:
    """A prompt as the answer may repeat it."""

    text: str
    token_ids: Sequence[int]


class CompletionReply:
    """Implements ``dialect.Reply``. Mutable, one per request."""

    def __init__(
        self,
        envelope: Envelope,
        tokenizer: Tokenizer,
        prompts: Sequence[PromptParts],
        wanted: Wanted,
    ) -> None:
        num_choices = len(prompts) * wanted.best_of
        self._envelope = envelope
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._wanted = wanted
        self._head, self._tail = envelope.chunk_parts(_KIND)
        # Where each choice's next token begins, in characters of its tokens' texts.
        self._offsets = [0] * num_choices
        self._has_begun = [False] * num_choices
        self._choices = [CollectedChoice() for _ in range(num_choices)]
        self._scores: list[list[TokenLogprob | None] | None] = [None] * len(prompts)
        self._held: list[list[tuple[int, TextDelta]]] = [[] for _ in prompts]
        """By prompt: deltas that came before the prompt's log-probabilities, which are the first
        choice's to bring."""

    def chunk(self, index: int, delta: TextDelta) -> bytes:
        """See ``Reply.chunk``."""
        prompt = index // self._wanted.best_of
        held = self._held[prompt]
        held.append((index, delta))
        if delta.prompt_logprobs is not None:
            self._scores[prompt] = delta.prompt_logprobs
        if self._wanted.echoes_logprobs and self._scores[prompt] is None:
            return b""
        self._held[prompt] = []
        return b"".join(self._event(*each) for each in held)

    def end(self, totals: Totals) -> bytes:
        """See ``Reply.end``."""
        return self._envelope.end(_KIND, self._told(totals))

    def fail(self, answer: ErrorAnswer) -> bytes:
        """See ``Reply.fail``."""
        return break_off(answer)

    def add(self, index: int, delta: TextDelta) -> None:
        """See ``Reply.add``."""
        self._choices[index].add(delta)
        if delta.prompt_logprobs is not None:
            self._scores[index // self._wanted.best_of] = delta.prompt_logprobs

    def echo(self) -> None:
        """See ``Reply.echo``. What becomes of a text nobody knows."""

    def answer(self, totals: Totals) -> dict[str, Any]:
        """See ``Reply.answer``."""
        choices = []
        for prompt in range(len(self._prompts)):
            first = prompt * self._wanted.best_of
            candidates = self._choices[first : first + self._wanted.best_of]
            if self._wanted.best_of > self._wanted.n:
                candidates = sorted(candidates, key=_likelihood, reverse=True)[: self._wanted.n]
            choices += [self._choice(prompt, choice) for choice in candidates]
        numbered = [{"index": index, **choice} for index, choice in enumerate(choices)]
        return self._envelope.answer(_KIND, numbered, self._told(totals))

    def _choice(self, prompt: int, choice: CollectedChoice) -> dict[str, Any]:
        logprobs = choice.logprobs if self._wanted.logprobs else None
        shown: dict[str, Any] = {
            "text": self._before(prompt) + (choice.text if self._wanted.continuation else ""),
            "logprobs": self._logprobs(prompt, logprobs, 0, begins=True),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self._wanted.prompt_logprobs:
            scores = self._scores[prompt]
            shown["prompt_logprobs"] = None if scores is None else self._scored(scores)
        return shown

    def _scored(self, scores: Sequence[TokenLogprob | None]) -> list[Any]:
        return scored_prompt(scores, self._tokenizer)

    def _event(self, index: int, delta: TextDelta) -> bytes:
        begins = not self._has_begun[index]
        if not (delta.text or delta.logprobs or delta.finish_reason or delta.prompt_logprobs):
            return b""
        self._has_begun[index] = True
        prompt = index // self._wanted.best_of
        text = delta.text if self._wanted.continuation else ""
        event: dict[str, Any] = {
            "index": index,
            "text": self._before(prompt) + text if begins else text,
            "logprobs": None,
            "finish_reason": delta.finish_reason,
        }
        if delta.logprobs is not None:
            offset = self._offsets[index]
            event["logprobs"] = self._logprobs(prompt, delta.logprobs, offset, begins=begins)
            if event["logprobs"] is not None:
                self._offsets[index] = next_offset(event["logprobs"], offset)
        if delta.finish_reason is not None:
            event["stop_reason"] = delta.stop_reason
        return self._head + encode_json(event) + self._tail

    def _before(self, prompt: int) -> str:
        return self._prompts[prompt].text if self._wanted.echo else ""

    def _logprobs(
        self,
        prompt: int,
        entries: Sequence[TokenLogprob] | None,
        offset: int,
        *,
        begins: bool,
    ) -> dict[str, Any] | None:
        """Of a choice's tokens and, at its beginning, if it is echoed, of its prompt's."""
        if entries is None:
            return None
        entries = entries if self._wanted.continuation else ()
        scores = self._scores[prompt]
        if not (begins and self._wanted.echoes_logprobs and scores is not None):
            return completion_logprobs(entries, self._tokenizer, offset)
        echoed = echoed_logprobs(self._prompts[prompt].token_ids, scores, self._tokenizer)
        return joined(echoed, completion_logprobs(entries, self._tokenizer, next_offset(echoed, 0)))

    def _told(self, totals: Totals) -> Totals:
        return totals if self._wanted.continuation else replace(totals, generated_tokens=0)


def _likelihood(choice: CollectedChoice) -> float:
    """Mean log-probability of its tokens."""
    entries = choice.logprobs or ()
    if not entries:
        return -math.inf
    return sum(max(entry.logprob, -1e9) for entry in entries) / len(entries)
