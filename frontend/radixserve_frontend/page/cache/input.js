/** Hands and keys on the picture: wheel, drag, pinch, pointing, clicking, and the arrow keys. */

import { announce } from "../base/announce.js";
import { nodeInWords } from "./panel.js";

const WHEEL_SPEED = 0.0016;
const KEY_ZOOM = 1.5;
const KEY_PAN = 0.15;
/** A pointer that moves less than this between down and up, in pixels, clicks. */
const CLICK_PX = 5;

/** Let people move the picture that is on this canvas. */
export function bindInput(canvas, picture) {
  bindWheel(canvas, picture);
  bindPointers(canvas, picture);
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = event.shiftKey ? (SHIFTED[event.key] ?? KEYS[event.key]) : KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act(picture);
  });
}

const SHIFTED = {
  ArrowLeft: (picture) => picture.view.pan(-KEY_PAN, 0),
  ArrowRight: (picture) => picture.view.pan(KEY_PAN, 0),
  ArrowUp: (picture) => picture.view.pan(0, -KEY_PAN),
  ArrowDown: (picture) => picture.view.pan(0, KEY_PAN),
};

const KEYS = {
  ArrowLeft: (picture) => go(picture, (tree, slot) => tree.parent[slot]),
  ArrowRight: (picture) => go(picture, (tree, slot) => tree.first[slot]),
  ArrowUp: (picture) => go(picture, (tree, slot) => tree.previous[slot]),
  ArrowDown: (picture) => go(picture, (tree, slot) => tree.next[slot]),
  Enter: (picture) => picture.selected > 0 && picture.zoomTo(picture.selected),
  Escape: (picture) => picture.select(-1),
  0: (picture) => picture.view.showAll(),
  "+": (picture) => picture.view.zoom(KEY_ZOOM, 0.5, 0.5),
  "=": (picture) => picture.view.zoom(KEY_ZOOM, 0.5, 0.5),
  "-": (picture) => picture.view.zoom(1 / KEY_ZOOM, 0.5, 0.5),
};

/** Select the node that is there from the selected one; the first of all if there is none. */
function go(picture, next) {
  const { tree, selected, view } = picture;
  const slot = selected > 0 ? next(tree, selected) : tree.first[0];
  if (slot <= 0) return;
  picture.select(slot);
  announce(nodeInWords(tree, slot));
  const { top, bottom, start } = tree.placeOf(slot);
  const middle = (top + bottom) / 2;
  const isSeen = middle > view.top && middle < view.bottom && start >= view.left && start < view.right;
  if (!isSeen) picture.zoomTo(slot);
}

function bindWheel(canvas, picture) {
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { x, y } = shareOf(canvas, event);
      const pixels = event.deltaMode === 0 ? 1 : 16;
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        const across = event.deltaX || event.deltaY;
        picture.view.pan((across * pixels) / canvas.clientWidth, 0);
      } else {
        // A pinch on a touchpad comes as a wheel with Ctrl, in smaller steps.
        const speed = event.ctrlKey ? 5 * WHEEL_SPEED : WHEEL_SPEED;
        picture.view.zoom(Math.exp(-event.deltaY * pixels * speed), x, y);
      }
    },
    { passive: false },
  );
}

function bindPointers(canvas, picture) {
  const pointers = new Map();
  let moved = 0;
  const release = (event) => {
    pointers.delete(event.pointerId);
    canvas.classList.toggle("is-dragged", pointers.size > 0);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (pointers.size === 0) moved = 0;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) {
      picture.hover(picture.nodeAt(event.offsetX, event.offsetY));
      return;
    }
    const here = { x: event.clientX, y: event.clientY };
    moved += Math.hypot(here.x - last.x, here.y - last.y);
    if (moved < CLICK_PX) return;
    canvas.classList.add("is-dragged");
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) pinch(canvas, picture, last, here, other);
    picture.view.pan(
      (last.x - here.x) / canvas.clientWidth / pointers.size,
      (last.y - here.y) / canvas.clientHeight / pointers.size,
    );
    pointers.set(event.pointerId, here);
  });
  canvas.addEventListener("pointerup", (event) => {
    const isClick = pointers.size === 1 && moved < CLICK_PX;
    release(event);
    if (isClick) click(picture, picture.nodeAt(event.offsetX, event.offsetY));
  });
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => picture.hover(-1));
}

/** A click on a node selects it and zooms to it; one on nothing selects nothing. */
function click(picture, slot) {
  picture.select(slot);
  if (slot > 0) picture.zoomTo(slot);
}

function pinch(canvas, picture, last, here, other) {
  const before = Math.hypot(last.x - other.x, last.y - other.y);
  const after = Math.hypot(here.x - other.x, here.y - other.y);
  if (before < 1 || after < 1) return;
  const middle = { clientX: (here.x + other.x) / 2, clientY: (here.y + other.y) / 2 };
  const { x, y } = shareOf(canvas, middle);
  picture.view.zoom(after / before, x, y);
}

/** Where an event is on the canvas, as shares of its width and height. */
function shareOf(canvas, { clientX, clientY }) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return { x: (clientX - left) / width, y: (clientY - top) / height };
}
