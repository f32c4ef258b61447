/** How a prompt fared, as elements: the sources of its tokens, where the match ended, and why. */

import { sourceBar } from "../base/bar.js";
import { h } from "../base/dom.js";
import { count, counted, percent } from "../base/format.js";
import { causeInWords } from "./cause.js";

/** Of a `cache_report`. `history`: what the page knows besides, or null. */
export function reportElements(report, history = null) {
  const { prompt_tokens: total, matched_tokens: matched } = report;
  return [
    h(
      "p",
      { class: "verdict" },
      h("strong", {}, percent(matched, total)),
      ` of ${counted(total, "prompt token")} came from the cache.`,
    ),
    sourceBar(report.sources),
    ...parting(report, history),
  ];
}

/** Of what `POST /cache/explain` answers. */
export function explanationElements(explanation) {
  const { prompt_tokens: total, matched_tokens: matched, loadable } = explanation;
  const loaded = Math.min(loadable.host + loadable.disk, total - matched);
  const sources = {
    device: matched,
    host: Math.min(loadable.host, loaded),
    disk: Math.max(loaded - loadable.host, 0),
    computed: total - matched - loaded,
  };
  return [
    h(
      "p",
      { class: "verdict" },
      h("strong", {}, percent(matched + loaded, total)),
      ` of ${counted(total, "prompt token")} would come from the cache.`,
    ),
    sourceBar(sources),
    ...parting(explanation, null),
  ];
}

function parting(report, history) {
  const { matched_tokens: matched, text_around: around } = report;
  return [
    h("h3", {}, `The match ended behind token ${count(matched)}`),
    h(
      "p",
      { class: "parting" },
      h("span", { class: "parting-before" }, matched > 0 ? `…${around.before}` : ""),
      h("span", { class: "parting-mark", role: "img", "aria-label": "here the match ended" }),
      h("span", { class: "parting-after" }, `${around.after}…`),
    ),
    h("h3", {}, "Why"),
    h("p", { class: "cause", data: { cause: report.cause } }, causeInWords(report)),
    history === null ? null : h("p", { class: "cause history" }, history),
  ];
}
