/** What is to be said of one node: its figures, and its text where the viewer may read it. */

import { fill, h } from "../base/dom.js";
import { ago, count, counted } from "../base/format.js";
import { NOT_TOLD } from "./tree.js";

const ASK_AFTER_MS = 120;
const EXPLANATION = Symbol("explanation");

export class Panel {
  #element;
  #picture;
  #texts;
  #slot = -1;
  #id = -1;
  #drawn = "";
  /** The text that stands there, as `Texts` knows it; `EXPLANATION` where no node is shown. */
  #drawnText;
  #timer = 0;

  constructor(element, picture, texts) {
    this.#element = element;
    this.#picture = picture;
    this.#texts = texts;
    this.show(-1);
  }

  /** Show this node, or, for -1, what one sees here. */
  show(slot) {
    clearTimeout(this.#timer);
    this.#slot = slot;
    this.#id = slot > 0 ? this.#picture.tree.id[slot] : -1;
    this.#element.dataset.node = String(slot > 0 ? this.#id : "");
    if (slot <= 0) {
      this.#drawnText = EXPLANATION;
      fill(this.#element, ...explanation());
      return;
    }
    this.#draw();
    // Who only passes over a node does not ask for its text.
    const text = this.#texts.known(this.#id, this.#picture.tree.tokens[slot]);
    if (text === undefined) this.#timer = setTimeout(() => this.#read(slot), ASK_AFTER_MS);
  }

  /** The tree has changed, and so may have the node. */
  refresh() {
    if (this.#slot <= 0) return;
    if (this.#picture.tree.slotOf(this.#id) !== this.#slot) this.show(this.#picture.selected);
    else if (this.#state() !== this.#drawn) {
      const tops = this.#scrolled().map((each) => each.scrollTop);
      this.show(this.#slot);
      this.#scrolled().forEach((each, index) => (each.scrollTop = tops[index] ?? 0));
    }
  }

  /** What of the panel can be scrolled. */
  #scrolled() {
    return [this.#element, ...this.#element.querySelectorAll("pre")];
  }

  /** What changes of the node: whoever reads is not disturbed while this is the same. */
  #state() {
    const { start, tokens, pages, locks, weight } = this.#picture.tree;
    return [start, tokens, pages, locks, weight].map((column) => column[this.#slot]).join();
  }

  async #read(slot) {
    const { id, tokens } = this.#picture.tree;
    const asked = id[slot];
    await this.#texts.read(asked, tokens[slot]);
    if (this.#slot === slot && this.#picture.tree.id[slot] === asked) this.#draw();
  }

  #draw() {
    const slot = this.#slot;
    const { tree, now } = this.#picture;
    this.#drawn = this.#state();
    const { start, tokens, pages, locks, weight } = tree;
    const end = start[slot] + tokens[slot];
    const children = [...tree.childrenOf(slot)].length;
    const told = locks[slot] !== NOT_TOLD;
    const text = this.#texts.known(tree.id[slot], tokens[slot]);
    const head = [
      h("h2", {}, counted(tokens[slot], "token")),
      facts([
        ["Positions", `${count(start[slot])} to ${count(end)}`],
        ["Pages", count(pages[slot])],
        ["With all behind it", counted(weight[slot], "token")],
        ["Parts into", children === 0 ? "nothing: a branch ends here" : counted(children, "branch").replace("branchs", "branches")],
        ["In use by", told ? counted(locks[slot], "request") : "not told"],
        ["Last used", told ? when(tree, slot, now) : "not told"],
        ["Owner", ownerName(tree.owner[slot])],
      ]),
    ];
    if (text === this.#drawnText) {
      // Whoever reads or selects in it goes on.
      head.forEach((each, index) => this.#element.children[index].replaceWith(each));
      return;
    }
    this.#drawnText = text;
    fill(this.#element, ...head, ...textOf(text));
  }
}

/** A node in few words, for those who hear them. */
export function nodeInWords({ start, tokens, owner }, slot) {
  const end = start[slot] + tokens[slot];
  return `${counted(tokens[slot], "token")}, positions ${count(start[slot])} to ${count(end)}, ${ownerName(owner[slot])}`;
}

/** A description list of [name, value] pairs. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

export function ownerName(owner) {
  return ["public: everybody shares it", "yours"][owner] ?? `another namespace (${owner - 1})`;
}

function when(tree, slot, now) {
  if (tree.locks[slot] > 0) return "in use";
  const age = ago(now - tree.used[slot]);
  return age === "now" ? "just now" : `${age} ago`;
}

function textOf(text) {
  if (text === undefined) return [h("p", { class: "hint" }, "Its text is being asked for.")];
  if (text === null) return [h("p", { class: "hint" }, "Its text is not for you to read, or it is gone.")];
  return [
    h("h3", {}, "Text"),
    h(
      "pre",
      { class: "node-text", tabIndex: 0 },
      h("span", { class: "node-before" }, text.before),
      text.text,
      text.truncated ? h("em", {}, ` (${counted(text.truncated, "token")} left out) `) : null,
      text.end_text ?? "",
    ),
  ];
}

function explanation() {
  return [
    h("h2", {}, "What this is"),
    h(
      "p",
      {},
      "Every box is a run of tokens whose keys and values the server keeps. Prompts are read from left to right; where two part, the box ends and each goes on in a box of its own.",
    ),
    h(
      "p",
      {},
      "A request computes only what is not in a box yet. So a document that ten conversations share is one box, computed once.",
    ),
    h("p", { class: "hint" }, "Point at a box or walk with the arrow keys; click or press Enter to zoom. Wheel and drag move the picture."),
  ];
}
