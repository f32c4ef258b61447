"""One token to be chosen: which logits, under which parameters, with which noise. Data only."""

from collections.abc import Collection
from typing import NamedTuple

from radixserve.ids import TokenArray
from radixserve.sampling.params import SamplingParams
from radixserve.sampling.token_mask import TokenMask


class SampleRow(NamedTuple):
    """What the sampler needs to know of one choice of one request. A tuple, for there is one per
    token."""

    logits_row: int
    """Which row of the logits; several choices may share one."""
    params: SamplingParams
    """Resolved: no field that sampling reads is None. The same for all rows of a choice."""
    seed: int
    """Of this choice."""
    position: int
    """Index, in its request, of the token being chosen. Counts a pending one."""
    choice: object
    """The identity of the choice: hashable by identity, weakly referenceable. What penalties count
    is kept for as long as it lives."""
    prompt_ids: TokenArray
    output_ids: TokenArray
    """The answer as far as the host knows it. Only ever grows."""
    pending: int | None
    """Where, among the token ids that the previous launch sampled, this choice's newest token is
    found, if the host does not know it yet. It belongs after ``output_ids``."""
    banned_ids: Collection[int]
    """Ids that must not be chosen now: the stop tokens of a request below its ``min_tokens``."""
    mask: TokenMask | None = None
    """All that may be chosen now, if not everything: of a request with a grammar."""


def has_penalties(row: SampleRow) -> bool:
    """Whether what is in the prompt or the answer changes this row's logits."""
    params = row.params
    return bool(counts_prompt(row) or params.presence_penalty or params.frequency_penalty)


def counts_prompt(row: SampleRow) -> bool:
    """Whether what is in the prompt changes this row's logits."""
    return row.params.repetition_penalty != 1.0


def changes_logits(row: SampleRow) -> bool:
    """Whether anything but temperature and truncation is to be done to this row's logits."""
    return bool(has_penalties(row) or row.params.logit_bias or row.banned_ids)
