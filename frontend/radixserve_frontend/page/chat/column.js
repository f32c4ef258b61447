/** One conversation as a column: its messages, and where one writes the next. */

import { byId, fill, h, icon } from "../base/dom.js";
import { running, say, stop } from "./answering.js";
import { DOCUMENTS } from "./documents.js";
import { Message } from "./message.js";
import { pathTo, removeConversation, removeTurn, versionsIn } from "./turns.js";
import { context, front, talk } from "./workspace.js";

/** Closer than this to the end, in pixels, the reader follows what comes. */
const NEAR_END = 48;

export class Column {
  #conversation;
  #messages = new Map();
  /** Whether what comes is to be seen: until somebody scrolls away from the end. */
  #follows = true;
  #log = h("div", {
    class: "log",
    role: "log",
    "aria-live": "off",
    tabIndex: 0,
    // An editor that is opened makes it longer, and nobody has scrolled.
    on: { scroll: () => this.#scrolled(), focusin: () => this.#scrolled() },
  });
  #empty = h("div", { class: "empty" });
  #input;
  #button;
  #close;

  constructor(conversation) {
    this.#conversation = conversation;
    const name = `Conversation ${conversation.letter}`;
    this.#log.setAttribute("aria-label", name);
    // So does what the model thought; that event does not bubble.
    this.#log.addEventListener("toggle", () => this.#scrolled(), true);
    this.#input = h("textarea", {
      rows: 1,
      placeholder: "Ask about the document",
      "aria-label": `Message to ${name}`,
      on: { input: () => this.#grow(), keydown: (event) => this.#key(event) },
    });
    this.#button = h("button", { type: "submit", class: "send" });
    this.#close = iconButton("close", `Close ${name}`, () => {
      stop(conversation.id);
      talk.set(removeConversation(talk.value, conversation.id));
    });
    this.element = h(
      "section",
      {
        class: "column",
        data: { letter: conversation.letter, conversation: conversation.id },
        "aria-label": name,
        on: { keydown: (event) => event.key === "Escape" && stop(conversation.id) },
      },
      h(
        "header",
        { class: "column-head" },
        h("h2", {}, h("span", { class: "swatch", "aria-hidden": "true" }, conversation.letter), name),
        iconButton("remove", `Begin ${name} anew`, () => this.#clear()),
        this.#close,
      ),
      this.#log,
      h(
        "form",
        { class: "composer", on: { submit: (event) => this.#submit(event) } },
        this.#input,
        this.#button,
      ),
    );
    this.suggest();
  }

  /** Show the conversation as it is in `state`. */
  update(state) {
    this.#conversation = state.conversations.find((each) => each.id === this.#conversation.id);
    const path = pathTo(state, this.#conversation.leaf);
    const shown = path.map((turn) => this.#messageOf(turn));
    const elements = path.length === 0 ? [this.#empty] : shown.map((message) => message.element);
    if (!isSame(this.#log.children, elements)) this.#replace(elements);
    const versionsOf = versionsIn(state);
    shown.forEach((message, index) => message.update(path[index], versionsOf(path[index])));
    for (const id of this.#messages.keys()) if (!state.turns.has(id)) this.#messages.delete(id);
    this.#close.hidden = state.conversations.length === 1;
    // Be it in the version that is shown or in another.
    this.#showButton(running.value.has(this.#conversation.id));
    this.follow();
  }

  /** Go to the end, if that is where the reader is. */
  follow() {
    if (this.#follows) this.#log.scrollTop = this.#log.scrollHeight;
  }

  /** An empty conversation offers questions about the chosen documents. */
  suggest() {
    const chosen = DOCUMENTS.filter((each) => context.value.chosen.includes(each.id));
    const questions = chosen.flatMap((each) => each.questions).slice(0, 6);
    fill(
      this.#empty,
      h("p", {}, questions.length > 0 ? "Ask something, for instance:" : "Ask something."),
      questions.map((question) =>
        h(
          "button",
          {
            type: "button",
            class: "suggestion",
            on: { click: () => say(this.#conversation.id, this.#conversation.leaf, question) },
          },
          question,
        ),
      ),
    );
  }

  focus() {
    this.#input.focus();
  }

  /** Who had the focus in here does not lose it to the page's beginning. */
  #replace(elements) {
    const focused = this.#log.contains(document.activeElement) ? document.activeElement : null;
    this.#log.replaceChildren(...elements);
    if (focused) (focused.isConnected ? focused : this.#log).focus({ preventScroll: true });
  }

  #messageOf(turn) {
    let message = this.#messages.get(turn.id);
    if (!message) this.#messages.set(turn.id, (message = new Message(turn)));
    return message;
  }

  #showButton(isStreaming) {
    const name = isStreaming ? "stop" : "send";
    if (this.#button.dataset.does === name) return;
    this.#button.dataset.does = name;
    this.#button.setAttribute("aria-label", isStreaming ? "Stop" : "Send");
    fill(this.#button, icon(name));
  }

  #submit(event) {
    event.preventDefault();
    const { id, leaf } = this.#conversation;
    if (this.#button.dataset.does === "stop") {
      stop(id);
      return;
    }
    const text = this.#input.value.trim();
    if (text === "") return;
    this.#input.value = "";
    this.#grow();
    this.#follows = true;
    say(id, leaf, text);
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      if (this.#button.dataset.does === "send") this.#submit(event);
      else event.preventDefault();
    } else if (event.key === "ArrowUp" && event.altKey) this.#editLast(event);
  }

  #editLast(event) {
    const path = pathTo(talk.value, this.#conversation.leaf);
    const last = path.findLast((turn) => turn.role === "user");
    if (!last) return;
    event.preventDefault();
    this.#messages.get(last.id).edit();
  }

  #clear() {
    stop(this.#conversation.id);
    const path = pathTo(talk.value, this.#conversation.leaf);
    if (path.length === 0) return;
    let state = talk.value;
    for (const turn of state.turns.values()) {
      if (turn.parent === null && turn.conversation === this.#conversation.id) {
        state = removeTurn(state, turn.id);
      }
    }
    talk.set(state);
    this.focus();
  }

  #grow() {
    this.#input.style.height = "auto";
    this.#input.style.height = `${Math.min(this.#input.scrollHeight, 180)}px`;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    // Where it is hidden it has no height, and nobody has scrolled.
    if (clientHeight > 0) this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
  }
}

/** The tabs of the conversations, for screens with room for one. */
export function showTabs(state) {
  const place = byId("conversation-tabs");
  const shown = `${state.conversations.map((each) => each.id).join()} ${front.value}`;
  // They stay what they are while answers come: somebody may be about to press one.
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  const hadFocus = place.contains(document.activeElement);
  fill(
    place,
    state.conversations.map((each) =>
      h(
        "button",
        {
          type: "button",
          data: { letter: each.letter },
          "aria-label": `Conversation ${each.letter}`,
          "aria-pressed": String(each.id === front.value),
          on: { click: () => front.set(each.id) },
        },
        each.letter,
      ),
    ),
  );
  if (hadFocus) place.querySelector("[aria-pressed=true]")?.focus();
}

function iconButton(name, label, click) {
  return h(
    "button",
    { type: "button", class: "icon-button", title: label, "aria-label": label, on: { click } },
    icon(name),
  );
}

function isSame(children, elements) {
  return children.length === elements.length && elements.every((each, index) => children[index] === each);
}
