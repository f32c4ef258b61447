/**
 * Draws the part of the tree that is seen, and only that.
 *
 * A walk from the root leaves out what lies outside, and draws what is too low to be told apart as
 * one block. So a frame costs what fits on the screen, not what the tree holds: at most
 * height / LEAST_PX boxes for each position from left to right.
 */

import { COLOURINGS, css, isBright } from "./colours.js";

/** Lower than this, in pixels, siblings become one block. */
const LEAST_PX = 2;
const LABEL_PX = 15;
const LINE_PX = 15;
const MAX_LABELS = 160;
const MAX_LINES = 400;
const MAX_BUCKETS = 16;
const FONT_PX = 11;

/** Boxes of one colour: x, y, width, height, one after another. */
class Boxes {
  values = new Float32Array(1024);
  length = 0;

  add(x, y, width, height) {
    if (this.length + 4 > this.values.length) {
      const values = new Float32Array(2 * this.values.length);
      values.set(this.values);
      this.values = values;
    }
    this.values[this.length++] = x;
    this.values[this.length++] = y;
    this.values[this.length++] = width;
    this.values[this.length++] = height;
  }
}

export class Painter {
  /** Of the last frame: {boxes, blocks, labels}. */
  drawn = { boxes: 0, blocks: 0, labels: 0 };
  /** The slots that were big enough for a label. */
  labelled = [];
  #context;
  #width = 1;
  #height = 1;
  #scale = 1;
  #boxes = Array.from({ length: MAX_BUCKETS }, () => new Boxes());
  #colours = [];
  #inks = [];
  #marks = {};
  #font = "";
  #letter = 7;
  #labels = [];
  #stack = [];

  constructor(canvas) {
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  /** The canvas has this size in CSS pixels now. */
  resize(canvas, width, height, scale) {
    this.#width = width;
    this.#height = height;
    this.#scale = scale;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }

  /** Take the colours from the style sheet: `colour` reads them. */
  restyle(colouring, colour, font) {
    const colours = COLOURINGS[colouring].colours(colour);
    this.#colours = colours.map(css);
    const dark = css(colour("--tree-ink-dark"));
    const light = css(colour("--tree-ink-light"));
    this.#inks = colours.map((each) => (isBright(each) ? dark : light));
    this.#marks = {
      ground: css(colour("--tree-ground")),
      selected: css(colour("--ink")),
      path: css(colour("--tree-path")),
    };
    this.#font = `${FONT_PX}px ${font}`;
    this.#context.font = this.#font;
    this.#letter = this.#context.measureText("m").width;
  }

  /** Draw. `marks`: {selected, hovered, path}, slots or -1, and a set of slots. */
  paint(tree, view, bucket, now, textOf, marks) {
    const context = this.#context;
    context.setTransform(this.#scale, 0, 0, this.#scale, 0, 0);
    context.fillStyle = this.#marks.ground;
    context.fillRect(0, 0, this.#width, this.#height);
    this.#collect(tree, view, bucket, now);
    let boxes = 0;
    for (let index = 0; index < this.#colours.length; index++) {
      const { values, length } = this.#boxes[index];
      boxes += length / 4;
      if (length === 0) continue;
      context.fillStyle = this.#colours[index];
      for (let at = 0; at < length; at += 4) {
        context.fillRect(values[at], values[at + 1], values[at + 2], values[at + 3]);
      }
    }
    this.drawn.boxes = boxes;
    this.#mark(tree, view, marks);
    this.#write(tree, textOf);
  }

  #collect(tree, view, bucket, now) {
    for (const boxes of this.#boxes) boxes.length = 0;
    this.#labels.length = 0;
    this.drawn.blocks = 0;
    const perToken = this.#width / (view.right - view.left);
    const perHeight = this.#height / (view.bottom - view.top);
    const stack = this.#stack;
    stack.length = 0;
    stack.push(0, -view.top * perHeight, perHeight);
    while (stack.length > 0) {
      const height = stack.pop();
      const top = stack.pop();
      const slot = stack.pop();
      if (slot > 0) this.#add(tree, slot, top, height, view.left, perToken, bucket(tree, slot, now));
      if ((tree.start[slot] + tree.tokens[slot] - view.left) * perToken > this.#width) continue;
      this.#collectChildren(tree, slot, top, height, view.left, perToken, bucket, now);
    }
  }

  #collectChildren(tree, slot, top, height, left, perToken, bucket, now) {
    const { first, next, weight, extent } = tree;
    const scale = height / tree.childWeight(slot);
    const farLeft = left;
    let y = top;
    let blockTop = y;
    let blockEnd = 0;
    let blockSlot = -1;
    for (let child = first[slot]; child >= 0; child = next[child]) {
      const tall = weight[child] * scale;
      const bottom = y + tall;
      const isSeen = bottom >= 0 && y <= this.#height && extent[child] >= farLeft;
      if (tall >= LEAST_PX) {
        if (blockSlot >= 0) this.#addBlock(tree, blockSlot, blockTop, y, blockEnd, left, perToken, bucket, now);
        blockSlot = -1;
        if (isSeen) this.#stack.push(child, y, tall);
      } else if (isSeen) {
        if (blockSlot < 0) {
          blockSlot = child;
          blockTop = y;
          blockEnd = 0;
        }
        blockEnd = Math.max(blockEnd, extent[child]);
        if (bottom - blockTop >= LEAST_PX) {
          this.#addBlock(tree, blockSlot, blockTop, bottom, blockEnd, left, perToken, bucket, now);
          blockSlot = -1;
        }
      }
      y = bottom;
      if (y > this.#height) break;
    }
    if (blockSlot >= 0) this.#addBlock(tree, blockSlot, blockTop, y, blockEnd, left, perToken, bucket, now);
  }

  /** Siblings too low to be told apart, in the colour of the first. */
  #addBlock(tree, slot, top, bottom, end, left, perToken, bucket, now) {
    const x = Math.max((tree.start[slot] - left) * perToken, -1);
    const width = Math.min((end - left) * perToken, this.#width + 1) - x;
    if (width <= 0) return;
    this.#boxes[bucket(tree, slot, now)].add(x, top, Math.max(width, 1), Math.max(bottom - top, 1));
    this.drawn.blocks++;
  }

  #add(tree, slot, top, height, left, perToken, bucket) {
    const from = (tree.start[slot] - left) * perToken;
    const to = from + tree.tokens[slot] * perToken;
    const x = Math.max(from, -1);
    const right = Math.min(to, this.#width + 1);
    if (right < 0 || x > this.#width) return;
    const y = Math.max(top, -1);
    const bottom = Math.min(top + height, this.#height + 1);
    const gap = height > 4 ? 1 : 0;
    const width = Math.max(right - x - (right - x > 3 ? 1 : 0), 1);
    this.#boxes[bucket].add(x, y, width, Math.max(bottom - y - gap, 1));
    if (bottom - y >= LABEL_PX && width >= 4 * this.#letter && this.#labels.length < MAX_LABELS) {
      this.#labels.push({ slot, x, y, width, height: bottom - y, bucket });
    }
  }

  #write(tree, textOf) {
    const context = this.#context;
    context.font = this.#font;
    context.textBaseline = "middle";
    this.labelled.length = 0;
    let left = MAX_LINES;
    for (const { slot, x, y, width, height, bucket } of this.#labels) {
      this.labelled.push(slot);
      const columns = Math.floor((Math.min(x + width, this.#width) - Math.max(x, 0) - 14) / this.#letter);
      const top = Math.max(y, 0);
      const room = Math.min(y + height, this.#height) - top;
      const rows = Math.min(Math.floor((room - 4) / LINE_PX) || 1, left);
      if (columns < 3 || rows < 1) continue;
      const lines = textOf(slot, columns, rows);
      left -= lines.length;
      context.fillStyle = this.#inks[bucket];
      // One line stands in the middle; several begin at the top.
      const first = rows === 1 ? top + room / 2 : top + 5 + LINE_PX / 2;
      for (let row = 0; row < lines.length; row++) {
        context.fillText(lines[row], Math.max(x, 0) + 7, first + row * LINE_PX);
      }
    }
    this.drawn.labels = this.#labels.length;
  }

  #mark(tree, view, { selected, hovered, path }) {
    const context = this.#context;
    context.strokeStyle = this.#marks.path;
    context.lineWidth = 2.5;
    for (const slot of path) this.#outline(tree, view, slot);
    context.strokeStyle = this.#marks.selected;
    context.lineWidth = 1;
    if (hovered >= 0 && hovered !== selected) this.#outline(tree, view, hovered);
    context.lineWidth = 2;
    if (selected >= 0) this.#outline(tree, view, selected);
  }

  #outline(tree, view, slot) {
    const { top, bottom, start } = tree.placeOf(slot);
    const perToken = this.#width / (view.right - view.left);
    const perHeight = this.#height / (view.bottom - view.top);
    // What lies far outside may lie further than a canvas can count.
    const x = Math.max((start - view.left) * perToken, -4);
    const right = Math.min((start + tree.tokens[slot] - view.left) * perToken, this.#width + 4);
    const y = Math.max((top - view.top) * perHeight, -4);
    const end = Math.min((bottom - view.top) * perHeight, this.#height + 4);
    if (right < 0 || end < 0 || x > this.#width || y > this.#height) return;
    this.#context.strokeRect(x + 1, y + 1, Math.max(right - x - 3, 1), Math.max(end - y - 3, 1));
  }
}
