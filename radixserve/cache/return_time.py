"""Eviction by return time: keep what comes back soon and surely, as learnt from what came back.

Every request that ends touches the tokens of its path. The policy notes after how long they were
touched again, whether still cached or evicted meanwhile (``ghosts.py``), by class
(``return_class.py``): traits, hits, how much new text their last request brought, and whose they
are (``return_habits.py``). From that it learns what it is worth to keep tokens of a class at an age
(``return_statistics.py``), and the leaf whose last tokens are worth least goes first, run by run
(``run.py``, ``index_order.py``). One-time scans are of a class that never returns, and go before
anything that does.

The choices of one request are one use of what they share, and so is a request that was preempted.

All the while LRU is run beside it, on paper, and takes over where it would find more
(``lru_duel.py``).

Tokens are the unit throughout, so pages of 16 and of 512 tokens teach the same. The clock is
given: seconds, any origin; it should not go back (if it does it is held).

Bounded memory: at most 24 times as many evicted tokens remembered as the cache holds (one entry for
64 tokens or a page), a log of a few entries a page, and a few runs a node.

Costs: a touch O(nodes and runs on the path) in Python plus 2 ns for each token not seen before; an
eviction O(log cells); every 64 requests and 2,048 pages 1 to 2 ms.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from radixserve.cache.events import chain_hashes, namespace_hash, root_hash
from radixserve.cache.eviction import LRU
from radixserve.cache.ghosts import Ghost, Ghosts
from radixserve.cache.index_order import IndexOrder
from radixserve.cache.lru_duel import LRUDuel
from radixserve.cache.node import Node, Root
from radixserve.cache.return_class import (
    MAX_HITS,
    Trait,
    class_index,
    size_bucket,
    size_of,
)
from radixserve.cache.return_habits import Habit, Habits
from radixserve.cache.return_statistics import ReturnStatistics
from radixserve.cache.run import Record, Run, split_runs
from radixserve.cache.touch_log import TouchLog

_GHOST_STRIDE_TOKENS: Final = 64
_GHOST_FACTOR: Final = 24
_REFRESH_REQUESTS: Final = 64
_REFRESH_PAGES: Final = 2048
_LOG_ENTRIES_PER_PAGE: Final = 4
_MIN_LOG_ENTRIES: Final = 1 << 12
_MAX_LOG_ENTRIES: Final = 1 << 20


class ReturnTime:
    """An ``EvictionPolicy`` for a cache of ``num_pages`` pages of ``page_size`` tokens."""

    __slots__ = (
        "_clock",
        "_duel",
        "_ghosts",
        "_habits",
        "_log",
        "_lru",
        "_mean_brought",
        "_now_s",
        "_num_pages_touched",
        "_num_touches",
        "_order",
        "_page_size",
        "_statistics",
        "_stride",
    )

    name: Final = "return-time"

    def __init__(self, clock: Callable[[], float], num_pages: int, page_size: int) -> None:
        self._clock = clock
        self._now_s = float("-inf")
        self._page_size = page_size
        num_tokens = num_pages * page_size
        self._stride = -(-_GHOST_STRIDE_TOKENS // page_size) * page_size
        self._ghosts = Ghosts(_GHOST_FACTOR * num_tokens // self._stride)
        log_size = min(max(_LOG_ENTRIES_PER_PAGE * num_pages, _MIN_LOG_ENTRIES), _MAX_LOG_ENTRIES)
        self._log = TouchLog(log_size, num_tokens)
        self._statistics = ReturnStatistics(self._log)
        self._habits = Habits()
        self._order = IndexOrder()
        self._lru = LRU()
        self._duel = LRUDuel()
        self._mean_brought = 0.0
        """New tokens a request brings, about."""
        # Since the last refresh.
        self._num_touches = self._num_pages_touched = 0

    @property
    def follows_lru(self) -> bool:
        """Whether LRU's order rules at the moment."""
        return self._duel.follows_lru

    def _now(self) -> float:
        self._now_s = max(self._now_s, self._clock())
        return self._now_s

    # Touching

    def touch(self, node: Node, num_counted_tokens: int = 0) -> None:
        """A lease lets go of the node and of all above it: one request more for the history of all
        but the first ``num_counted_tokens``, of which only the age begins anew."""
        self._lru.touch(node)
        path = []
        above = node
        while above.parent is not None:
            path.append(above)
            above = above.parent
        if not path:
            return
        path.reverse()
        now_s = self._now()
        found = lru_found = brought = novel = 0
        for part in path:
            record: Record | None = part.record
            known = part.start
            if record is not None:
                runs = record.runs
                if known < num_counted_tokens:
                    counted, runs = split_runs(runs, num_counted_tokens)
                    record.runs = counted + runs
                    known = self._age_anew(counted, known)
                lru_found += self._return_runs(runs, known, now_s)
                found += record.end - known
                known = record.end
            if known < part.end:
                runs, hashes, num_ghosts, num_lru = self._new_runs(
                    part, known, num_counted_tokens, now_s
                )
                brought += part.end - known
                novel += part.end - known - num_ghosts
                lru_found += num_lru
                if record is None:
                    part.record = Record(runs, hashes)
                else:
                    record.runs += runs
                    record.hashes += hashes
        asked = max(0, node.end - num_counted_tokens)
        known = max(0, asked - novel)
        habit = self._habits.observe(node.namespace, known=known, asked=asked)
        self._enter_log(path, habit, size_bucket(novel), num_counted_tokens, now_s)
        self._duel.observe(asked=asked, found=found, lru_found=lru_found)
        self._mean_brought += 0.01 * (brought - self._mean_brought)
        self._num_touches += not num_counted_tokens
        self._num_pages_touched += -(-node.end // self._page_size)
        if self._num_touches >= _REFRESH_REQUESTS and self._num_pages_touched >= _REFRESH_PAGES:
            self._refresh(now_s)

    def _age_anew(self, runs: list[Run], start: int) -> int:
        """Cached runs are let go of once more by the same request; returns where they end."""
        for run in runs:
            self._log.leave(run.position, run.end - start)
            start = run.end
        return start

    def _return_runs(self, runs: list[Run], start: int, now_s: float) -> int:
        """Cached runs are touched again; returns how many of their tokens LRU would have had."""
        lru_found = 0
        log, record = self._log, self._statistics.record
        for run in runs:
            num_tokens = run.end - start
            start = run.end
            if run.position >= log.recent:
                lru_found += num_tokens
            record(run.class_, now_s - run.touched_s, run.position, num_tokens)
            log.leave(run.position, num_tokens)
            if run.hits < MAX_HITS:
                run.hits += 1
        return lru_found

    def _new_runs(
        self, node: Node, known: int, num_counted_tokens: int, now_s: float
    ) -> tuple[list[Run], list[int], int, int]:
        """Runs for a node's tokens from ``known`` on, with the past of those that were evicted.

        Returns them, the hashes in them, how many tokens were known, and how many of those LRU
        would have had. What is not known at one depth is not known further down: of a path the
        deepest tokens are evicted first, and forgotten first.
        """
        hashes = self._hashes(node, known)
        recent = self._log.recent
        runs: list[Run] = []
        start, border = known, known - known % self._stride
        lru_found = 0
        for ghost, num_strides in self._ghosts.recall(hashes):
            border += num_strides * self._stride
            hits, class_ = ghost.hits, ghost.class_
            if start < num_counted_tokens:
                # Evicted while its own request waited: back, but not returned.
                end = min(border, num_counted_tokens)
                self._log.leave(ghost.position, end - start)
                runs.append(Run(end, hits, Trait.PLAIN, class_, 0, now_s))
                start = end
            if start < border:
                num_tokens = border - start
                if ghost.position >= recent:
                    lru_found += num_tokens
                age_s = now_s - ghost.touched_s
                self._statistics.record(class_, age_s, ghost.position, num_tokens)
                self._log.leave(ghost.position, num_tokens)
                runs.append(Run(border, min(hits + 1, MAX_HITS), Trait.PLAIN, class_, 0, now_s))
                start = border
        if start < node.end:
            runs.append(Run(node.end, 0, Trait.PLAIN, 0, 0, now_s))
        return runs, hashes, start - known, lru_found

    def _hashes(self, node: Node, known: int) -> list[int]:
        """The hashes at the multiples of the stride in (``known``, the node's end].

        *Cost*: 0.4 µs each, and O(nodes in the span that ``known`` lies in).
        """
        stride = self._stride
        border = known - known % stride
        if node.end - border < stride:
            return []
        spans = [node.tokens[known - node.start :]]
        depth = num_public = known
        namespace = node.namespace
        while node.parent is not None and node.start >= border:
            spans.append(node.tokens[: depth - node.start])
            depth = node.start
            if node.namespace is not None:
                num_public = depth
            node = node.parent
        if isinstance(node, Root):
            parent = root_hash(node.namespace)
        else:
            spans.append(node.tokens[border - node.start : depth - node.start])
            record: Record = node.record
            parent = record.hashes[border // stride - node.start // stride - 1]
        if namespace is not None and node.namespace is None:
            # Tenants do not share what becomes of their tokens.
            parent = namespace_hash(parent, namespace, num_public)
        tokens = np.concatenate(spans[::-1]) if known > border else spans[0]
        return chain_hashes(parent, tokens, stride)

    def _enter_log(
        self, path: list[Node], habit: Habit, size: int, num_counted_tokens: int, now_s: float
    ) -> None:
        """Give every run of a path its trait and its class, and let it begin to age."""
        weights: dict[int, int] = {}
        touched: list[Run] = []
        for node in path:
            record: Record = node.record
            record.mark_last_page(node.start, self._page_size, len(node.children))
            start = node.start
            runs: list[Run] = []
            for run in record.runs:
                class_ = class_index(habit, run.trait, run.hits, size)
                if run.end <= num_counted_tokens and size_of(run.class_) > size:
                    # What the request brought before, it has still brought.
                    class_ = class_index(habit, run.trait, run.hits, size_of(run.class_))
                weights[class_] = weights.get(class_, 0) + run.end - start
                start = run.end
                # Runs that had the same number of hits are told apart no longer.
                if runs and runs[-1].class_ == class_:
                    runs[-1].end = run.end
                    continue
                run.class_ = class_
                run.touched_s = now_s
                runs.append(run)
            record.runs = runs
            touched += runs
        positions = {
            class_: self._log.append(now_s, class_, num_tokens)
            for class_, num_tokens in weights.items()
        }
        for run in touched:
            run.position = positions[run.class_]

    def _refresh(self, now_s: float) -> None:
        self._statistics.count(now_s)
        self._statistics.fade(self._num_touches)
        # What one request brings is about one observation.
        index = self._statistics.index(max(self._mean_brought, 1.0))
        # A view that is read one by one as fast as a list, and costs no making.
        self._order.set_index(index.ravel().data)
        self._num_touches = self._num_pages_touched = 0

    # What may be evicted

    def add(self, node: Node) -> None:
        """The node has become evictable."""
        self._lru.add(node)
        self._enter_order(node)

    def _enter_order(self, node: Node) -> None:
        last: Run = node.record.runs[-1]
        self._order.enter(node, last.class_, last.touched_s, self._now())

    def remove(self, node: Node) -> None:
        """The node has stopped being evictable."""
        self._lru.remove(node)
        self._order.leave(node)

    def victim(self) -> Node | None:
        """The node whose last run is worth least, or LRU's where LRU rules."""
        if self._duel.follows_lru:
            return self._lru.victim()
        return self._order.first(self._now())

    def floor(self, node: Node) -> int:
        """The last run may go; where LRU rules, the whole edge."""
        runs: list[Run] = node.record.runs
        return node.start if self._duel.follows_lru or len(runs) == 1 else runs[-2].end

    # What happens to nodes

    def split(self, upper: Node, lower: Node) -> None:
        """Both halves keep their part of the edge's history."""
        self._lru.split(upper, lower)
        record: Record | None = lower.record
        if record is None:
            return
        if record.end <= upper.end:
            upper.record, lower.record = record, None
            return
        above, record.runs = split_runs(record.runs, upper.end)
        num_above = upper.end // self._stride - upper.start // self._stride
        upper.record = Record(above, record.hashes[:num_above])
        del record.hashes[:num_above]

    def merge(self, chain: Sequence[Node], kept: Node) -> None:
        """The histories of a chain, one behind the other."""
        self._lru.merge(chain, kept)
        record: Record = chain[0].record
        runs = record.runs
        for node in chain[1:]:
            below: Record = node.record
            first = below.runs[0]
            if runs[-1].position == first.position and runs[-1].class_ == first.class_:
                del runs[-1]
            runs += below.runs
            record.hashes += below.hashes
        kept.record = record

    def trim(self, node: Node, end: int) -> None:
        """Remember what is about to be evicted; the rest of the edge is judged by its own end."""
        record: Record = node.record
        above, below = split_runs(record.runs, end)
        num_kept = end // self._stride - node.start // self._stride
        self._remember(below, end - end % self._stride, record.hashes[num_kept:])
        if end == node.start:
            return
        del record.hashes[num_kept:]
        before = record.runs[-1]
        record.runs = above
        last = above[-1]
        if last.class_ != before.class_ or last.touched_s != before.touched_s:
            self._order.leave(node)
            self._enter_order(node)

    def _remember(self, runs: list[Run], depth: int, hashes: list[int]) -> None:
        """Runs go; ``hashes`` are those at the multiples of the stride behind ``depth``."""
        stride = self._stride
        done = 0
        for run in runs:
            end = (run.end - depth) // stride
            if end > done:
                ghost = Ghost(run.hits, run.class_, run.position, run.touched_s)
                self._ghosts.remember(hashes[done:end], ghost)
                done = end

    def drop(self, node: Node) -> None:
        """What is forgotten by order has no past."""
        start = node.start
        for run in node.record.runs:
            self._log.leave(run.position, run.end - start)
            start = run.end

    def __contains__(self, node: Node) -> bool:
        return node in self._order

    def __len__(self) -> int:
        return len(self._order)
