/**
 * Finds a request's way through the tree: from node to node by their texts.
 *
 * The feed gives nodes no texts, and requests no nodes. So at each fork the children's texts are
 * read, those used last first, until one goes on as the prompt does.
 */

import { postJson } from "../base/api.js";

/** At a fork with more children than this only those used last are read. */
const MAX_READ = 40;
/** Only public nodes and the viewer's own: nobody's request goes through another's. */
const LAST_OWN = 1;
/** More letters than the last token has. */
const LAST_TOKEN = 32;

/**
 * The nodes that hold this record's prompt and answer: {path: slots from the first, isWhole}. Of an
 * answer's last token nobody keeps anything, because nothing was computed behind it.
 */
export async function pathOf(record, tree, texts) {
  const said = (await textOf(record)) + record.answer;
  const path = [];
  let slot = 0;
  let at = 0;
  while (at < said.length) {
    const found = await next(tree, texts, slot, said, at);
    if (found === null) break;
    path.push(found.slot);
    ({ slot, at } = found);
  }
  return { path, isWhole: at >= said.length - LAST_TOKEN };
}

/** The prompt as the model reads it. */
async function textOf({ model, messages }) {
  const { tokens } = await postJson("tokenize", { model, messages });
  return (await postJson("detokenize", { model, tokens })).prompt;
}

async function next(tree, texts, parent, said, at) {
  const children = [...tree.childrenOf(parent)].filter((slot) => tree.owner[slot] <= LAST_OWN);
  const recency = (slot) => (Number.isNaN(tree.used[slot]) ? Infinity : tree.used[slot]);
  children.sort((a, b) => recency(b) - recency(a));
  for (const slot of children.slice(0, MAX_READ)) {
    const id = tree.id[slot];
    const text = await texts.read(id, tree.tokens[slot]);
    // The tree goes on changing while we read.
    if (text === null || tree.slotOf(id) !== slot) continue;
    const end = endOf(text, said, at);
    if (end > at) return { slot, at: end };
  }
  return null;
}

/** Where in `said` the node's text ends if it stands there at `at`; else -1. */
function endOf({ text, end_text: last }, said, at) {
  const whole = withoutHalves(text);
  const rest = said.length - at;
  if (whole.length >= rest) return whole.startsWith(said.slice(at)) ? said.length : -1;
  if (!said.startsWith(whole, at)) return -1;
  if (!last) return at + whole.length;
  const tail = withoutHalves(last);
  const found = said.indexOf(tail, at + whole.length);
  return found < 0 ? said.length : found + tail.length;
}

/** Tokens may be cut within a character; halves show as U+FFFD at either end. */
function withoutHalves(text) {
  return text.replace(/^\uFFFD+|\uFFFD+$/gu, "");
}
