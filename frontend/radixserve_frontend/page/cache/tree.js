/**
 * The radix tree as the feed tells of it, in typed arrays, ready to be drawn.
 *
 * A node lives in a slot, a small number that indexes all columns; slot 0 is a root above all
 * others, of no tokens. Children are a linked list in the order in which they came, so nothing
 * jumps. A node's place in the picture is relative to its parent: children share their parent's
 * height by `weight`, the tokens of their subtrees. So a change touches only its ancestors.
 *
 * Forbidden order: `weight`, `extent` and what derives from them are right only after `settle`.
 *
 * Costs: `apply` O(changed nodes); `settle` O(children of their ancestors).
 */

const FIRST_CAPACITY = 4096;

/** `locks` of nodes of which that is not told. */
export const NOT_TOLD = -1;

/** [column, type]; a slot's values. Links are slots, -1 for none. */
const COLUMNS = [
  ["id", Int32Array],
  ["parent", Int32Array],
  ["first", Int32Array],
  ["last", Int32Array],
  ["next", Int32Array],
  ["previous", Int32Array],
  ["start", Int32Array],
  ["tokens", Int32Array],
  ["pages", Int32Array],
  ["locks", Int32Array],
  ["owner", Int32Array],
  /** When last used, in seconds of the page's clock; NaN if in use or not told. */
  ["used", Float64Array],
  /** Tokens of the subtree. */
  ["weight", Float64Array],
  /** Where the subtree's longest branch ends, in tokens. */
  ["extent", Int32Array],
  ["dirty", Uint8Array],
];

export class Tree {
  #slots = new Map();
  #free = [];
  #dirty = [];
  #places = new Map();
  #top = 1;
  #capacity = 0;

  constructor() {
    this.#grow(FIRST_CAPACITY);
    this.clear();
  }

  /** Nodes, without the root. */
  get size() {
    return this.#slots.size;
  }

  /** Tokens of all nodes. */
  get totalTokens() {
    return this.weight[0];
  }

  /** Forget everything. */
  clear() {
    this.#slots.clear();
    this.#free = [];
    this.#dirty = [];
    this.dirty.fill(0);
    this.#places.clear();
    this.#top = 1;
    for (const [name] of COLUMNS) this[name][0] = 0;
    this.parent[0] = this.first[0] = this.last[0] = this.next[0] = this.previous[0] = -1;
    this.start[0] = -1;
  }

  /** The slot of the node of this id, or -1. */
  slotOf(id) {
    return this.#slots.get(id) ?? -1;
  }

  /** The slots of all nodes, in no particular order. */
  slots() {
    return this.#slots.values();
  }

  /** The children's slots. */
  *childrenOf(slot) {
    for (let child = this.first[slot]; child >= 0; child = this.next[child]) yield child;
  }

  /** Take a `nodes` event; `now` and its `at` are the same moment. */
  apply({ nodes, gone }, now) {
    for (const id of gone) this.#remove(id);
    for (const [id, parent, start, tokens, pages, locks, age, owner] of nodes) {
      const slot = this.#placed(id, parent === 0 ? 0 : (this.#slots.get(parent) ?? 0));
      if (this.tokens[slot] !== tokens || this.start[slot] !== start) this.#mark(slot);
      this.start[slot] = start;
      this.tokens[slot] = tokens;
      this.pages[slot] = pages;
      this.locks[slot] = locks ?? NOT_TOLD;
      this.used[slot] = age === null ? NaN : now - age;
      this.owner[slot] = owner;
    }
  }

  /** Bring what is derived up to date. Returns whether anything moved. */
  settle() {
    if (this.#dirty.length === 0) return false;
    for (let index = 0; index < this.#dirty.length; index++) {
      const above = this.parent[this.#dirty[index]];
      if (above >= 0) this.#mark(above);
    }
    // Children begin where their parents end, or behind: deepest first.
    this.#dirty.sort((a, b) => this.start[b] - this.start[a]);
    for (const slot of this.#dirty) if (this.dirty[slot]) this.#derive(slot);
    this.#dirty = [];
    this.#places.clear();
    return true;
  }

  /**
   * Where the node lies: {top, bottom} as shares of the whole height, {start, extent} in tokens.
   * Costs the siblings on the way, once until the next `settle`.
   */
  placeOf(slot) {
    if (slot === 0) return { top: 0, bottom: 1, start: 0, extent: this.extent[0] };
    let place = this.#places.get(slot);
    if (place) return place;
    const above = this.parent[slot];
    const around = this.placeOf(above);
    const scale = (around.bottom - around.top) / this.childWeight(above);
    let top = around.top;
    for (let child = this.first[above]; child !== slot; child = this.next[child]) {
      top += this.weight[child] * scale;
    }
    place = { top, bottom: top + this.weight[slot] * scale, start: this.start[slot], extent: this.extent[slot] };
    this.#places.set(slot, place);
    return place;
  }

  /** What a node's children weigh together. */
  childWeight(slot) {
    return this.weight[slot] - this.tokens[slot];
  }

  /** The node at this position (tokens) and height (share of the whole), or -1. */
  nodeAt(position, height) {
    let slot = 0;
    let top = 0;
    let bottom = 1;
    if (height < 0 || height >= 1 || position < 0) return -1;
    for (;;) {
      if (slot > 0 && position < this.start[slot] + this.tokens[slot]) return slot;
      const scale = (bottom - top) / this.childWeight(slot);
      let child = this.first[slot];
      for (; child >= 0; child = this.next[child]) {
        bottom = top + this.weight[child] * scale;
        if (height < bottom) break;
        top = bottom;
      }
      if (child < 0 || position >= this.extent[child]) return -1;
      slot = child;
    }
  }

  #placed(id, parent) {
    let slot = this.#slots.get(id);
    if (slot === undefined) {
      slot = this.#taken();
      this.#slots.set(id, slot);
      this.id[slot] = id;
      this.#link(slot, parent, -1);
    } else if (this.parent[slot] !== parent) {
      this.#move(slot, parent);
    }
    return slot;
  }

  /** A node that is split gets a new parent, which takes its place among its siblings. */
  #move(slot, parent) {
    const isSplit = this.parent[parent] === this.parent[slot] && this.first[parent] < 0;
    if (isSplit) {
      this.#unlink(parent);
      this.#link(parent, this.parent[slot], slot);
    }
    this.#unlink(slot);
    this.#link(slot, parent, -1);
  }

  #remove(id) {
    const slot = this.#slots.get(id);
    if (slot === undefined) return;
    // Children that stay are told of with their new parent in the same event.
    while (this.first[slot] >= 0) {
      const child = this.first[slot];
      this.#unlink(child);
      this.#link(child, this.parent[slot], slot);
    }
    this.#unlink(slot);
    this.#slots.delete(id);
    // If it is marked it stays so: otherwise whoever takes the slot is noted once more each time.
    this.#free.push(slot);
  }

  #taken() {
    const slot = this.#free.pop() ?? this.#top++;
    if (slot >= this.#capacity) this.#grow(2 * this.#capacity);
    this.first[slot] = this.last[slot] = this.next[slot] = this.previous[slot] = -1;
    this.parent[slot] = -1;
    this.tokens[slot] = this.weight[slot] = this.extent[slot] = 0;
    return slot;
  }

  /** Make `slot` a child of `parent`, before its child `before`, or the last one if that is -1. */
  #link(slot, parent, before) {
    const previous = before < 0 ? this.last[parent] : this.previous[before];
    this.parent[slot] = parent;
    this.previous[slot] = previous;
    this.next[slot] = before;
    if (previous < 0) this.first[parent] = slot;
    else this.next[previous] = slot;
    if (before < 0) this.last[parent] = slot;
    else this.previous[before] = slot;
    this.#mark(slot);
    this.#mark(parent);
  }

  #unlink(slot) {
    const parent = this.parent[slot];
    const previous = this.previous[slot];
    const next = this.next[slot];
    if (previous < 0) this.first[parent] = next;
    else this.next[previous] = next;
    if (next < 0) this.last[parent] = previous;
    else this.previous[next] = previous;
    this.#mark(parent);
  }

  #mark(slot) {
    if (this.dirty[slot]) return;
    this.dirty[slot] = 1;
    this.#dirty.push(slot);
  }

  #derive(slot) {
    let weight = this.tokens[slot];
    let extent = Math.max(this.start[slot] + this.tokens[slot], 0);
    for (let child = this.first[slot]; child >= 0; child = this.next[child]) {
      weight += this.weight[child];
      extent = Math.max(extent, this.extent[child]);
    }
    this.weight[slot] = weight;
    this.extent[slot] = extent;
    this.dirty[slot] = 0;
  }

  #grow(capacity) {
    for (const [name, Type] of COLUMNS) {
      const column = new Type(capacity);
      if (this[name]) column.set(this[name]);
      this[name] = column;
    }
    this.#capacity = capacity;
  }
}
