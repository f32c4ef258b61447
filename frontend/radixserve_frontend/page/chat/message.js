/** One turn as an element: its text, what can be done with it, and what its answer cost. */

import { sourceBar, sourcesOf } from "../base/bar.js";
import { fill, h, icon, setText } from "../base/dom.js";
import { counted, duration, rate } from "../base/format.js";
import { regenerate, retry, say } from "./answering.js";
import { removeTurn, showVersion } from "./turns.js";
import { talk } from "./workspace.js";

const NOTES = {
  stopped: "Stopped. What had come stays.",
  cut: "Cut at the limit of tokens in Settings.",
};

/** The element of a turn. `update(turn, versions)` shows how it is now, and which it is of how many. */
export class Message {
  #turn;
  #shown = null;
  #text = h("div", { class: "message-text" });
  #thinking = h("details", { class: "thinking", hidden: true }, h("summary", {}, "Thinking"), h("p"));
  #below = h("div", { class: "message-below" });
  #versions = h("span", { class: "versions", hidden: true });
  #actions = h("div", { class: "message-actions" });

  constructor(turn) {
    this.#turn = turn;
    const isUser = turn.role === "user";
    this.element = h(
      "article",
      {
        class: `message message-${turn.role}`,
        data: { turn: turn.id },
        "aria-label": isUser ? "You" : "Answer",
      },
      this.#thinking,
      this.#text,
      this.#below,
      h("div", { class: "message-foot" }, this.#versions, this.#actions),
    );
    fill(
      this.#actions,
      isUser ? action("edit", "Edit: forks the conversation here", () => this.edit()) : null,
      isUser ? null : action("again", "Answer again", () => regenerate(this.#turn)),
      action("copy", "Copy", (event) => this.#copy(event.currentTarget)),
      action("remove", "Delete this and all after it", () =>
        talk.set(removeTurn(talk.value, this.#turn.id)),
      ),
    );
  }

  update(turn, versions) {
    this.#showVersions(turn, versions);
    if (turn === this.#shown) return;
    this.#turn = this.#shown = turn;
    if (turn.role === "assistant") this.element.dataset.status = turn.status;
    this.element.setAttribute("aria-busy", String(turn.status === "streaming"));
    setText(this.#text, turn.text);
    if (turn.thinking) {
      this.#thinking.hidden = false;
      setText(this.#thinking.lastElementChild, turn.thinking);
    }
    if (turn.role === "assistant" && turn.status !== "streaming") this.#showOutcome(turn);
  }

  /** Put an editor in the text's place. */
  edit() {
    const { conversation, parent, text } = this.#turn;
    const editor = h("textarea", { class: "editor", value: text, rows: 3, "aria-label": "Edit the message" });
    const end = () => {
      form.replaceWith(this.#text);
      this.element.classList.remove("is-edited");
      this.#actions.querySelector("button").focus();
    };
    const send = () => {
      const edited = editor.value.trim();
      end();
      if (edited !== "" && edited !== text) say(conversation, parent, edited);
    };
    const form = h(
      "div",
      {
        class: "edit-form",
        on: {
          keydown: (event) => {
            if (event.key === "Escape") end();
            else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send();
            else return;
            event.preventDefault();
            event.stopPropagation();
          },
        },
      },
      editor,
      h(
        "div",
        { class: "edit-buttons" },
        h("button", { type: "button", on: { click: end } }, "Cancel"),
        h("button", { type: "button", class: "primary", on: { click: send } }, "Send edited"),
      ),
    );
    this.element.classList.add("is-edited");
    this.#text.replaceWith(form);
    editor.focus();
  }

  #showVersions(turn, versions) {
    const place = versions.findIndex((each) => each.id === turn.id);
    const key = [turn.id, ...versions.map((each) => each.id)].join();
    this.#versions.hidden = versions.length < 2;
    if (this.#versions.dataset.key === key) return;
    this.#versions.dataset.key = key;
    const to = (index) => () => talk.set(showVersion(talk.value, versions[index].id));
    fill(
      this.#versions,
      action("left", "Version before", place > 0 ? to(place - 1) : null),
      h("span", { class: "version" }, `${place + 1} / ${versions.length}`),
      action("right", "Version after", place < versions.length - 1 ? to(place + 1) : null),
    );
  }

  #showOutcome(turn) {
    const { status, ttft, rate: perSecond, promptTokens, answerTokens, record } = turn;
    const isWhole = status === "done" || status === "cut";
    const figures = [
      ttft !== null && ["TTFT", duration(ttft), "Time to the first token"],
      perSecond !== null && ["", `${rate(perSecond)} tok/s`, "Tokens a second after the first"],
      !isWhole && answerTokens !== null && ["", `${counted(answerTokens, "token")} received`, "Counted from the text that came"],
    ].filter(Boolean);
    fill(
      this.#below,
      status === "failed"
        ? h(
            "div",
            { class: "failure", role: "alert" },
            h("p", {}, turn.error),
            h("button", { type: "button", on: { click: () => retry(this.#turn) } }, "Try again"),
          )
        : null,
      NOTES[status] ? h("p", { class: "note" }, NOTES[status]) : null,
      promptTokens !== null ? sourceBar(sourcesOf(turn)) : null,
      h(
        "p",
        { class: "figures" },
        figures.map(([name, value, title]) => h("span", { class: "figure", title }, `${name} ${value}`.trim())),
        record ? h("a", { href: `#explain/${record}` }, "Why?") : null,
        record ? h("a", { href: `#cache/path/${record}` }, "Show in the tree") : null,
      ),
    );
  }

  async #copy(button) {
    if (!navigator.clipboard) {
      // Browsers have it on safe origins only; then whoever wants the text finds it selected.
      getSelection().selectAllChildren(this.#text);
      return;
    }
    await navigator.clipboard.writeText(this.#turn.text);
    fill(button, icon("check"));
    setTimeout(() => fill(button, icon("copy")), 1200);
  }
}

function action(name, label, click) {
  return h(
    "button",
    { type: "button", class: "icon-button", title: label, "aria-label": label, disabled: !click, on: { click } },
    icon(name),
  );
}
