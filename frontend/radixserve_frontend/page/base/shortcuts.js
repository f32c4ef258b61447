/**
 * Keys that work everywhere on the page. The help dialog shows this very table.
 *
 * A plain key does nothing while somebody writes; what has to work then has a modifier.
 */

/** [keys as shown, what they do], by group; those without an action are handled where they work. */
export const SHORTCUTS = [
  ["Everywhere", [
    [["1"], "Chat"],
    [["2"], "Cache"],
    [["3"], "Explain"],
    [["T"], "Light, dark, or as the system"],
    [["?"], "This help"],
  ]],
  ["Chat", [
    [["/"], "Write a message"],
    [["Enter"], "Send; Shift + Enter begins a line"],
    [["Esc"], "Stop the answer, or give up an edit"],
    [["N"], "Another conversation beside"],
    [["Alt", "↑"], "Edit the last message"],
  ]],
  ["Cache", [
    [["←", "→"], "To the parent, to the first child"],
    [["↑", "↓"], "To the node above, below"],
    [["Enter"], "Zoom to the node"],
    [["+", "−"], "Zoom in, out"],
    [["Shift", "←↑→↓"], "Move the picture"],
    [["0"], "Everything"],
    [["Esc"], "Select nothing"],
  ]],
];

/** Call `actions[key]` when that key is pressed and nobody is writing. Returns how to stop. */
export function bindShortcuts(actions) {
  const listener = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (isWriting(event.target) || document.querySelector("dialog[open]")) return;
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };
  document.addEventListener("keydown", listener);
  return () => document.removeEventListener("keydown", listener);
}

function isWriting(target) {
  return target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]");
}
