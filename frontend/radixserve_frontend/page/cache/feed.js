/**
 * The connection to `GET /cache/tree`: keeps one while it is wanted, and tells what comes.
 *
 * A lost connection is made anew, soon at first and then less often. A page that nobody sees needs
 * none: it costs the server something.
 */

import { ApiError, getEvents, getJson, isAbort } from "../base/api.js";
import { Store } from "../base/store.js";

const FIRST_RETRY_S = 1;
const LAST_RETRY_S = 20;

export class Feed {
  /** {phase: "off" | "connecting" | "live" | "waiting" | "missing", error, hello} */
  state = new Store({ phase: "off", error: null, hello: null });
  #handlers;
  #control = null;
  #isWanted = false;

  /** `handlers`: {hello, nodes, whole, figures, lost}, each called with its event's data. */
  constructor(handlers) {
    this.#handlers = handlers;
    document.addEventListener("visibilitychange", () => this.#adjust());
  }

  /** From now on there shall be a connection. */
  open() {
    this.#isWanted = true;
    this.#adjust();
  }

  /** As if it were made for the first time: there is another key, say. */
  reopen() {
    this.#stop();
    this.#adjust();
  }

  /** A node's text, as `GET /cache/tree/{id}` has it. *Throws* `ApiError`. */
  textOf(id) {
    const stream = this.state.value.hello?.stream;
    if (stream === undefined) throw new ApiError("there is no connection");
    return getJson(`cache/tree/${id}?stream=${encodeURIComponent(stream)}`, this.#control?.signal);
  }

  #adjust() {
    if (!this.#isWanted || document.hidden) this.#stop();
    else if (this.#control === null) this.#run();
  }

  #stop() {
    this.#control?.abort();
    this.#control = null;
    this.state.patch({ phase: "off" });
  }

  async #run() {
    const control = (this.#control = new AbortController());
    let wait = FIRST_RETRY_S;
    while (!control.signal.aborted) {
      // Nor is there a stream by which texts could be asked for, until it says its name.
      this.state.patch({ phase: "connecting", hello: null });
      let error = "the server ended the stream";
      let leastWait = 0;
      let isFirst = true;
      try {
        for await (const { event, data } of getEvents("cache/tree", control.signal)) {
          if (control.signal.aborted) return;
          this.#take(event, JSON.parse(data));
          wait = FIRST_RETRY_S;
          // What has come is drawn before more is read: else that would leave no time for a frame.
          if (isFirst && event === "nodes") await nextFrame();
          isFirst &&= event !== "nodes";
        }
      } catch (failure) {
        if (isAbort(failure) || control.signal.aborted) return;
        error = failure.message;
        leastWait = failure.retryAfterS ?? 0;
        if (failure.status === 401 || failure.status === 404) {
          this.state.set({ phase: "missing", error, hello: null });
          if (this.#control === control) this.#control = null;
          return;
        }
      }
      this.state.set({ phase: "waiting", error, hello: null });
      await pause(Math.max(wait, leastWait), control.signal);
      wait = Math.min(2 * wait, LAST_RETRY_S);
    }
  }

  #take(event, data) {
    if (event === "hello") this.state.set({ phase: "live", error: null, hello: data });
    this.#handlers[event]?.(data);
  }
}

function nextFrame() {
  return new Promise(requestAnimationFrame);
}

function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
