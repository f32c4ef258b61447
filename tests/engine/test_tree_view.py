"""What each viewer sees of the tree: exactly what is theirs, in whatever parts it is told."""

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from radixserve.cache.node import Node
from radixserve.cache.radix_tree import RadixTree
from radixserve.cache.tree_log import PUBLIC_OWNER, TreeLog
from radixserve.engine import tree_feed
from radixserve.engine.interface import TreeEvent, TreeNodes, TreeViewer, TreeWhole
from radixserve.engine.messages import TreeChanged
from radixserve.engine.tree_mirror import Changes, MirrorNode, TreeMirror
from radixserve.engine.tree_view import TreeView
from radixserve.ids import Namespace
from tests.engine.tree_drawing import ADMIN, Drawing, WatchedCache, array_of, tenant

MACHINE = Path(__file__).parents[1] / "cache" / "test_prefix_cache_stateful.py"

VIEWERS = [ADMIN, tenant("a"), tenant("b"), tenant("a", "b"), tenant("nobody")]


class Seen(NamedTuple):
    """A node as a viewer should see it, by serial numbers."""

    parent: int
    start: int
    end: int
    locks: int | None
    age_s: float | None
    owner: str


def by_hand(tree: RadixTree, viewer: TreeViewer) -> dict[int, Seen]:
    """What there is for a viewer, found by walking the tree as the definition says."""

    def is_own(node: Node) -> bool:
        return node.namespace is not None and viewer.owns(node.namespace)

    def is_way(node: Node) -> bool:
        """Whether anything of the viewer's hangs below."""
        return is_own(node) or any(is_way(child) for child in node.children.values())

    def is_shown(node: Node) -> bool:
        if viewer.sees_all or is_own(node):
            return True
        ways = [child for child in node.children.values() if is_way(child)]
        return node.namespace is None and (len(ways) > 1 or any(map(is_own, ways)))

    shown: dict[int, Seen] = {}
    for node in tree.nodes():
        if node.parent is None or not is_shown(node):
            continue
        top = node
        assert top.parent is not None
        while top.parent.parent is not None and not is_shown(top.parent):
            top = top.parent
            assert top.parent is not None
        is_told = viewer.sees_all or is_own(node)
        age_s = None
        if is_told and not node.lock_count:
            age_s = round((int(1000 * tree.now_s) - int(1000 * node.idle_since_s)) / 1000, 1)
        above = top.parent
        assert above is not None
        shown[node.serial] = Seen(
            above.serial if above.parent is not None else 0,
            top.start,
            node.end,
            node.lock_count if is_told else None,
            age_s,
            "public" if node.namespace is None else node.namespace,
        )
    return shown


class Watcher:
    """One viewer of a mirror, who is told in parts of any size."""

    def __init__(self, mirror: TreeMirror, viewer: TreeViewer, page_size: int) -> None:
        self.viewer = viewer
        self.view = TreeView(mirror, viewer, page_size)
        self.drawing = Drawing()
        self.page_size = page_size

    def take(self, num_nodes: int) -> bool:
        part = self.view.take(num_nodes)
        if part is not None:
            self.drawing.apply(TreeNodes(0.0, *part))
        return part is not None

    def check(self, tree: RadixTree) -> None:
        found = {}
        owners: dict[int, str] = {0: "public"}
        for node in self.drawing.nodes.values():
            mirrored = self.view.find(node.id)
            assert mirrored is not None
            parent = self.view.find(node.parent)
            end = node.start + node.tokens
            size = self.page_size
            assert node.pages == (end - 1) // size - node.start // size + 1
            expected = by_hand(tree, self.viewer)[mirrored.serial]
            if node.owner > 1:
                assert owners.setdefault(node.owner, expected.owner) == expected.owner
            else:
                assert (node.owner == 0) == (expected.owner == "public")
                assert node.owner == 0 or self.viewer.owns(Namespace(expected.owner))
            found[mirrored.serial] = Seen(
                0 if parent is None else parent.serial,
                node.start,
                end,
                node.locks,
                # Of what was told earlier the age has grown since.
                expected.age_s if node.age_s is not None else None,
                expected.owner,
            )
            assert (node.age_s is None) == (expected.age_s is None)
        assert found == by_hand(tree, self.viewer)
        assert len(set(owners.values())) == len(owners)


@pytest.fixture(scope="module")
def machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cache_machine_of_tree_view", MACHINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_viewer_sees_what_is_theirs(machine: ModuleType) -> None:
    """The cache's own stateful test, with viewers that come, read and go whenever they like."""
    seen: set[str] = set()

    class Watched(machine.CacheMachine):  # type: ignore[misc,name-defined]  # loaded from a path
        mirror: TreeMirror | None = None
        watchers: list[Watcher]

        def hear(self, num_nodes: int) -> None:
            """Take in a part of what the engine has to say."""
            log = self.cache.tree.log
            if self.mirror is None or not log.has_news:
                return
            changes = self.mirror.apply(log.take(num_nodes, self.cache.tree.now_s))
            for watcher in self.watchers:
                watcher.view.feed(changes)

        @rule(begin=st.integers(0, 5))
        def watch(self, begin: int) -> None:
            if begin == 0 or self.mirror is None:
                self.cache.tree.log = TreeLog(self.cache.tree)
                self.mirror = TreeMirror()
                self.watchers = [Watcher(self.mirror, one, self.page_size) for one in VIEWERS]

        @rule(which=st.integers(0, len(VIEWERS) - 1))
        def come(self, which: int) -> None:
            """Somebody comes, and somebody goes."""
            if self.mirror is not None:
                self.watchers.append(Watcher(self.mirror, VIEWERS[which], self.page_size))
                del self.watchers[-6]

        @rule(num_nodes=st.integers(0, 5))
        def engine_speaks(self, num_nodes: int) -> None:
            self.hear(num_nodes)

        @rule(pick=st.integers(0, 5), num_nodes=st.integers(1, 4), is_told_all=st.booleans())
        def read(self, pick: int, num_nodes: int, is_told_all: bool) -> None:
            if self.mirror is not None and self.watchers:
                while is_told_all and self.cache.tree.log.has_news:
                    self.hear(3)
                watcher = self.watchers[pick % len(self.watchers)]
                if watcher.take(num_nodes) and watcher.view._due:
                    seen.add("cut short")

        @rule()
        def read_all(self) -> None:
            if self.mirror is None:
                return
            while self.cache.tree.log.has_news:
                self.hear(3)
            assert self.mirror.is_whole
            for watcher in self.watchers:
                while watcher.take(3):
                    pass
                watcher.check(self.cache.tree)
                if watcher.view._public:
                    seen.add("public")
                if any(
                    one.start < self.mirror.nodes[one.serial].start
                    for one in watcher.view._public.values()
                ):
                    seen.add("run of public nodes")

        def teardown(self) -> None:
            if hasattr(self, "cache"):
                self.read_all()
                super().teardown()
                self.read_all()
                if self.mirror is not None:
                    assert not self.mirror.nodes
                    assert not self.mirror.borders
                    assert {*self.mirror.by_owner} == {0}

    # See ``test_cache_events.py`` on seeds.
    for number in range(8):
        run_state_machine_as_test(
            seed(number)(Watched),
            settings=settings(max_examples=40, stateful_step_count=50, deadline=None),
        )
        if seen == {"cut short", "public", "run of public nodes"}:
            break
    assert seen == {"cut short", "public", "run of public nodes"}


class CountingDict(dict[int, MirrorNode]):
    """Counts what is looked up."""

    num_reads = 0

    def __getitem__(self, key: int) -> MirrorNode:
        self.num_reads += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("is_newest_first", [False, True])
def test_public_nodes_are_climbed_once_in_whatever_order_ways_came(
    *, is_newest_first: bool
) -> None:
    """A tenant may part from a public prompt at each of its tokens: a thousand ways behind it."""
    length, name = 1000, Namespace("a")
    mirror = TreeMirror()
    for serial in range(1, length + 1):
        node = MirrorNode(serial, serial - 1, serial - 1, serial, 0, 0, PUBLIC_OWNER)
        mirror._insert(node, Changes({}, [], []))
    mirror.names[1] = name
    mirror.by_owner[1] = {}
    # The oldest hang deepest: each newer one would have all above climbed again.
    ways = [(2 * length - at, at) for at in range(1, length)]
    for serial, at in sorted(ways, reverse=is_newest_first):
        node = MirrorNode(serial, at, at, at + 1, 0, 0, 1)
        mirror._insert(node, Changes({}, [], []))
    mirror.is_whole = True
    mirror.nodes = counting = CountingDict(mirror.nodes)
    view = TreeView(mirror, tenant("a"), page_size=16)
    part = view.take(10 * length)
    assert part is not None
    assert len(part[0]) == 2 * (length - 1)
    assert counting.num_reads < 20 * length


def test_a_node_that_has_gone_leaves_nothing_hanging_however_small_the_part() -> None:
    world = WatchedCache()
    mine = Namespace("")
    stem = [1, 2, 3, 4]
    for tail in ([9, 9, 9, 9], [5, 6, 7, 8, 1], [5, 6, 7, 8, 2]):
        world.pass_time(1.0)
        world.run(mine, [*stem, *tail])
    mirror = TreeMirror()
    log = world.cache.tree.log = TreeLog(world.cache.tree)
    watchers = [Watcher(mirror, viewer, 4) for viewer in (ADMIN, tenant(""))]
    mirror.apply(log.take(100, world.now_s))
    for watcher in watchers:
        watcher.view = TreeView(mirror, watcher.viewer, 4)
        while watcher.take(100):
            pass
    # What was told of first comes first.
    world.pass_time(1.0)
    for number in range(20):
        world.run(mine, [7, number, number])
    begun_s = world.now_s - 1.0
    # The stem merges with the fork below it, which stays.
    world.cache.evict(1)
    changes = mirror.apply(log.take(100, world.now_s))
    for watcher in watchers:
        watcher.view.feed(changes)
        num_known = len(watcher.drawing.nodes)
        assert watcher.take(1)
        # The fork, in the place of the stem.
        assert len(watcher.drawing.nodes) < num_known
        while watcher.take(1):
            pass
        watcher.check(world.cache.tree)
    fork = next(n for n in world.cache.tree.nodes() if n.start == 0 and n.end == 8)
    assert fork.idle_since_s == begun_s, "the stem was in use as long as the fork, or longer"


# What others do shows to nobody


PUBLIC = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 2, 3, 4, 9, 9, 9, 9, 9], [8, 8, 8]]
MINE, MINE_TOO = Namespace("mine"), Namespace("mine, salted")
OTHERS = [Namespace("other"), Namespace("x"), Namespace("")]

Act = Callable[[WatchedCache], None]


def prompts(rng: random.Random) -> list[int]:
    """Begins with public tokens, mostly."""
    base = rng.choice([*PUBLIC, PUBLIC[0], []])
    return [*base[: rng.randint(0, len(base))], *rng.choices([1, 2, 9], k=rng.randint(1, 9))]


def acts(rng: random.Random, spaces: list[Namespace], count: int) -> list[Act]:
    """What somebody does, whatever else is done."""
    done: list[Act] = []
    running: list[str] = []
    for number in range(count):
        namespace, tokens = rng.choice(spaces), prompts(rng)
        name = f"{namespace} {number}"
        match rng.randrange(8):
            case 0 if len(running) > 1:
                ended = running.pop(rng.randrange(len(running)))
                done.append(lambda world, name=ended: world.end(name))  # type: ignore[misc]
            case 1 | 2:
                running.append(name)
                done.append(
                    lambda world, name=name, where=namespace, what=tokens: world.begin(  # type: ignore[misc]
                        name, where, what
                    )
                )
            case 3 if not rng.randrange(4):
                done.append(lambda world, where=namespace: world.cache.forget(where))  # type: ignore[misc]
            case _:
                done.append(lambda world, where=namespace, what=tokens: world.run(where, what))  # type: ignore[misc]
    return done


def told_of(own: list[Act], others: list[Act], rng: random.Random) -> list[TreeEvent]:
    """What the one who does ``own`` is told, if ``others`` are done in between."""
    world = WatchedCache()
    world.cache.set_public([array_of(one) for one in PUBLIC])
    viewer = tenant(MINE, MINE_TOO)
    told: list[TreeEvent] = []
    half = len(own) // 2
    left = list(others)
    for act in left[: len(left) // 3]:
        act(world)
    del left[: len(left) // 3]
    watch = None
    for number, act in enumerate(own):
        while left and rng.random() < len(left) / (len(left) + len(own) - number):
            left.pop(0)(world)
            if watch is not None and rng.random() < 0.5:
                # It makes no difference when the engine tells of it.
                world.flush()
        if number == half:
            watch = world.open(viewer)
            # In parts: how many there are shows what else there is.
            while (news := world.feed.take(is_busy=False)) is not None:
                world.watchers.feed(TreeChanged(world.feed.picture, news))
                told += world.told(watch)
        world.pass_time(1.25)
        act(world)
        if watch is not None:
            world.flush()
            told += world.told(watch)
    return told


def test_a_viewer_is_told_the_same_whatever_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_feed, "IDLE_NODES", 3)
    sizes = []
    for number in range(60):
        own = acts(random.Random(number), [MINE, MINE_TOO], 24)
        others = acts(random.Random(-number - 1), OTHERS, 40)
        alone = told_of(own, [], random.Random(0))
        among = told_of(own, others, random.Random(number))
        assert repr(alone) == repr(among)
        assert TreeWhole() in alone
        sizes.append(sum(len(event.nodes) for event in alone if isinstance(event, TreeNodes)))
    assert min(sizes) > 10
