"""The distinct tokens of choices with penalties, kept on the host: for the CPU.

On a CPU, changing the few thousand logits of tokens that were seen is cheaper than a pass over the
vocabulary, so what is kept is a list. Of each token its *tally*: 1 if it is in the prompt, plus 2
for every time it is in the answer.

*Cost*: a new choice, of order n log n in its history; then of order 1 per new token. About 150
bytes per distinct token, until the choice is gone.
"""

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from radixserve.sampling.history import News, news_of
from radixserve.sampling.row import SampleRow


class Seen:
    """What one choice has seen."""

    def __init__(self, prompt_ids: npt.NDArray[np.integer]) -> None:
        distinct = np.unique(prompt_ids)
        self.num_counted = 0
        self._size = len(distinct)
        self._tokens = np.empty(self._size + 64, dtype=np.int64)
        self._tokens[: self._size] = distinct
        self._tallies = np.ones(len(self._tokens), dtype=np.int32)
        self._places = dict(zip(distinct.tolist(), range(self._size), strict=True))

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Distinct tokens, in no order: a view."""
        return self._tokens[: self._size]

    @property
    def tallies(self) -> npt.NDArray[np.int32]:
        """Of each of ``tokens``: a view."""
        return self._tallies[: self._size]

    def count(self, token_id: int) -> None:
        """Count one token of the answer."""
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = self._size
            if place == len(self._tokens):
                self._tokens = np.concatenate((self._tokens, self._tokens))
                self._tallies = np.concatenate((self._tallies, self._tallies))
            self._tokens[place] = token_id
            self._tallies[place] = 0
            self._size += 1
        self._tallies[place] += 2


class SeenTokens:
    """What every living choice with penalties has seen."""

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[object, Seen] = WeakKeyDictionary()

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
            seen = self._seen[row.choice] = Seen(row.prompt_ids)
        for token_id in _known(news, previous):
            seen.count(token_id)
        seen.num_counted = news.num_counted
        return seen


def _known(news: News, previous: torch.Tensor | None) -> list[int]:
    """The new tokens. Nothing is pending on a CPU for longer than it takes to look."""
    token_ids: list[int] = news.output_ids.tolist()
    if news.pending is not None:
        assert previous is not None, "a pending token is among those sampled before"
        token_ids.append(int(previous[news.pending]))
    return token_ids
