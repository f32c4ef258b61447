"""What the return-time policy remembers of a node: runs of its tokens with one history each.

    node          start ................................ end
    runs          | 3 hits, a minute ago | 1 hit | 0 hits |

An edge is merged from parts that were touched at different times by different requests. Within a
run all tokens were touched by the same requests, so a node has a few runs however many pages; and
when eviction trims a leaf from its end, run by run, each is judged by its own past.
"""

from dataclasses import dataclass

from radixserve.cache.return_class import Trait, trait_of_place


@dataclass(slots=True)
class Run:
    """Tokens from the end of the run before (or the node's start) to depth ``end``. Mutable."""

    end: int
    hits: int
    """Requests that found them cached, or would have if they had been kept; MAX_HITS at most."""
    trait: Trait
    class_: int
    """Their class when last touched."""
    position: int
    """Their entry in the touch log."""
    touched_s: float

    def cut(self, end: int) -> "Run":
        """The part of it that ends at ``end``; this one goes on being the rest."""
        return Run(end, self.hits, self.trait, self.class_, self.position, self.touched_s)


@dataclass(slots=True)
class Record:
    """A node's runs, in order and none empty, and the hashes of prefixes that end in them.

    Tokens behind the last run are new: no lease has let go of them yet. Of an unlocked node there
    are none.
    """

    runs: list[Run]
    hashes: list[int]
    """At each multiple of the ghosts' stride in (the node's start, ``end``]."""

    @property
    def end(self) -> int:
        """The depth up to which the node's tokens have a history."""
        return self.runs[-1].end

    def mark_last_page(self, start: int, page_size: int, num_children: int) -> None:
        """Let the last page of a node that begins at ``start`` have the trait of its place now.

        Where two parted they will have parted for good, though one of them may be gone; but a page
        that was partial need not be it any more.
        """
        runs = self.runs
        trait = trait_of_place(num_children, is_partial=runs[-1].end % page_size > 0)
        for run in runs:
            if run.trait is Trait.PARTIAL:
                run.trait = Trait.PLAIN
        last = runs[-1]
        if trait <= last.trait:
            return
        page_start = (last.end - 1) // page_size * page_size
        before = runs[-2].end if len(runs) > 1 else start
        if before < page_start:
            runs.insert(-1, last.cut(page_start))
        last.trait = trait


def split_runs(runs: list[Run], depth: int) -> tuple[list[Run], list[Run]]:
    """The runs above and below a depth, of which one may be cut in two. *Cost*: O(runs)."""
    index = 0
    while index < len(runs) and runs[index].end <= depth:
        index += 1
    upper, lower = runs[:index], runs[index:]
    if lower and (not upper or upper[-1].end < depth):
        upper.append(lower[0].cut(depth))
    return upper, lower
