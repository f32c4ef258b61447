/**
 * Why a prompt's match in the cache went no further, in words: the server's cause, and what only
 * the page knows, which is what was sent before.
 */

import { ago, counted } from "../base/format.js";
import { numShared } from "./records.js";

const CAUSES = {
  complete: "Nothing is missing: everything before the last token was there. That one is always computed, because its result chooses the first word of the answer.",
  never_seen: "From here on nobody has said this before, as far as the cache knows.",
  diverged: "The cache goes on from here, but with other words.",
  whole_pages: "More matched, but the cache keeps whole pages, and this one is not full.",
  cache_off: "The server shares nothing between requests: its cache is off.",
  scored: "The request asked for the probabilities of its prompt, so all of it was computed.",
};

/** A sentence or two for a report or an explanation. */
export function causeInWords({ cause, evicted_seconds_ago: seconds, matched_tokens: matched, in_other_namespaces: elsewhere }) {
  const others = elsewhere ? " Another namespace holds more of it, which is not shared." : "";
  if (cause === "evicted") {
    const when = ago(seconds ?? 0);
    return `What follows was cached, and was evicted ${when === "now" ? "just now" : `${when} ago`}, to make room.${others}`;
  }
  if (cause === "never_seen" && matched === 0) return `Nobody has begun a prompt like this.${others}`;
  return (CAUSES[cause] ?? `The server calls the cause "${cause}".`) + others;
}

/**
 * What the page knows besides: how this record's messages differ from those of the one before it in
 * the conversation. Null if there is nothing to say.
 */
export function historyInWords(record, before) {
  if (!before || record.report === null || record.report.cause === "complete") return null;
  const changed = numShared(before.messages, record.messages);
  if (!before.messages[changed] || !record.messages[changed]) return rewritten(record, before);
  const { role } = record.messages[changed];
  if (role === "system" || before.messages[changed].role === "system") return "The system prompt or the documents were changed since the request before.";
  const number = record.messages.slice(0, changed + 1).filter((each) => each.role === role).length;
  return role === "user"
    ? `Message ${number} was edited since the request before: the conversation forks there.`
    : `Answer ${number} is another one than in the request before.`;
}

/** The history is the same; if the match ends within it, the template wrote it otherwise. */
function rewritten(record, before) {
  const { cause, matched_tokens: matched } = record.report;
  if (cause !== "diverged") return null;
  if (matched < before.promptTokens - 1) {
    const tail = counted(before.promptTokens - matched, "token");
    return `The messages are the same as in the request before, yet the last ${tail} of that prompt no longer match: the chat template writes earlier turns in another way.`;
  }
  // What ends an answer is not computed before something follows it.
  const isSent = record.messages[before.messages.length]?.content === before.answer;
  if (!isSent || matched >= before.promptTokens + before.answerTokens - 2) return null;
  return "The answer before was sent back, yet not as it was generated: the chat template writes earlier answers in another way, without what they thought, say.";
}
