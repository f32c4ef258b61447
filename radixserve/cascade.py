"""What the rows of a step have in common: the pages that several of them begin with, as a tree.

A step's rows are in such an order that those which share pages lie side by side. A *level* is a run
of rows together with a run of pages that all of their page tables hold at the same place; levels
nest, as the radix tree's nodes do, and every level is worth a read of its own:

    row 0  |AAAAAAAAAAAA|BBBBBB|xxx          A: rows 0 to 3, pages 0 to 12
    row 1  |AAAAAAAAAAAA|BBBBBB|xxxx         B: rows 0 to 2, pages 12 to 18
    row 2  |AAAAAAAAAAAA|yy                  x, y, z: each row's own
    row 3  |zzzzzzzzzzzzzzzzzzzz

Whoever computes attention reads a level's keys once for the queries of all its rows, and merges the
partial results by their log-sum-exp. That may change a result's rounding and nothing else; reading
each row's keys by itself instead is always right.

Made by ``scheduler/cascade_planner.py`` from the tree, read by attention backends. Data only: knows
no tree, no request and no torch.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Level:
    """Pages ``[first_page, end_page)`` of the page tables of rows ``[first_row, end_row)``, which
    are the same pages in all of them.

    At least two rows and one page. All of the pages' keys were computed before this step, and lie
    before every token that these rows have in it: each of their queries sees all of them.
    """

    first_row: int
    end_row: int
    first_page: int
    end_page: int


@dataclass(frozen=True, slots=True)
class Cascade:
    """The levels of one step, outer ones before those inside them.

    Two levels' rows are nested or apart. The levels of any one row adjoin: the outermost begins at
    page 0, each other one where the one around it ends. Behind the last every row has keys of its
    own, be it only those of its new tokens.
    """

    levels: tuple[Level, ...]


NO_CASCADE: Final = Cascade(())
"""Every row reads its own keys."""


@dataclass(frozen=True, slots=True)
class CascadeCosts:
    """When a level pays, in an attention backend's own experience; measured by
    ``bench/cascade.py``.

    A level spares ``(readers - 1) * keys`` reads of a key in each layer, where ``readers`` would
    read them without it. It costs ``level_keys + token_keys * tokens``: launching it, and for each
    of its rows' new tokens one more partial result to be merged.
    """

    level_keys: float
    token_keys: float
