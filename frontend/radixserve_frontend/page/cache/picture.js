/**
 * The tree on its canvas: when to draw, what is selected, and where it looks.
 *
 * Everything that changes asks for a frame; a frame draws once. `frames` keeps what each cost, in
 * milliseconds of script, for whoever measures.
 */

import { theme } from "../base/theme.js";
import { COLOURINGS, colourReader } from "./colours.js";
import { Painter } from "./painter.js";
import { Tree } from "./tree.js";
import { Viewport } from "./viewport.js";

const MAX_FRAMES_KEPT = 2000;
const REPAINT_AGES_MS = 1000;
/** Texts are asked for when the picture has been still for so long. */
const STILL_MS = 250;
const MAX_WISHES = 24;
/** Others' texts are shown when somebody points at them, not by themselves. */
const LAST_OWN = 1;

export class Picture {
  tree = new Tree();
  view = new Viewport(() => this.draw());
  painter;
  frames = [];
  colouring = "age";
  selected = -1;
  hovered = -1;
  path = new Set();
  #canvas;
  #texts;
  #isDue = false;
  #isShown = false;
  #isStale = false;
  #selectedId = -1;
  #hoveredId = -1;
  #pathIds = new Map();
  #stillTimer = 0;
  #onSelect;
  #onSettle;

  /**
   * `onSelect(slot)` is called when another node is selected or pointed at, -1 being none;
   * `onSettle()` when the tree has changed, at most once a frame.
   */
  constructor(canvas, texts, { onSelect, onSettle }) {
    this.#canvas = canvas;
    this.#texts = texts;
    this.#onSelect = onSelect;
    this.#onSettle = onSettle;
    this.painter = new Painter(canvas);
    new ResizeObserver(() => this.#resize()).observe(canvas.parentElement);
    theme.subscribe(() => this.#restyle());
    setInterval(() => this.#isShown && this.colouring === "age" && this.draw(), REPAINT_AGES_MS);
  }

  /** Seconds on the clock that the tree's times are told by. */
  get now() {
    return performance.now() / 1000;
  }

  set isShown(isShown) {
    this.#isShown = isShown;
    if (isShown) this.draw();
  }

  colourBy(colouring) {
    this.colouring = colouring;
    this.#restyle();
  }

  /** The tree has been told of changes; who asks for places before the next frame settles it. */
  settle() {
    if (!this.#isStale) return;
    this.#isStale = false;
    if (this.tree.settle()) this.view.fit(this.tree.extent[0]);
    if (this.hovered >= 0 && !this.#isStill(this.hovered, this.#hoveredId)) this.hover(-1);
    if (this.selected >= 0 && !this.#isStill(this.selected, this.#selectedId)) this.select(-1);
    for (const [slot, id] of this.#pathIds) if (!this.#isStill(slot, id)) this.path.delete(slot);
    this.#onSettle();
  }

  /** Take a `nodes` event. It is cheap; what follows from it is seen to once a frame. */
  apply(event) {
    this.tree.apply(event, this.now);
    this.#isStale = true;
    this.draw();
  }

  clear() {
    this.tree.clear();
    this.selected = this.hovered = -1;
    this.markPath([]);
    this.view.fit(1);
    this.#onSelect(-1);
    this.draw();
  }

  /** Mark these nodes as a way from the root. */
  markPath(slots) {
    this.path = new Set(slots);
    this.#pathIds = new Map(slots.map((slot) => [slot, this.tree.id[slot]]));
    this.draw();
  }

  select(slot) {
    this.selected = slot;
    this.#selectedId = slot >= 0 ? this.tree.id[slot] : -1;
    this.#onSelect(slot >= 0 ? slot : this.hovered);
    this.draw();
  }

  hover(slot) {
    if (slot === this.hovered) return;
    this.hovered = slot;
    this.#hoveredId = slot >= 0 ? this.tree.id[slot] : -1;
    this.#onSelect(slot >= 0 ? slot : this.selected);
    this.draw();
  }

  zoomTo(slot) {
    this.view.showPlace(this.tree.placeOf(slot));
  }

  /** The node at a point of the canvas, in CSS pixels, or -1. */
  nodeAt(x, y) {
    const { left, right, top, bottom } = this.view;
    const position = left + (x / this.#canvas.clientWidth) * (right - left);
    const height = top + (y / this.#canvas.clientHeight) * (bottom - top);
    return this.tree.nodeAt(position, height);
  }

  /** Where the middle of a node is on the canvas, in CSS pixels. */
  pointOf(slot) {
    const { left, right, top, bottom } = this.view;
    const place = this.tree.placeOf(slot);
    const position = place.start + this.tree.tokens[slot] / 2;
    return {
      x: ((position - left) / (right - left)) * this.#canvas.clientWidth,
      y: (((place.top + place.bottom) / 2 - top) / (bottom - top)) * this.#canvas.clientHeight,
    };
  }

  /** Draw before the next frame. */
  draw() {
    if (this.#isDue || !this.#isShown) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.#frame());
  }

  #frame() {
    this.#isDue = false;
    const begun = performance.now();
    this.settle();
    const isMoving = this.view.step(begun);
    const { bucket } = COLOURINGS[this.colouring];
    this.painter.paint(this.tree, this.view, bucket, this.now, this.#label, this);
    if (this.frames.length >= MAX_FRAMES_KEPT) this.frames.splice(0, MAX_FRAMES_KEPT / 2);
    this.frames.push(performance.now() - begun);
    if (isMoving) this.draw();
    else this.#wishLater();
  }

  /** What is written into a node with room for so many letters and lines. */
  #label = (slot, columns, rows) => {
    const lines = this.#texts.lines(this.tree.id[slot], this.tree.tokens[slot], columns, rows);
    return lines ?? [String(this.tree.tokens[slot]).slice(0, columns)];
  };

  /** A slot may have become another node's. */
  #isStill(slot, id) {
    return this.tree.slotOf(id) === slot;
  }

  #wishLater() {
    if (this.#stillTimer) return;
    this.#stillTimer = setTimeout(() => {
      this.#stillTimer = 0;
      const { id, tokens, owner, weight } = this.tree;
      const own = this.painter.labelled.filter((slot) => owner[slot] <= LAST_OWN);
      own.sort((a, b) => weight[b] - weight[a]);
      this.#texts.wish(own.slice(0, MAX_WISHES).map((slot) => [id[slot], tokens[slot]]));
    }, STILL_MS);
  }

  #restyle() {
    const font = getComputedStyle(this.#canvas).fontFamily;
    this.painter.restyle(this.colouring, colourReader(this.#canvas), font);
    this.draw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#canvas.parentElement;
    if (clientWidth === 0 || clientHeight === 0) return;
    this.painter.resize(this.#canvas, clientWidth, clientHeight, devicePixelRatio);
    this.#restyle();
  }
}
