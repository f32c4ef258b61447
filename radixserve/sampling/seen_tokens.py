"""The distinct tokens of choices with penalties, kept on the host: for the CPU.

On a CPU, changing the few thousand logits of tokens that were seen is cheaper than a pass over the
vocabulary, so what is kept is a list. Prompt and answer are kept apart: a prompt never changes and
is shared by the choices that forked from it; most answers are short. The prompt is looked at only
where it counts, for the repetition penalty: a choice's parameters never change.

*Cost*: a new prompt, of the order of its length and of the vocabulary, and 12 bytes a token; an
answer, of order 1 per new token, and about 150 bytes per distinct one. Both are kept until their
choices are gone; so is the prompt that was counted last, until the next one.
"""

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from radixserve.ids import TokenArray
from radixserve.sampling.history import News, news_of
from radixserve.sampling.row import SampleRow, counts_prompt

FIRST_TOKENS = 64
"""How many distinct tokens a new answer has room for."""


class SeenPrompt:
    """A prompt, and its distinct tokens."""

    def __init__(self, prompt_ids: TokenArray) -> None:
        # A copy: a view would keep its request's whole buffer.
        self._prompt_ids = prompt_ids.copy()
        # Marks, since sorting a long prompt takes several times as long.
        is_seen = np.zeros(int(prompt_ids.max(initial=-1)) + 1, dtype=np.bool_)
        is_seen[prompt_ids] = True
        self.tokens = np.flatnonzero(is_seen)
        """Ascending, int64."""

    def is_of(self, prompt_ids: TokenArray) -> bool:
        """Whether this is the same prompt."""
        return np.array_equal(self._prompt_ids, prompt_ids)

    def lacks(self, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the tokens are not in the prompt."""
        if not len(self.tokens):
            return np.ones(len(token_ids), dtype=np.bool_)
        places = self.tokens.searchsorted(token_ids)
        is_absent: npt.NDArray[np.bool_] = self.tokens.take(places, mode="clip") != token_ids
        return is_absent


NO_PROMPT = SeenPrompt(np.empty(0, dtype=np.int32))


class Seen:
    """What one choice has seen."""

    def __init__(self, prompt: SeenPrompt) -> None:
        self.prompt = prompt
        self.num_counted = 0
        self._places: dict[int, int] = {}
        self._tokens = np.empty(FIRST_TOKENS, dtype=np.int64)
        self._counts = np.empty(FIRST_TOKENS, dtype=np.int64)
        self._is_beyond = np.empty(FIRST_TOKENS, dtype=np.bool_)

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Distinct tokens of the answer, in no order: a view."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each of ``tokens`` is in the answer: a view."""
        return self._counts[: len(self._places)]

    @property
    def tokens_beyond_prompt(self) -> npt.NDArray[np.int64]:
        """Those of ``tokens`` that are not in the prompt."""
        return self.tokens[self._is_beyond[: len(self._places)]]

    def count(self, token_ids: list[int]) -> None:
        """Count tokens of the answer."""
        tokens, counts = np.unique(np.array(token_ids, dtype=np.int64), return_counts=True)
        before, known = len(self._places), self._places
        places = np.array([known.setdefault(token, len(known)) for token in tokens.tolist()])
        if len(known) > before:
            self._add(before, tokens[places >= before])
        self._counts[places] += counts

    def _add(self, before: int, fresh: npt.NDArray[np.int64]) -> None:
        """Make room for tokens that are new, and enter them with a count of 0."""
        size = before + len(fresh)
        if size > len(self._tokens):
            room = max(size, 2 * len(self._tokens))
            self._tokens = np.resize(self._tokens, room)
            self._counts = np.resize(self._counts, room)
            self._is_beyond = np.resize(self._is_beyond, room)
        self._tokens[before:size] = fresh
        self._counts[before:size] = 0
        self._is_beyond[before:size] = self.prompt.lacks(fresh)


class SeenTokens:
    """What every living choice with penalties has seen."""

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[object, Seen] = WeakKeyDictionary()
        self._last_prompt = NO_PROMPT

    def __len__(self) -> int:
        """Choices that are kept."""
        return len(self._seen)

    def up_to_date(self, row: SampleRow, previous: torch.Tensor | None) -> Seen:
        """What the row's choice has seen, its newest token included.

        ``previous``: int64[...] on the CPU, where a pending token is found.
        """
        seen = self._seen.get(row.choice)
        news = news_of(row, None if seen is None else seen.num_counted)
        if seen is None or news.starts_over:
            seen = self._seen[row.choice] = Seen(self._prompt_of(row))
        token_ids = _known(news, previous)
        if token_ids:
            seen.count(token_ids)
        seen.num_counted = news.num_counted
        return seen

    def _prompt_of(self, row: SampleRow) -> SeenPrompt:
        if not counts_prompt(row):
            return NO_PROMPT
        # Forks of one prompt come one after the other.
        if not self._last_prompt.is_of(row.prompt_ids):
            self._last_prompt = SeenPrompt(row.prompt_ids)
        return self._last_prompt


def _known(news: News, previous: torch.Tensor | None) -> list[int]:
    """The new tokens. Nothing is pending on a CPU for longer than it takes to look."""
    token_ids: list[int] = news.output_ids.tolist()
    if news.pending is not None:
        assert previous is not None, "a pending token is among those sampled before"
        token_ids.append(int(previous[news.pending]))
    return token_ids
