"""What watching the radix tree costs: the engine's steps with 50,000 nodes, and the first picture.

    python bench/cache_tree.py [--nodes 50000] [--blocks 100] [--steps 20] [--step-ms 5]

Steps of the engine's core with 64 running requests that come and go over shared prefixes, and a
stand-in for the model that samples a constant at once. Two things cost the engine anything: the
tree's marks, which are what blocks of steps take more than those before and after them with nobody
watching; and the looks at what is marked, whose share of the time is measured while steps take
``--step-ms`` in all, with the messages encoded as in the engine's process.

Then the first picture of an engine that is idle: in the engine, and in the server for one viewer,
up to the bytes that it is sent.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from itertools import count
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.engine.core import EngineCore
from radixserve.engine.interface import TreeViewer
from radixserve.engine.messages import TreeChanged, decode_from_engine, encode
from radixserve.engine.tree_mirror import TreeMirror
from radixserve.engine.tree_view import TreeView
from radixserve.engine.tree_watch import MAX_NODES
from radixserve.ids import DEFAULT_NAMESPACE, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineInfo, EngineRequest, SampledToken
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.sse import named_frame

PAGE_SIZE = 16
NUM_RUNNING = 64
WANTED_SHARE = 0.01


class Constant:
    """A runner that samples 7s, at once."""

    max_in_flight = 1

    def launch(self, plan: StepPlan) -> "Constant":
        self._result = StepResult(tuple((SampledToken(7),) * row.num_samples for row in plan.rows))
        return self

    def wait(self) -> StepResult:
        return self._result


class Load:
    """A core over a tree of many nodes, and requests that keep it busy."""

    def __init__(self, num_nodes: int) -> None:
        self._rng = np.random.default_rng(0)
        self.cache = PrefixCache(4 * num_nodes, PAGE_SIZE)
        self._stems = [self._tokens(512) for _ in range(max(8, num_nodes // 64))]
        self._fill(num_nodes)
        scheduler = Scheduler(self.cache, max_batch_tokens=2048, max_running=NUM_RUNNING)
        info = cast(EngineInfo, type("Info", (), {"page_size": PAGE_SIZE})())
        self.core = EngineCore(info, Constant(), scheduler, self.cache, Pacer(2048))
        self._serial = count()

    def _tokens(self, number: int) -> list[int]:
        return cast("list[int]", self._rng.integers(0, 30_000, number).tolist())

    @property
    def num_nodes(self) -> int:
        return sum(1 for _ in self.cache.tree.nodes()) - len(self.cache.tree.roots)

    def _prompt(self) -> list[int]:
        stem = self._stems[int(self._rng.integers(len(self._stems)))]
        return [*stem[: int(self._rng.integers(1, 9)) * 64], *self._tokens(8)]

    def _fill(self, num_nodes: int) -> None:
        with tqdm(total=num_nodes, desc="nodes", delay=1) as bar:
            while (num_made := self.num_nodes) < num_nodes:
                bar.update(num_made - bar.n)
                # Most make one node, some split another.
                for _ in range((num_nodes - num_made) // 2 + 1):
                    tokens = np.array(self._prompt(), dtype=np.int32)
                    lease = self.cache.acquire(DEFAULT_NAMESPACE, tokens[:-1])
                    if lease.pending_copy is not None:
                        self.cache.finish_copy(lease)
                    self.cache.reserve(lease, len(tokens))
                    self.cache.release(lease, tokens)

    def step(self) -> None:
        """One step, before which requests have come in the places of those that ended."""
        stats = self.core.stats()
        for _ in range(NUM_RUNNING - stats.num_running - stats.num_waiting):
            self.core.add(
                EngineRequest(
                    request_id=RequestId(str(next(self._serial))),
                    prompt_ids=self._prompt(),
                    params=SamplingParams(max_tokens=int(self._rng.integers(16, 256))),
                    end_token_ids=[],
                )
            )
        self.core.step()

    def tell(self, *, is_busy: bool) -> bytes | None:
        """As the engine's process does after a step."""
        feed = self.core.tree_feed
        if not feed.has_news:
            return None
        news = feed.take(is_busy=is_busy)
        return None if news is None else encode(TreeChanged(feed.picture, news))

    def block_us(self, steps: int) -> float:
        """What a step takes on the host, whoever is told."""
        # Telling a whole picture has turned the processor's caches over.
        for _ in range(steps):
            self.step()
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        return (time.perf_counter() - begun) / steps * 1e6

    def watch(self) -> None:
        """Have the first picture behind it."""
        self.core.tree_feed.watch(1)
        while self.tell(is_busy=False) is not None:
            pass

    def paced(self, step_s: float, until: Callable[[float], bool]) -> tuple[float, float]:
        """Steps of this length, until so many seconds have passed that ``until`` says so: these
        seconds, and what share of them went into telling."""
        begun = time.perf_counter()
        telling = 0.0
        while not until((now := time.perf_counter()) - begun):
            self.step()
            told = time.perf_counter()
            self.tell(is_busy=True)
            ended = time.perf_counter()
            telling += ended - told
            time.sleep(max(0.0, step_s - (ended - now)))
        took = time.perf_counter() - begun
        return took, telling / took


def marks_us(load: Load, blocks: int, steps: int) -> tuple[float, float]:
    """What a step takes on the host with nobody watching, and what the marks add; medians."""
    alone, added = [], []
    for _ in tqdm(range(blocks), desc="marks", delay=1):
        load.core.tree_feed.unwatch()
        first = load.block_us(steps)
        load.watch()
        marked = load.block_us(steps)
        load.core.tree_feed.unwatch()
        last = load.block_us(steps)
        # Between its neighbours in time: what else the machine does concerns all three.
        alone.append((first + last) / 2)
        added.append(marked - alone[-1])
    return statistics.median(alone), statistics.median(added)


def picture_ms(load: Load) -> dict[str, Any]:
    """The first picture, engine idle."""
    load.core.tree_feed.watch(1)
    begun = time.perf_counter()
    messages, longest = [], 0.0
    while True:
        took = time.perf_counter()
        message = load.tell(is_busy=False)
        longest = max(longest, time.perf_counter() - took)
        if message is None:
            break
        messages.append(message)
    told = time.perf_counter()
    mirror = TreeMirror()
    for message in messages:
        changed = decode_from_engine(message)
        assert isinstance(changed, TreeChanged)
        mirror.apply(changed.news)
    mirrored = time.perf_counter()
    viewer = TreeViewer(sees_all=True, owns=lambda namespace: namespace == DEFAULT_NAMESPACE)
    view = TreeView(mirror, viewer, PAGE_SIZE)
    num_bytes = num_nodes = 0
    while (part := view.take(MAX_NODES)) is not None:
        num_nodes += len(part[0])
        data = {"at": 0.0, "gone": part[1], "nodes": part[0]}
        num_bytes += len(named_frame(0, "nodes", encode_json(data)))
    framed = time.perf_counter()
    assert num_nodes == load.num_nodes
    return {
        "engine_ms": (told - begun) * 1e3,
        "longest_look_ms": longest * 1e3,
        "message_bytes": sum(map(len, messages)),
        "mirror_ms": (mirrored - told) * 1e3,
        "view_ms": (framed - mirrored) * 1e3,
        "stream_bytes": num_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--nodes", type=int, default=50_000, help="in the tree (default: 50000)")
    parser.add_argument("--blocks", type=int, default=100, help="of marked steps (default: 100)")
    parser.add_argument("--steps", type=int, default=20, help="in a block (default: 20)")
    parser.add_argument("--step-ms", type=float, default=5.0, help="of a whole step (default: 5)")
    arguments = parser.parse_args()
    step_s = arguments.step_ms / 1e3
    facts = print_machine()
    load = Load(arguments.nodes)
    # As the engine's process does with what stays.
    gc.collect()
    gc.freeze()
    for _ in range(300):
        load.step()
    host_us, marks = marks_us(load, arguments.blocks, arguments.steps)
    load.core.tree_feed.watch(1)
    log = load.cache.tree.log
    assert log is not None
    picture_s, picture_share = load.paced(step_s, lambda _: log.is_whole)
    _, steady_share = load.paced(step_s, lambda passed: passed > 5.0)
    load.core.tree_feed.unwatch()
    # Less than nothing is the machine's noise.
    marks_share = max(0.0, marks) / (arguments.step_ms * 1e3)
    print(f"{load.num_nodes} nodes, {NUM_RUNNING} running; the host's part {host_us:.0f} us a step")
    print(f"marks: {marks:+.1f} us a step, {marks_share:.2%} of a step of {arguments.step_ms:g} ms")
    print(f"looks, first picture: {picture_share:.2%} of the time, for {picture_s:.1f} s")
    print(f"looks, from then on: {steady_share:.2%} of the time")
    pictures = [picture_ms(load) for _ in range(5)]
    picture = {key: statistics.median(one[key] for one in pictures) for key in pictures[0]}
    print("first picture, engine idle: " + ", ".join(f"{k} {v:.1f}" for k, v in picture.items()))
    share = marks_share + max(picture_share, steady_share)
    print(f"in all {share:.2%} of a step, under {WANTED_SHARE:.0%}: {share < WANTED_SHARE}")
    print(
        json.dumps(
            {
                "bench": "cache_tree",
                **facts,
                "nodes": load.num_nodes,
                "step_ms": arguments.step_ms,
                "host_us": host_us,
                "marks_us": marks,
                "picture_share": picture_share,
                "picture_s": picture_s,
                "steady_share": steady_share,
                "picture": picture,
            }
        )
    )


if __name__ == "__main__":
    main()
