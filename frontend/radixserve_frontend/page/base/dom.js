/**
 * Elements from plain data. Text becomes text nodes and nothing else: there is no way from here to
 * markup, so what users, models and servers write cannot become any.
 */

/**
 * An element with its attributes and children.
 *
 * `attributes`: `class`, `on` (listeners by event), `data` (data attributes), properties that exist
 * on the element (`value`, `disabled`, `hidden`, ...), else attributes; null and false are left out.
 * `children`: nodes, strings, numbers; null and false are left out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") listen(element, value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** An SVG element with attributes; SVG has no useful properties. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") listen(element, value);
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, String(value));
    }
  }
  append(element, children);
  return element;
}

/** Put `children` in place of what `element` holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** The element of this id in index.html. It must be there. */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`index.html has no element #${id}`);
  return element;
}

/** Change an element's text only if it differs, so that live regions stay quiet. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** One of the page's icons: 16 by 16, strokes in the colour of the text. */
export function icon(name) {
  const strokes = ICONS[name].map((d) => svg("path", { d }));
  return svg("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, ...strokes);
}

const ICONS = {
  send: ["M8 13V3", "M3.5 7.5 8 3l4.5 4.5"],
  stop: ["M4.5 4.5h7v7h-7z"],
  copy: ["M5.5 5.5h7v7h-7z", "M10.5 3.5h-7v7"],
  check: ["M3.5 8.5l3 3 6-7"],
  edit: ["M3 13l.7-3L10.5 3.2l2.3 2.3L6 12.3z"],
  again: ["M12.8 8A4.8 4.8 0 1 1 11 4.3", "M11.5 1.8v2.8H8.7"],
  remove: ["M3 4.5h10", "M6.5 4V2.5h3V4", "M4.5 4.5l.6 9h5.8l.6-9"],
  add: ["M8 3v10", "M3 8h10"],
  close: ["M4 4l8 8", "M12 4l-8 8"],
  left: ["M9.5 4l-4 4 4 4"],
  right: ["M6.5 4l4 4-4 4"],
  sliders: ["M2.5 5h6", "M11.5 5h2", "M10 3.5v3", "M2.5 11h2", "M7.5 11h6", "M6 9.5v3"],
  tree: ["M2.5 8h4", "M6.5 3.5v9", "M6.5 3.5h7", "M6.5 12.5h7", "M6.5 8h4"],
  why: ["M5.8 6a2.2 2.2 0 1 1 3.2 2c-.7.4-1 .8-1 1.5", "M8 12.3v.2"],
};

function listen(element, listeners) {
  for (const [event, listener] of Object.entries(listeners)) {
    if (listener) element.addEventListener(event, listener);
  }
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}
