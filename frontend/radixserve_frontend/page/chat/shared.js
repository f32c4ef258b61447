/**
 * A small picture of what the conversations share: one row a branch, left to right in prompt order.
 * What several branches have in common is drawn once, over all their rows, as the server holds it.
 *
 *     ┌─────────┬──────┬─────────┐
 *     │         │      │ A       │
 *     │ system  │  A   ├─────────┘
 *     │         │      │ A, edited
 *     │         ├──────┴──┐
 *     │         │  B      │
 *     └─────────┴─────────┘
 *
 * Its numbers are the server's where it has answered; what it has not seen is estimated.
 */

import { byId, fill, h, svg } from "../base/dom.js";
import { count } from "../base/format.js";
import { leavesOf, pathTo } from "./turns.js";
import { systemText, talk } from "./workspace.js";

const ROW = 22;
const GAP = 2;
const WIDTH = 272;
/** The part of the width that the system message takes at most. */
const SYSTEM_SHARE = 0.42;
const CHARACTERS_PER_TOKEN = 3.5;

/** Draw the picture of these conversations. `systemTokens`: null if nobody has counted. */
export function showShared(state, systemTokens) {
  const rows = rowsOf(state);
  const start = systemTokens ?? Math.round(systemText().length / CHARACTERS_PER_TOKEN);
  const ends = endsOf(state, start);
  const longest = Math.max(start, ...rows.map((row) => ends.get(row.at(-1)?.id) ?? start));
  const systemWidth = start === longest ? WIDTH : Math.min(SYSTEM_SHARE, start / longest) * WIDTH;
  const x = (tokens) =>
    tokens <= start
      ? (tokens / Math.max(start, 1)) * systemWidth
      : systemWidth + ((tokens - start) / (longest - start)) * (WIDTH - systemWidth);
  const height = Math.max(rows.length, 1) * ROW;
  const boxes = [];
  if (start > 0) boxes.push(box(0, 0, systemWidth, height, "shared-system", `${count(start)}`));
  for (const [turn, first, last] of spansOf(rows)) {
    const left = x(ends.get(turn.parent) ?? start);
    const letter = state.conversations.find((each) => each.id === turn.conversation).letter;
    const isShown = pathTo(state, leafOf(state, turn.conversation)).some((each) => each.id === turn.id);
    const style = `shared-turn letter-${letter} ${turn.role}${isShown ? "" : " is-aside"}`;
    const label = turn.role === "user" ? letter : "";
    boxes.push(box(left, first * ROW, x(ends.get(turn.id)) - left, (last - first + 1) * ROW, style, label));
  }
  const words = describe(state, rows, start);
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${height}`, class: "shared-picture", role: "img", "aria-label": words },
    ...boxes,
  );
  fill(byId("shared"), picture, h("p", { class: "hint" }, words));
  byId("shared").dataset.rows = String(rows.length);
}

/** The branches, as paths: by conversation, then by where they part. */
function rowsOf(state) {
  const rows = leavesOf(state).map((leaf) => pathTo(state, leaf.id));
  return rows.sort((a, b) => a[0].conversation - b[0].conversation || compare(a, b));
}

function compare(a, b) {
  for (let index = 0; index < Math.min(a.length, b.length); index++) {
    if (a[index].id !== b[index].id) return a[index].id - b[index].id;
  }
  return a.length - b.length;
}

/** Each turn with the first and the last row that it is part of. Rows of one turn are neighbours. */
function spansOf(rows) {
  const spans = new Map();
  rows.forEach((row, index) => {
    for (const turn of row) {
      const span = spans.get(turn.id) ?? [turn, index, index];
      span[2] = index;
      spans.set(turn.id, span);
    }
  });
  return spans.values();
}

/** Where each turn ends, in tokens from the prompt's beginning. */
function endsOf(state, start) {
  const ends = new Map([[null, start]]);
  const asked = new Map();
  for (const turn of state.turns.values()) {
    if (turn.promptTokens) asked.set(turn.parent, turn.promptTokens);
  }
  for (const turn of state.turns.values()) {
    const begin = ends.get(turn.parent);
    const guess = begin + Math.ceil(turn.text.length / CHARACTERS_PER_TOKEN) + 4;
    const known = turn.role === "user" ? asked.get(turn.id) : begin + (turn.answerTokens ?? NaN);
    ends.set(turn.id, Math.max(begin + 1, Number.isFinite(known) ? known : guess));
  }
  return ends;
}

function leafOf(state, conversation) {
  return state.conversations.find((each) => each.id === conversation).leaf;
}

function box(x, y, width, height, style, label) {
  const inner = Math.max(width - GAP, 1);
  const fits = label !== "" && inner > 7 * label.length + 4;
  return svg(
    "g",
    {},
    svg("rect", { x, y: y + GAP / 2, width: inner, height: height - GAP, rx: 2, class: style }),
    fits ? svg("text", { x: x + inner / 2, y: y + height / 2 }, label) : null,
  );
}

function describe(state, rows, start) {
  if (rows.length === 0) return "Nothing is asked yet. What conversations share is held once.";
  const talking = new Set(rows.map((row) => row[0].conversation)).size;
  const branches = rows.length === 1 ? "one branch" : `${rows.length} branches`;
  const owner = talking === 1 ? "one conversation" : `${talking} conversations`;
  return `${count(start)} tokens of context, held once; ${branches} of ${owner} behind it.`;
}

/** Keep the picture up to date. Returns what to call with the system message's tokens. */
export function keepShared() {
  let systemTokens = null;
  talk.subscribe((state) => showShared(state, systemTokens));
  return (tokens) => {
    systemTokens = tokens;
    showShared(talk.value, systemTokens);
  };
}
