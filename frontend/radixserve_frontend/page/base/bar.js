/** A bar of where a prompt's tokens came from, with its numbers in words for those who hear it. */

import { h, svg } from "./dom.js";
import { count } from "./format.js";

/** Where tokens come from: name in a report, words, class of the colour. */
export const SOURCES = [
  ["device", "cached", "source-device"],
  ["in_flight", "shared in flight", "source-in-flight"],
  ["host", "from host memory", "source-host"],
  ["disk", "from disk", "source-disk"],
  ["computed", "computed", "source-computed"],
  ["untold", "prompt tokens; how many were cached is not known", "source-untold"],
];

/** `sources`: tokens by name, as in a cache report. Nothing is shown of what is zero. */
export function sourceBar(sources) {
  const parts = SOURCES.map(([name, words, style]) => ({ words, style, tokens: sources[name] ?? 0 }));
  const shown = parts.filter((part) => part.tokens > 0);
  const total = shown.reduce((sum, part) => sum + part.tokens, 0);
  const label = shown.map((part) => `${count(part.tokens)} ${part.words}`).join(", ");
  let x = 0;
  const rects = shown.map((part) => {
    const width = (100 * part.tokens) / total;
    const rect = svg("rect", { x: x.toFixed(3), y: 0, width: width.toFixed(3), height: 4, class: part.style });
    x += width;
    return rect;
  });
  return h(
    "div",
    { class: "source-bar", data: { ...sources } },
    svg(
      "svg",
      { viewBox: "0 0 100 4", preserveAspectRatio: "none", role: "img", "aria-label": `Prompt tokens: ${label}` },
      ...rects,
    ),
    h(
      "span",
      { class: "source-numbers", "aria-hidden": "true" },
      shown.map((part) => h("span", { class: `source-number ${part.style}` }, `${count(part.tokens)} ${part.words}`)),
    ),
  );
}

/** The sources of a request: as reported, else what its usage says, if there was any. */
export function sourcesOf({ report, promptTokens, cachedTokens }) {
  if (report) return report.sources;
  if (cachedTokens === null) return { untold: promptTokens };
  return { device: cachedTokens, computed: promptTokens - cachedTokens };
}
