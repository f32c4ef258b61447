/**
 * The API key: kept in this tab's session, gone with it, and sent nowhere but to this server.
 */

import { session } from "./storage.js";
import { Store } from "./store.js";

const NAME = "radixserve.key";

/** `key`: null if there is none. `isWanted`: the server refused a request for want of one. */
export const keyStore = new Store({
  key: session.get(NAME),
  isWanted: false,
  wasRefused: false,
});

export function keepKey(key) {
  session.set(NAME, key);
  keyStore.set({ key, isWanted: false, wasRefused: false });
}

/** Begin anew without a key: what was said and seen with it goes, too. */
export function forgetKey() {
  session.remove(NAME);
  location.reload();
}

/** A request that bore `key` (null: none) was answered with 401. */
export function refuseKey(key) {
  // An answer to an older key says nothing about the present one.
  if (key !== keyStore.value.key) return;
  session.remove(NAME);
  keyStore.set({ key: null, isWanted: true, wasRefused: key !== null });
}
