"""What is new in a choice's history since it was last counted.

Counting a history anew for every token costs as much as the history is long, and cannot be done
where its newest token is pending, on the device alone. So tokens are counted once each, when they
first appear, known or pending:

    output_ids, as the host knows it    |t0 t1 t2 t3|
    a pending token                                 |p|
    counted before                      |t0 t1 t2|
    new                                          |t3 p|

A pending token that was counted is later known, and is not counted again.
"""

from dataclasses import dataclass

from radixserve.ids import TokenArray
from radixserve.sampling.row import SampleRow


@dataclass(frozen=True, slots=True)
class News:
    """What to count."""

    starts_over: bool
    """Whether nothing counted before holds: the prompt is to be counted, and the whole answer."""
    output_ids: TokenArray
    """Tokens of the answer, known to the host."""
    pending: int | None
    """As in ``SampleRow``, unless that token was counted already."""
    num_counted: int
    """Answer tokens that are counted once these are."""


def news_of(row: SampleRow, num_counted: int | None) -> News:
    """``num_counted``: answer tokens counted so far; None if the choice is new.

    A history that has become shorter is counted anew: it is another one.
    """
    known = len(row.output_ids)
    total = known + (row.pending is not None)
    starts_over = num_counted is None or total < num_counted
    before = 0 if num_counted is None or starts_over else num_counted
    pending = row.pending if total > before else None
    return News(starts_over, row.output_ids[before:], pending, total)
