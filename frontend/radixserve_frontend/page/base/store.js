/**
 * A value, who changes it, and who wants to know.
 *
 * Each store owns one part of the page's state. It is replaced, never changed in place; whoever
 * subscribed hears of it once, before the next frame, however often it changed until then. So a
 * stream of a thousand tokens a second draws sixty times a second.
 */

export class Store {
  #value;
  #listeners = new Set();
  #isScheduled = false;

  constructor(value) {
    this.#value = value;
  }

  get value() {
    return this.#value;
  }

  /** Replace the value; `change` is the new one or makes it from the old one. */
  set(change) {
    const next = typeof change === "function" ? change(this.#value) : change;
    if (Object.is(next, this.#value)) return;
    this.#value = next;
    this.#schedule();
  }

  /** Replace some fields. */
  patch(fields) {
    this.set((value) => ({ ...value, ...fields }));
  }

  /** Call `listener` with the value now and after each change; returns how to stop. */
  subscribe(listener) {
    this.#listeners.add(listener);
    listener(this.#value);
    return () => this.#listeners.delete(listener);
  }

  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    beforeFrame(() => {
      this.#isScheduled = false;
      for (const listener of this.#listeners) listener(this.#value);
    });
  }
}

/** A page that nobody sees gets no frames: there a timer does. */
function beforeFrame(work) {
  if (document.hidden) setTimeout(work, 0);
  else requestAnimationFrame(work);
}
