/**
 * Asks the server and puts the answer, as it comes, into the conversation.
 *
 * Times are the browser's: what somebody who waits sees, the way to the server included.
 */

import { announce } from "../base/announce.js";
import { isAbort, postEvents, postJson } from "../base/api.js";
import { Store } from "../base/store.js";
import { addRecord } from "../explain/records.js";
import { addTurn, pathTo, patchTurn, removeTurn } from "./turns.js";
import { messagesOf, settings, talk } from "./workspace.js";

/** The answers that are on their way, {control, turn} by conversation: one for each, at most. */
export const running = new Store(new Map());

// Nobody waits for an answer that was deleted.
talk.subscribe(({ turns }) => {
  for (const { control, turn } of running.value.values()) if (!turns.has(turn)) control.abort();
});

/** Say `text` behind `parent` (a turn's id or null), and have it answered. */
export function say(conversation, parent, text) {
  const [state, id] = addTurn(talk.value, conversation, parent, { role: "user", text });
  talk.set(state);
  return answer(conversation, id);
}

/** Another answer to the question of this answer: a version beside it. */
export function regenerate(turn) {
  return answer(turn.conversation, turn.parent);
}

/** The same again in place of an answer that failed. */
export function retry(turn) {
  talk.set(removeTurn(talk.value, turn.id));
  return answer(turn.conversation, turn.parent);
}

/** End the answer that this conversation waits for, if any; what has come stays. */
export function stop(conversation) {
  running.value.get(conversation)?.control.abort();
}

async function answer(conversation, question) {
  stop(conversation);
  const control = new AbortController();
  const messages = messagesOf(pathTo(talk.value, question));
  const [state, id] = addTurn(talk.value, conversation, question, {
    role: "assistant",
    text: "",
    status: "streaming",
  });
  running.set((value) => new Map(value).set(conversation, { control, turn: id }));
  talk.set(state);
  const patch = (fields) => talk.set((value) => patchTurn(value, id, fields));
  const { model, temperature, maxTokens } = settings.value;
  const body = {
    model,
    messages,
    temperature,
    max_tokens: maxTokens,
    stream: true,
    stream_options: { include_usage: true },
    cache_report: true,
  };
  const measured = new Measured();
  try {
    for await (const { data } of postEvents("v1/chat/completions", body, control.signal)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (measured.take(chunk)) patch({ text: measured.text, thinking: measured.thinking });
    }
    if (measured.finishReason === null) throw new Error("the answer broke off before its end");
    patch({ status: measured.finishReason === "length" ? "cut" : "done", ...measured.figures() });
    announce(`Answer: ${measured.text}`);
  } catch (error) {
    const status = isAbort(error) ? "stopped" : "failed";
    patch({ status, error: isAbort(error) ? null : error.message, ...measured.figures() });
    announce(status === "stopped" ? "Stopped" : `Error: ${error.message}`);
    if (measured.usage === null && measured.hasBegun && talk.value.turns.has(id)) {
      countBrokenOff(model, messages, measured).then(patch);
    }
  } finally {
    running.set((value) => new Map([...value].filter(([, each]) => each.control !== control)));
    if (measured.usage !== null) {
      const answer = measured.text;
      const record = addRecord({ conversation, turn: id, messages, model, answer, ...measured.figures() });
      patch({ record });
    }
  }
}

/**
 * What can be known of an answer that did not come to its end: how many tokens its prompt and what
 * has come of it are. Where the prompt's came from a stream tells at its end only.
 */
async function countBrokenOff(model, messages, { text, thinking }) {
  const received = { model, prompt: thinking + text, add_special_tokens: false };
  try {
    const [prompt, answer] = await Promise.all([
      postJson("tokenize", { model, messages }),
      postJson("tokenize", received),
    ]);
    return { promptTokens: prompt.count, answerTokens: answer.count };
  } catch {
    // Then nothing is shown of it.
    return {};
  }
}

/** An answer's text and figures so far. */
class Measured {
  text = "";
  thinking = "";
  usage = null;
  report = null;
  finishReason = null;
  #started = performance.now();
  #first = null;
  #last = null;

  /** Whether any of the answer has come. */
  get hasBegun() {
    return this.#first !== null;
  }

  /** Whether this chunk of the stream brought text. */
  take(chunk) {
    this.usage = chunk.usage ?? this.usage;
    this.report = chunk.cache_report ?? this.report;
    const choice = chunk.choices[0];
    if (!choice) return false;
    this.finishReason = choice.finish_reason ?? this.finishReason;
    const { content, reasoning_content: thinking } = choice.delta;
    if (!content && !thinking) return false;
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.text += content ?? "";
    this.thinking += thinking ?? "";
    return true;
  }

  figures() {
    const { usage, report } = this;
    const answered = usage?.completion_tokens ?? null;
    const streamed = (this.#last - this.#first) / 1000;
    return {
      ttft: this.#first === null ? null : (this.#first - this.#started) / 1000,
      // The first token's time is in the TTFT; one token alone has no rate.
      rate: answered > 1 && streamed > 0 ? (answered - 1) / streamed : null,
      promptTokens: usage?.prompt_tokens ?? null,
      cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? null,
      answerTokens: answered,
      report,
    };
  }
}
