/** The largest nodes as a table: for those to whom a canvas says nothing. */

import { fill, h } from "../base/dom.js";
import { ago, count } from "../base/format.js";
import { ownerName } from "./panel.js";
import { NOT_TOLD } from "./tree.js";

const ROWS = 20;

/** Put the largest nodes of the picture's tree into `element`; `choose(slot)` selects one. */
export function showLargest(element, picture, texts, choose) {
  const { tree, now } = picture;
  const rows = largest(tree).map((slot) => {
    const told = tree.locks[slot] !== NOT_TOLD;
    const age = tree.locks[slot] > 0 ? "in use" : ago(now - tree.used[slot]);
    const line = texts.line(tree.id[slot], tree.tokens[slot]);
    return h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        h(
          "button",
          { type: "button", class: "row-button", data: { node: tree.id[slot] }, on: { click: () => choose(slot) } },
          line.slice(0, 48) || `Node ${tree.id[slot]}`,
        ),
      ),
      [tree.start[slot], tree.tokens[slot], tree.pages[slot]].map((number) => h("td", {}, count(number))),
      h("td", {}, told ? count(tree.locks[slot]) : "not told"),
      h("td", {}, told ? age : "not told"),
      h("td", {}, ownerName(tree.owner[slot])),
    );
  });
  const heads = ["Node", "Begins at", "Tokens", "Pages", "In use by", "Last used", "Owner"];
  // Whoever walks through the rows by keys stays at the node.
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.node : null;
  fill(
    element,
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows),
    ),
  );
  if (focused) element.querySelector(`[data-node="${focused}"]`)?.focus({ preventScroll: true });
}

/** The slots of the nodes with the most tokens, largest first. Costs a pass over all nodes. */
function largest(tree) {
  const found = [];
  for (const slot of tree.slots()) {
    if (found.length === ROWS && tree.tokens[slot] <= tree.tokens[found.at(-1)]) continue;
    const place = found.findIndex((each) => tree.tokens[each] < tree.tokens[slot]);
    found.splice(place < 0 ? found.length : place, 0, slot);
    if (found.length > ROWS) found.pop();
  }
  return found;
}
