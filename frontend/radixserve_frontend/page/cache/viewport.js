/**
 * Which part of the tree is seen: positions (tokens) from `left` to `right`, heights (shares of the
 * whole) from `top` to `bottom`. Moves in steps of a frame; knows neither the tree nor the canvas.
 */

const DURATION_MS = 220;
const LEAST_TOKENS = 4;
const LEAST_HEIGHT = 1e-7;
/** What may be seen beyond the tree's ends, as a share of what is seen. */
const MARGIN = 0.25;

export class Viewport {
  left = 0;
  right = 1;
  top = 0;
  bottom = 1;
  #extent = 1;
  #motion = null;
  #followsAll = true;
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** The tree reaches this far now: who looks at all of it goes on to do so. */
  fit(extent) {
    this.#extent = Math.max(extent, LEAST_TOKENS);
    if (this.#followsAll) this.#set(this.#whole());
  }

  showAll() {
    this.#followsAll = true;
    this.#glide(this.#whole());
  }

  /** Show this part, given as a node's place, with some room around. */
  showPlace({ top, bottom, start, extent }) {
    this.#followsAll = false;
    const room = Math.max(extent - start, LEAST_TOKENS) * 0.06;
    const height = (bottom - top) * 0.06;
    this.#glide(this.#bounded({ left: start - room, right: extent + room, top: top - height, bottom: bottom + height }));
  }

  /** Magnify by `factor` about a point, given as shares of what is seen. */
  zoom(factor, x, y) {
    const { left, right, top, bottom } = this.#target();
    const position = left + x * (right - left);
    const height = top + y * (bottom - top);
    this.#followsAll = false;
    this.#set(
      this.#bounded({
        left: position - (position - left) / factor,
        right: position + (right - position) / factor,
        top: height - (height - top) / factor,
        bottom: height + (bottom - height) / factor,
      }),
    );
  }

  /** Move by shares of what is seen. */
  pan(x, y) {
    const { left, right, top, bottom } = this.#target();
    const width = (right - left) * x;
    const height = (bottom - top) * y;
    this.#followsAll = false;
    this.#set(this.#bounded({ left: left + width, right: right + width, top: top + height, bottom: bottom + height }));
  }

  /** Go on with a motion, if there is one. Returns whether it goes on after that. */
  step(now) {
    if (this.#motion === null) return false;
    const { from, to, begun } = this.#motion;
    const part = Math.min((now - begun) / DURATION_MS, 1);
    const eased = 1 - (1 - part) ** 3;
    for (const side of ["left", "right", "top", "bottom"]) {
      this[side] = from[side] + (to[side] - from[side]) * eased;
    }
    if (part === 1) this.#motion = null;
    return this.#motion !== null;
  }

  #whole() {
    return { left: 0, right: this.#extent * 1.02, top: 0, bottom: 1 };
  }

  #target() {
    return this.#motion?.to ?? this;
  }

  #glide(to) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.#set(to);
      return;
    }
    const { left, right, top, bottom } = this;
    this.#motion = { from: { left, right, top, bottom }, to, begun: performance.now() };
    this.#onChange();
  }

  #set({ left, right, top, bottom }) {
    this.#motion = null;
    Object.assign(this, { left, right, top, bottom });
    this.#onChange();
  }

  #bounded({ left, right, top, bottom }) {
    const [a, b] = inside(left, right, this.#extent * 1.02, LEAST_TOKENS);
    const [c, d] = inside(top, bottom, 1, LEAST_HEIGHT);
    return { left: a, right: b, top: c, bottom: d };
  }
}

/** An interval of at least `least` that leaves [0, end] by a margin at most. */
function inside(low, high, end, least) {
  let length = Math.max(high - low, least);
  if (length >= end) return [0, end];
  const middle = (low + high) / 2;
  const margin = Math.min(length * MARGIN, end * 0.02);
  const begin = Math.min(Math.max(middle - length / 2, -margin), end + margin - length);
  return [begin, begin + length];
}
