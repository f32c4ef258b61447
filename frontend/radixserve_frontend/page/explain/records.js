/**
 * The requests of this page, oldest first, in memory only: what Explain tells of.
 *
 * A record is {id, at, conversation, turn, messages, model, answer, promptTokens, cachedTokens,
 * report, ttft, rate, answerTokens, previous}; `previous` is the id of the conversation's record that
 * it goes on from: the one that begins with the most of its messages, the latest of those; or null.
 */

import { Store } from "../base/store.js";

const MAX_RECORDS = 200;

export const records = new Store([]);

let nextId = 1;

/** Keep a request's record; returns its id. */
export function addRecord(fields) {
  const previous = goesOnFrom(fields);
  const record = { ...fields, id: nextId++, at: new Date(), previous: previous?.id ?? null };
  records.set((value) => [...value, record].slice(-MAX_RECORDS));
  return record.id;
}

/** Whoever goes back to an older version of a conversation goes on from there. */
function goesOnFrom({ conversation, messages }) {
  const own = records.value.filter((each) => each.conversation === conversation);
  const shared = own.map((each) => numShared(said(each), messages));
  return own[shared.lastIndexOf(Math.max(...shared))];
}

function said({ messages, answer }) {
  return [...messages, { role: "assistant", content: answer }];
}

/** How many messages these two begin with in common. */
export function numShared(earlier, now) {
  const isSame = ({ role, content }, at) => now[at]?.role === role && now[at].content === content;
  const end = earlier.findIndex((message, at) => !isSame(message, at));
  return end < 0 ? earlier.length : end;
}

export function recordOf(id) {
  return records.value.find((each) => each.id === id);
}
