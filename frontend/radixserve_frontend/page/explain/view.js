/** The Explain view: the requests of this page, how each fared, and a box to ask about any prompt. */

import { isAbort, postJson } from "../base/api.js";
import { byId, fill, h } from "../base/dom.js";
import { clock, count, counted, duration, percent, rate } from "../base/format.js";
import { settings, systemText, talk } from "../chat/workspace.js";
import { historyInWords } from "./cause.js";
import { recordOf, records } from "./records.js";
import { explanationElements, reportElements } from "./report.js";

export class ExplainView {
  #shown = null;
  /** The record whose explanation stands there, null for none; undefined before the first. */
  #explained;
  #asking = null;

  constructor() {
    records.subscribe(() => this.#update());
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
  }

  /** Show this record; the newest if null. */
  show(id) {
    this.#shown = id;
    this.#explained = undefined;
    this.#update();
  }

  #update() {
    const all = records.value;
    const shown = recordOf(this.#shown) ?? all.at(-1);
    const list = byId("requests");
    const focused = list.contains(document.activeElement) ? document.activeElement.hash : null;
    fill(
      list,
      all.length === 0
        ? h("p", { class: "hint" }, "None yet. What you ask in the Chat is listed here, in memory only.")
        : h("ol", { class: "requests" }, all.toReversed().map((each) => listed(each, each === shown))),
    );
    // Who steps through the requests by keyboard goes on from where they are.
    if (focused) list.querySelector(`a[href="${focused}"]`)?.focus();
    if (this.#explained === (shown ?? null)) return;
    this.#explained = shown ?? null;
    fill(byId("explanation"), ...(shown ? explained(shown) : unexplained()));
  }

  async #ask() {
    const text = byId("ask-text").value;
    const place = byId("ask-answer");
    if (text === "") return;
    this.#asking?.abort();
    const { signal } = (this.#asking = new AbortController());
    fill(place, h("p", { class: "hint" }, "Looking."));
    const { model } = settings.value;
    const asChat = byId("ask").elements["ask-as"].value === "chat";
    try {
      const prompt = asChat ? { messages: firstMessages(text) } : { prompt: text };
      const explanation = await postJson("cache/explain", { model, ...prompt }, signal);
      fill(place, ...explanationElements(explanation));
    } catch (error) {
      if (isAbort(error)) return;
      fill(place, h("p", { class: "failure", role: "alert" }, error.message));
    }
  }
}

function firstMessages(text) {
  const system = systemText();
  const user = { role: "user", content: text };
  return system === "" ? [user] : [{ role: "system", content: system }, user];
}

function listed(record, isShown) {
  const total = record.promptTokens;
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#explain/${record.id}`, class: "request", "aria-current": isShown ? "true" : null },
      h("span", { class: "request-letter swatch-letter", data: { letter: letterOf(record) } }, letterOf(record)),
      h("span", { class: "request-text" }, questionOf(record)),
      h("span", { class: "request-part" }, percent(record.cachedTokens, total)),
      h("span", { class: "request-when" }, `${clock(record.at)} · ${counted(total, "token")}`),
    ),
  );
}

function explained(record) {
  const { report, ttft, rate: perSecond, answerTokens } = record;
  const history = historyInWords(record, recordOf(record.previous));
  return [
    h(
      "header",
      { class: "explained-head" },
      h("h2", {}, questionOf(record)),
      h(
        "p",
        { class: "figures" },
        h("span", {}, `Conversation ${letterOf(record)}, ${clock(record.at)}`),
        ttft === null ? null : h("span", {}, `TTFT ${duration(ttft)}`),
        perSecond === null ? null : h("span", {}, `${rate(perSecond)} tok/s`),
        h("span", {}, `${count(answerTokens)} tokens answered`),
        h("a", { href: `#cache/path/${record.id}` }, "Show in the tree"),
      ),
    ),
    ...(report === null
      ? [h("p", { class: "hint" }, "The server gave no report for this request.")]
      : reportElements(report, history)),
  ];
}

function unexplained() {
  return [
    h("h2", {}, "Where a prompt's tokens come from"),
    h(
      "p",
      { class: "hint" },
      "For each request this view shows how many of its tokens the cache held, the text around the place where the match ended, and why it ended there.",
    ),
  ];
}

function questionOf(record) {
  return record.messages.findLast((each) => each.role === "user")?.content ?? "";
}

/** A conversation that was closed has no letter any more. */
function letterOf(record) {
  return talk.value.conversations.find((each) => each.id === record.conversation)?.letter ?? "–";
}
