"""The text of one choice as its tokens arrive: detokenizer, stop strings and stop tokens together.

    TokenDelta (engine) --> ChoiceText.feed --> ChoiceStep (text, and the tokens that count)

The engine knows no text, so it cannot see a stop string: the choice ends here, and ``abort`` tells
the caller to end it there. Tokens that the engine made meanwhile are not reported. A stop *token*
ends the choice in the engine; it is reported as a token and contributes no text.

Knows neither HTTP nor the engine. Used by ``LLM`` and by the server's engine alike. Cost per token:
``detokenizer.py`` plus ``stop.py``.
"""

from dataclasses import dataclass

from radixserve.sampling.params import SamplingParams
from radixserve.text.detokenizer import Detokenizer
from radixserve.text.stop import StopStrings
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import FinishReason, TokenDelta, TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceStep:
    """What one delta added to a choice."""

    text: str = ""
    token_ids: list[int]
    """Those of the delta's tokens that belong to the answer."""
    logprobs: list[TokenLogprob] | None = None
    """One entry per token id, if the request asked."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop string, or the token of the request's ``stop_token_ids``, that ended the choice."""
    abort: bool = False
    """A stop string ended the choice and the engine does not know: tell it."""


class ChoiceText:
    """The text of one choice of one request. ``params`` may be resolved or not.

    ``continues_prompt``: the answer goes on from the prompt's text, as in a completion; otherwise
    it is a text of its own, as in a chat. ``visible_ids``: special tokens that are part of the text
    even if ``params`` leave special ones out.
    """

    __slots__ = ("_detokenizer", "_num_tokens", "_params", "_stops", "is_finished")

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        *,
        continues_prompt: bool = False,
        visible_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._params = params
        self._detokenizer = Detokenizer(
            tokenizer.vocabulary,
            skip_special_tokens=params.skip_special_tokens,
            visible_ids=visible_ids,
            continues=continues_prompt,
        )
        self._stops = StopStrings(params.stop, include_stop=params.include_stop)
        self._num_tokens = 0
        self.is_finished = False
        """The choice has ended; what the engine still sends for it is not part of the answer."""

    def feed(self, delta: TokenDelta) -> ChoiceStep:
        """Take what the engine made. After the choice has ended: a step with nothing in it."""
        if self.is_finished:
            return ChoiceStep(token_ids=[])
        pieces: list[str] = []
        last = len(delta.token_ids) - 1
        for position, token_id in enumerate(delta.token_ids):
            self._num_tokens += 1
            if position == last and delta.stop_token_id is not None:
                break
            stop = self._take(self._detokenizer.feed(token_id), pieces)
            if stop is not None:
                return self._stopped(delta, position + 1, pieces, stop)
        if delta.finish_reason is None:
            return ChoiceStep(
                text="".join(pieces), token_ids=delta.token_ids, logprobs=delta.logprobs
            )
        stop = self._take(self._detokenizer.flush(), pieces)
        if stop is not None:
            return self._stopped(delta, len(delta.token_ids), pieces, stop)
        self.is_finished = True
        pieces.append(self._stops.flush())
        own_stop = delta.stop_token_id in self._params.stop_token_ids
        return ChoiceStep(
            text="".join(pieces),
            token_ids=delta.token_ids,
            logprobs=delta.logprobs,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_token_id if own_stop else None,
        )

    def _take(self, text: str, pieces: list[str]) -> str | None:
        """Pass text through the stop strings. *Mutates* ``pieces``."""
        if not text:
            return None
        step = self._stops.feed(text, accept=self._num_tokens >= self._params.min_tokens)
        pieces.append(step.text)
        return step.stop

    def _stopped(self, delta: TokenDelta, count: int, pieces: list[str], stop: str) -> ChoiceStep:
        """The step that ends the choice at a stop string, ``count`` tokens into the delta."""
        self.is_finished = True
        return ChoiceStep(
            text="".join(pieces),
            token_ids=delta.token_ids[:count],
            logprobs=None if delta.logprobs is None else delta.logprobs[:count],
            finish_reason="stop",
            stop_reason=stop,
            abort=delta.finish_reason is None,
        )
