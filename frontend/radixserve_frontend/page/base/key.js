/**
 * The API key: kept in this tab's session, gone with it, and sent nowhere but to this server.
 */

import { Store } from "./store.js";

const NAME = "radixserve.key";

/** `key`: null if there is none. `isWanted`: the server refused a request for want of one. */
export const keyStore = new Store({
  key: sessionStorage.getItem(NAME),
  isWanted: false,
  wasRefused: false,
});

export function keepKey(key) {
  sessionStorage.setItem(NAME, key);
  keyStore.set({ key, isWanted: false, wasRefused: false });
}

export function forgetKey() {
  sessionStorage.removeItem(NAME);
  keyStore.set({ key: null, isWanted: true, wasRefused: false });
}

/** A request that bore `key` (null: none) was answered with 401. */
export function refuseKey(key) {
  // An answer to an older key says nothing about the present one.
  if (key !== keyStore.value.key) return;
  sessionStorage.removeItem(NAME);
  keyStore.set({ key: null, isWanted: true, wasRefused: key !== null });
}
