/**
 * Server-sent events from a fetch: unlike EventSource it sends headers, hence keys, and bodies.
 *
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */

/** The events of a response, as {event, data}; data is still text. Ends with the response. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(value);
    }
  } finally {
    // Whoever stops reading no longer wants what comes: the server may stop as well.
    reader.cancel().catch(() => {});
  }
}

/** Turns pieces of a stream into events, wherever the pieces are cut. */
export class EventParser {
  #rest = "";
  #event = "message";
  #data = [];

  /** The events that this piece completes. */
  feed(text) {
    const events = [];
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") this.#dispatch(events);
      else this.#take(line);
    }
    return events;
  }

  #take(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
  }

  #dispatch(events) {
    if (this.#data.length > 0) events.push({ event: this.#event, data: this.#data.join("\n") });
    this.#event = "message";
    this.#data = [];
  }
}
