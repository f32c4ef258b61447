/**
 * The texts of nodes: asked for when they are needed, a few at a time, and kept while the node is
 * as it was. Nodes of which the viewer may read nothing have no text.
 */

import { oneLine } from "../base/format.js";

const AT_ONCE = 2;
const MAX_KEPT = 2000;
const NOT_FOUND = 404;

export class Texts {
  #feed;
  #onText;
  #kept = new Map();
  #queue = [];
  #running = 0;

  constructor(feed, onText) {
    this.#feed = feed;
    this.#onText = onText;
  }

  /** What is known of this node: its text as the server tells it, null if it tells none; undefined
   * if nobody has asked. */
  known(id, tokens) {
    const kept = this.#kept.get(id);
    return kept?.tokens === tokens ? kept.text : undefined;
  }

  /** The text on one line, or "" while it is not known. */
  line(id, tokens) {
    const kept = this.#kept.get(id);
    return kept?.tokens === tokens ? kept.line : "";
  }

  /** The text in lines of so many letters, at most so many; null while it is not known. */
  lines(id, tokens, columns, rows) {
    const kept = this.#kept.get(id);
    if (kept?.tokens !== tokens || kept.line === "") return null;
    if (rows === 1) return [cut(kept.line, columns)];
    if (kept.columns !== columns || kept.rows !== rows) {
      Object.assign(kept, { columns, rows, lines: wrapped(kept.text.text, columns, rows) });
    }
    return kept.lines;
  }

  /** The node's text, asked for now if it must be. */
  async read(id, tokens) {
    const known = this.known(id, tokens);
    if (known !== undefined) return known;
    let text = null;
    try {
      text = await this.#feed.textOf(id);
    } catch (error) {
      // Gone in between, or not the viewer's: there is nothing to show either way.
      if (error.status !== NOT_FOUND) {
        // Anything else may be over when it is asked for again.
        this.#queue = [];
        return null;
      }
    }
    if (this.#kept.size >= MAX_KEPT) this.#kept.delete(this.#kept.keys().next().value);
    this.#kept.set(id, { tokens, text, line: text === null ? "" : oneLine(text.text) });
    this.#onText();
    return text;
  }

  /** Ask for these, [[id, tokens], ...], and no longer for those wished before. */
  wish(nodes) {
    this.#queue = nodes.filter(([id, tokens]) => this.known(id, tokens) === undefined);
    while (this.#running < AT_ONCE && this.#queue.length > 0) this.#work();
  }

  forget() {
    this.#kept.clear();
    this.#queue = [];
  }

  async #work() {
    this.#running++;
    while (this.#queue.length > 0) await this.read(...this.#queue.shift());
    this.#running--;
  }
}

function cut(line, columns) {
  return line.length <= columns ? line : `${line.slice(0, columns - 1)}…`;
}

/** `text` in lines of at most `columns` letters, broken where it says so and where they are full. */
function wrapped(text, columns, rows) {
  const lines = [];
  for (const paragraph of text.split("\n")) {
    let rest = oneLine(paragraph);
    do {
      if (lines.length === rows) {
        lines[rows - 1] = cut(`${lines[rows - 1]}…`, columns);
        return lines;
      }
      const space = rest.length > columns ? rest.lastIndexOf(" ", columns) : -1;
      const end = space > columns / 2 ? space + 1 : columns;
      lines.push(rest.slice(0, end).trimEnd());
      rest = rest.slice(end);
    } while (rest !== "");
  }
  return lines;
}
