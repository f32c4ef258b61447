/**
 * The requests of this page, oldest first, in memory only: what Explain tells of.
 *
 * A record is {id, at, conversation, turn, messages, model, promptTokens, cachedTokens, report,
 * ttft, rate, answerTokens, previous}; `previous` is the id of the conversation's record before it.
 */

import { Store } from "../base/store.js";

const MAX_RECORDS = 200;

export const records = new Store([]);

let nextId = 1;

/** Keep a request's record; returns its id. */
export function addRecord(fields) {
  const previous = records.value.findLast((each) => each.conversation === fields.conversation);
  const record = { ...fields, id: nextId++, at: new Date(), previous: previous?.id ?? null };
  records.set((value) => [...value, record].slice(-MAX_RECORDS));
  return record.id;
}

export function recordOf(id) {
  return records.value.find((each) => each.id === id);
}
