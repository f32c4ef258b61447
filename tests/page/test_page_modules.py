"""The page's modules by themselves, in a browser without a server: what holds whatever comes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import radixserve_frontend

ROOT = Path(radixserve_frontend.__file__).parent
ORIGIN = "http://page.test"

TREE_MODEL = """async (seed) => {
  const { Tree } = await import("/page/cache/tree.js");
  let state = seed;
  const random = (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const tree = new Tree();
  const known = new Map();
  let last = 0;
  const row = (id) => {
    const { parent, start, tokens } = known.get(id);
    return [id, parent, start, tokens, 1, 0, 0, 1];
  };
  const ids = () => [...known.keys()];
  const childrenOf = (id) => ids().filter((each) => known.get(each).parent === id);
  for (let batch = 0; batch < 120; batch++) {
    const nodes = [];
    const gone = [];
    for (let change = random(6); change >= 0; change--) {
      const all = ids();
      const any = all[random(all.length)];
      const kind = random(10);
      if (kind < 5 || !any) {
        const parent = any && random(4) ? known.get(any) : null;
        const start = parent ? parent.start + parent.tokens : 0;
        known.set(++last, { parent: parent ? any : 0, start, tokens: 1 + random(50) });
        nodes.push(last);
      } else if (kind < 7 && known.get(any).tokens > 1) {
        // A split: the upper part is a new node, in the place where the lower one was.
        const node = known.get(any);
        const cut = 1 + random(node.tokens - 1);
        known.set(++last, { parent: node.parent, start: node.start, tokens: cut });
        known.set(any, { parent: last, start: node.start + cut, tokens: node.tokens - cut });
        nodes.push(last, any);
      } else if (childrenOf(any).length === 0 && !nodes.includes(any)) {
        known.delete(any);
        gone.push(any);
      }
    }
    // Parents first, each once, as the feed has them.
    const told = [...new Set(nodes)].filter((id) => known.has(id));
    told.sort((a, b) => known.get(a).start - known.get(b).start);
    tree.apply({ nodes: told.map(row), gone }, 0);
    if (random(3)) continue;
    tree.settle();
    if (tree.size !== known.size) return `size ${tree.size} is not ${known.size}`;
    const weigh = (id) =>
      childrenOf(id).reduce((sum, child) => sum + weigh(child), known.get(id)?.tokens ?? 0);
    const reach = (id) => {
      const end = id ? known.get(id).start + known.get(id).tokens : 0;
      return childrenOf(id).reduce((most, child) => Math.max(most, reach(child)), end);
    };
    for (const id of [0, ...ids()]) {
      const slot = id ? tree.slotOf(id) : 0;
      if (tree.weight[slot] !== weigh(id)) return `node ${id} weighs ${tree.weight[slot]}`;
      if (tree.extent[slot] !== reach(id)) return `node ${id} reaches to ${tree.extent[slot]}`;
      const children = [...tree.childrenOf(slot)].map((each) => tree.id[each]);
      if (children.toSorted().join() !== childrenOf(id).toSorted().join()) {
        return `children of ${id}: ${children}, not ${childrenOf(id)}`;
      }
      let top = tree.placeOf(slot).top;
      for (const child of children) {
        const place = tree.placeOf(tree.slotOf(child));
        if (Math.abs(place.top - top) > 1e-9) return `node ${child} does not follow its sibling`;
        top = place.bottom;
        const { start, tokens } = known.get(child);
        const found = tree.nodeAt(start + tokens / 2, (place.top + place.bottom) / 2);
        if (tree.id[found] !== child) return `node ${child} is not found where it is`;
      }
      if (children.length > 0 && Math.abs(top - tree.placeOf(slot).bottom) > 1e-9) {
        return `the children of ${id} leave room`;
      }
    }
  }
  return `sound, ${last > 100 ? "many" : "few"} nodes`;
}"""

SPLIT_KEEPS_ITS_PLACE = """async () => {
  const { Tree } = await import("/page/cache/tree.js");
  const tree = new Tree();
  const rows = [1, 2, 3].map((id) => [id, 0, 0, 10, 1, 0, 0, 1]);
  tree.apply({ nodes: rows, gone: [] }, 0);
  tree.settle();
  tree.apply({ nodes: [[4, 0, 0, 6, 1, 0, 0, 1], [2, 4, 6, 4, 1, 0, 0, 1]], gone: [] }, 0);
  tree.settle();
  return [...tree.childrenOf(0)].map((slot) => tree.id[slot]);
}"""

EVENTS = """async (cut) => {
  const { EventParser } = await import("/page/base/sse.js");
  const first = ': ping\\n\\nevent: a\\ndata: {"x": 1}\\n\\n';
  const text = first + "id: 3\\ndata: one\\ndata:two\\r\\n\\r\\n";
  const parser = new EventParser();
  return [...parser.feed(text.slice(0, cut)), ...parser.feed(text.slice(cut))];
}"""

TURNS = """async () => {
  const turns = await import("/page/chat/turns.js");
  let state = turns.emptyState();
  const [{ id: talk }] = state.conversations;
  let ids = {};
  const add = (name, parent, role) => {
    [state, ids[name]] = turns.addTurn(state, talk, ids[parent] ?? null, { role, text: name });
  };
  add("ask", null, "user");
  add("answer", "ask", "assistant");
  add("more", "answer", "user");
  add("again", "ask", "assistant");
  const said = () => turns.pathTo(state, state.conversations[0].leaf).map((turn) => turn.text);
  const now = said();
  state = turns.showVersion(state, ids.answer);
  const before = said();
  state = turns.removeTurn(state, ids.answer);
  const removed = said();
  state = turns.removeTurn(state, ids.ask);
  for (let index = 0; index < 4; index++) state = turns.addConversation(state);
  const letters = state.conversations.map((each) => each.letter);
  state = turns.removeConversation(state, state.conversations[1].id);
  state = turns.addConversation(state);
  const refilled = state.conversations.map((each) => each.letter);
  return { now, before, removed, left: said(), letters, refilled };
}"""

COUNTED = {
    "free": 9,
    "cached": 0,
    "in_use": 1,
    "total": 10,
    "running": 1,
    "waiting": 0,
    "steps": 4,
    "computed_tokens": 10,
    "prompt_tokens": 40,
    "cached_tokens": 0,
    "evicted_pages": 0,
    "preemptions": 0,
}

FIGURES_AFTER_A_PAUSE = """async (counted) => {
  const { Figures } = await import("/page/cache/figures.js");
  const figures = new Figures(document.createElement("div"));
  figures.add(counted, 10);
  // The server says nothing while nothing changes.
  const more = { steps: 5, computed_tokens: 100, prompt_tokens: 80, cached_tokens: 20 };
  figures.add({ ...counted, ...more }, 100);
  figures.goOn(100.5);
  figures.goOn(101.5);
  return figures.samples.map(({ hitRate, perSecond }) => [hitRate, perSecond]);
}"""

FIGURES_AFTER_A_LOSS = """async (counted) => {
  const { Figures } = await import("/page/cache/figures.js");
  const figures = new Figures(document.createElement("div"));
  figures.add(counted, 10);
  figures.pause();
  figures.goOn(109.5);
  figures.add({ ...counted, evicted_pages: 1000 }, 110);
  return figures.samples.map(({ at, evicted }) => [at, evicted]);
}"""

CHURN_THAT_NOBODY_SEES = """async () => {
  const { Tree } = await import("/page/cache/tree.js");
  let marks = 0;
  const push = Array.prototype.push;
  Array.prototype.push = function (...added) {
    if (typeof added[0] === "number") marks = Math.max(marks, this.length + 1);
    return push.apply(this, added);
  };
  try {
    const tree = new Tree();
    for (let id = 1; id <= 1000; id++) {
      tree.apply({ nodes: [[id, 0, 0, 1, 1, 0, 0, 1]], gone: id > 1 ? [id - 1] : [] }, 0);
    }
    tree.settle();
    return { marks, weight: tree.weight[0] };
  } finally {
    Array.prototype.push = push;
  }
}"""

TABLE_KEEPS_FOCUS = """async () => {
  const { Tree } = await import("/page/cache/tree.js");
  const { showLargest } = await import("/page/cache/table.js");
  const tree = new Tree();
  const place = document.body.appendChild(document.createElement("div"));
  const texts = { line: () => "" };
  const show = () => showLargest(place, { tree, now: 0 }, texts, () => {});
  const row = (id, tokens) => [id, 0, 0, tokens, 1, 0, 0, 1];
  tree.apply({ nodes: [row(1, 10), row(2, 20)], gone: [] }, 0);
  show();
  place.querySelectorAll("button")[1].focus();
  const before = document.activeElement.textContent;
  tree.apply({ nodes: [row(3, 30)], gone: [] }, 0);
  show();
  const after = document.activeElement.textContent;
  place.remove();
  return { before, after };
}"""

PANEL_FOLLOWS = """async () => {
  const { Panel } = await import("/page/cache/panel.js");
  const { Tree } = await import("/page/cache/tree.js");
  const tree = new Tree();
  const text = { before: "", text: "words", end_text: "", truncated: 0 };
  const texts = { known: () => text, read: async () => text };
  const place = document.createElement("div");
  const panel = new Panel(place, { tree, now: 0, selected: -1 }, texts);
  const rows = (locks) => [[1, 0, 0, 10, 1, locks, locks ? null : 0, 1]];
  const said = [];
  const tell = (event) => {
    tree.apply(event, 0);
    tree.settle();
    panel.refresh();
    said.push(place.querySelector("h2").textContent, place.textContent.includes("1 request"));
  };
  tell({ nodes: rows(1), gone: [] });
  panel.show(tree.slotOf(1));
  tell({ nodes: rows(1), gone: [] });
  tell({ nodes: rows(0), gone: [] });
  tell({ nodes: [[2, 0, 0, 5, 1, 0, 0, 1]], gone: [1] });
  return said;
}"""

TEXTS_AFTER_FAILURES = """async (status) => {
  const { Texts } = await import("/page/cache/texts.js");
  let asked = 0;
  const textOf = async () => {
    if (++asked === 1) throw Object.assign(new Error("no"), { status });
    return { text: "words" };
  };
  const texts = new Texts({ textOf }, () => {});
  const first = await texts.read(1, 10);
  return [first, (await texts.read(1, 10))?.text ?? null];
}"""

STORAGE_THAT_IS_FORBIDDEN = """async () => {
  const { session } = await import("/page/base/storage.js");
  session.set("name", "text");
  const kept = session.get("name");
  session.remove("name");
  const gone = session.get("name");
  const own = Object.getOwnPropertyDescriptor(Window.prototype, "sessionStorage") ??
    Object.getOwnPropertyDescriptor(window, "sessionStorage");
  const get = () => { throw new DOMException("no", "SecurityError"); };
  Object.defineProperty(window, "sessionStorage", { configurable: true, get });
  try {
    session.set("name", "text");
    session.remove("name");
    return [kept, gone, session.get("name")];
  } finally {
    Object.defineProperty(window, "sessionStorage", own);
  }
}"""

FEED_THAT_IS_REFUSED = """async (retryAfter) => {
  const { Feed } = await import("/page/cache/feed.js");
  const { fetch, setTimeout } = window;
  const waits = [];
  const headers = retryAfter === null ? {} : { "Retry-After": retryAfter };
  const error = { message: "too many" };
  window.fetch = async () => Response.json({ error }, { status: 429, headers });
  window.setTimeout = (work, ms) => {
    waits.push(ms);
    // At most four: then the page is left waiting.
    return waits.length < 4 ? setTimeout(work, 0) : 0;
  };
  try {
    const feed = new Feed({});
    feed.open();
    while (waits.length < 4) await new Promise((resolve) => setTimeout(resolve, 1));
    return [feed.state.value.error, waits];
  } finally {
    Object.assign(window, { fetch, setTimeout });
  }
}"""


@pytest.fixture(scope="module")
def blank(browser: Any) -> Iterator[Any]:
    """An empty page that may load the page's files, and nothing else."""

    def answer(route: Any) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        if path == "/":
            route.fulfill(content_type="text/html", body="<!doctype html>")
        else:
            route.fulfill(path=ROOT / path.lstrip("/"), content_type="text/javascript")

    context = browser.new_context()
    context.route("**/*", answer)
    page = context.new_page()
    page.goto(ORIGIN)
    yield page
    context.close()


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_tree_is_what_it_was_told_of(blank: Any, seed: int) -> None:
    assert blank.evaluate(TREE_MODEL, seed) == "sound, many nodes"


def test_a_node_that_is_split_stays_where_it_was(blank: Any) -> None:
    assert blank.evaluate(SPLIT_KEEPS_ITS_PLACE) == [1, 4, 3]


def test_events_are_the_same_wherever_the_stream_is_cut(blank: Any) -> None:
    expected = [{"event": "a", "data": '{"x": 1}'}, {"event": "message", "data": "one\ntwo"}]
    for cut in range(70):
        assert blank.evaluate(EVENTS, cut) == expected


def test_conversations_are_branches(blank: Any) -> None:
    assert blank.evaluate(TURNS) == {
        "now": ["ask", "again"],
        "before": ["ask", "answer", "more"],
        "removed": ["ask", "again"],
        "left": [],
        "letters": ["A", "B", "C"],
        "refilled": ["A", "B", "C"],
    }


def test_figures_go_on_after_a_pause(blank: Any) -> None:
    assert blank.evaluate(FIGURES_AFTER_A_PAUSE, COUNTED) == [[None, 0], [0.5, 1], [None, 0]]


def test_what_happened_while_nobody_looked_is_no_spike(blank: Any) -> None:
    """A tab was hidden for a hundred seconds, in which a thousand pages were evicted."""
    assert blank.evaluate(FIGURES_AFTER_A_LOSS, COUNTED) == [[10, 0], [110, 10]]


def test_changes_that_nobody_looks_at_do_not_pile_up(blank: Any) -> None:
    found = blank.evaluate(CHURN_THAT_NOBODY_SEES)
    assert found["weight"] == 1
    assert found["marks"] < 20


def test_the_table_keeps_the_focus_on_its_node(blank: Any) -> None:
    assert blank.evaluate(TABLE_KEEPS_FOCUS) == {"before": "Node 1", "after": "Node 1"}


def test_the_panel_follows_its_node(blank: Any) -> None:
    shown = blank.evaluate(PANEL_FOLLOWS)
    assert shown[:2] == shown[6:] == ["What this is", False]
    assert shown[2:6] == ["10 tokens", True, "10 tokens", False]


@pytest.mark.parametrize(("status", "text"), [(404, None), (503, "words"), (0, "words")])
def test_a_text_that_could_not_be_had_just_then_is_asked_for_again(
    blank: Any, status: int, text: str | None
) -> None:
    assert blank.evaluate(TEXTS_AFTER_FAILURES, status) == [None, text]


def test_a_browser_that_keeps_nothing_is_no_error(blank: Any) -> None:
    assert blank.evaluate(STORAGE_THAT_IS_FORBIDDEN) == ["text", None, None]


@pytest.mark.parametrize(
    ("retry_after", "waits_s"),
    [
        (None, [1, 2, 4, 8]),
        ("3", [3, 3, 4, 8]),
        ("Sun, 06 Nov 1994 08:49:37 GMT", [1, 2, 4, 8]),
    ],
)
def test_a_refused_feed_comes_back_when_it_was_told_to(
    blank: Any, retry_after: str | None, waits_s: list[int]
) -> None:
    waits_ms = [1000 * wait_s for wait_s in waits_s]
    assert blank.evaluate(FEED_THAT_IS_REFUSED, retry_after) == ["too many", waits_ms]
