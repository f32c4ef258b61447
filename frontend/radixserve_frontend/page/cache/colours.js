/**
 * What a node's colour says: how long ago it was used, whether it is in use, or whose it is.
 *
 * A colouring maps a slot to a bucket, and buckets to colours, so that a frame changes colour a few
 * times and not once a node. Colours come from the style sheet, for light and dark.
 */

import { NOT_TOLD } from "./tree.js";

const AGES = 12;
const OLDEST_S = 3600;
const OTHERS = 6;
const IN_USE = 0;
const UNKNOWN = 1;

export const COLOURINGS = {
  age: {
    name: "Age",
    bucket: (tree, slot, now) => {
      if (tree.locks[slot] > 0) return IN_USE;
      const age = now - tree.used[slot];
      if (Number.isNaN(age)) return UNKNOWN;
      const part = Math.log1p(Math.max(age, 0)) / Math.log1p(OLDEST_S);
      return 2 + Math.min(Math.floor(part * AGES), AGES - 1);
    },
    colours: (colour) => [
      colour("--tree-in-use"),
      colour("--tree-unknown"),
      ...ramp(colour("--tree-new"), colour("--tree-old"), AGES),
    ],
    legend: [
      ["In use", 0],
      ["Just now", 2],
      ["A minute", 8],
      ["An hour and more", 13],
      ["Not told", 1],
    ],
  },
  locks: {
    name: "In use",
    bucket: (tree, slot) => {
      const locks = tree.locks[slot];
      if (locks === NOT_TOLD) return 4;
      return locks < 2 ? locks : locks < 8 ? 2 : 3;
    },
    colours: (colour) => [
      colour("--tree-idle"),
      ...ramp(colour("--tree-lock-few"), colour("--tree-in-use"), 3),
      colour("--tree-unknown"),
    ],
    legend: [
      ["Idle", 0],
      ["One request", 1],
      ["2 to 7", 2],
      ["8 and more", 3],
      ["Not told", 4],
    ],
  },
  owner: {
    name: "Owner",
    bucket: (tree, slot) => {
      const owner = tree.owner[slot];
      return owner < 2 ? owner : 2 + ((owner - 2) % OTHERS);
    },
    colours: (colour) => [
      colour("--tree-public"),
      colour("--tree-own"),
      ...Array.from({ length: OTHERS }, (_, index) => colour(`--tree-other-${index + 1}`)),
    ],
    legend: [
      ["Public", 0],
      ["Yours", 1],
      ["Others", 2],
      ["", 3],
      ["", 4],
      ["", 5],
    ],
  },
};

/** What a style variable is as [red, green, blue], as the style sheet has it now. */
export function colourReader(element) {
  return (name) => {
    const before = element.style.color;
    element.style.color = `var(${name})`;
    const found = getComputedStyle(element).color;
    element.style.color = before;
    return found.match(/[\d.]+/g).slice(0, 3).map(Number);
  };
}

export function css([red, green, blue]) {
  return `rgb(${Math.round(red)} ${Math.round(green)} ${Math.round(blue)})`;
}

/** Whether dark text reads better on this colour than light text. */
export function isBright([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 128;
}

function ramp(from, to, steps) {
  return Array.from({ length: steps }, (_, step) =>
    from.map((value, index) => value + ((to[index] - value) * step) / (steps - 1)),
  );
}
