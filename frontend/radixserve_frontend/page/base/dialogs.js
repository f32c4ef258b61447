/** The two dialogs: the keys one can press, and the key one is asked for. */

import { byId, fill, h } from "./dom.js";
import { forgetKey, keepKey, keyStore } from "./key.js";
import { SHORTCUTS } from "./shortcuts.js";

/** A header carries no others; the server's keys have no others either. */
const SENDABLE = /^[\x21-\x7e]+$/;

/** Fills the help and binds its button; returns how to open it. */
export function prepareHelp() {
  const dialog = byId("help");
  fill(
    byId("help-keys"),
    SHORTCUTS.map(([group, entries]) =>
      h(
        "section",
        {},
        h("h3", {}, group),
        h(
          "dl",
          {},
          entries.map(([keys, does]) => [
            h("dt", {}, keys.map((key) => h("kbd", {}, key))),
            h("dd", {}, does),
          ]),
        ),
      ),
    ),
  );
  const open = () => dialog.showModal();
  byId("help-button").addEventListener("click", open);
  closeOnBackdrop(dialog);
  return open;
}

/** Asks for a key whenever the server wants one. `onKey` is called when there is a new one. */
export function prepareKeys(onKey) {
  const dialog = byId("key-dialog");
  const field = byId("key-field");
  const button = byId("key-button");
  const remark = byId("key-remark");
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (key === "") return;
    if (!SENDABLE.test(key)) {
      remark.textContent = "A key has plain letters, digits and signs only; this one has others, perhaps invisible ones.";
      return;
    }
    field.value = "";
    dialog.close();
    keepKey(key);
    onKey();
  });
  byId("key-later").addEventListener("click", () => dialog.close());
  button.addEventListener("click", () => {
    if (keyStore.value.key === null) dialog.showModal();
    else forgetKey();
  });
  keyStore.subscribe(({ key, isWanted, wasRefused }) => {
    button.hidden = key === null && !isWanted;
    button.textContent = key === null ? "Enter a key" : "Forget the key";
    remark.textContent = wasRefused ? "The server does not know that key." : "";
    if (isWanted && !dialog.open) dialog.showModal();
  });
}

function closeOnBackdrop(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
