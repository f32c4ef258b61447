/** The Chat view: context on the left, up to three conversations side by side. */

import { byId } from "../base/dom.js";
import { running } from "./answering.js";
import { Column, showTabs } from "./column.js";
import { showSettings } from "./settings.js";
import { keepShared } from "./shared.js";
import { showSidebar } from "./sidebar.js";
import { addConversation, MAX_CONVERSATIONS } from "./turns.js";
import { context, front, talk } from "./workspace.js";

export class ChatView {
  #columns = new Map();
  #place = byId("columns");
  #add = byId("add-conversation");

  constructor() {
    showSidebar(keepShared());
    showSettings();
    this.#add.addEventListener("click", () => this.add());
    const toggle = byId("context-toggle");
    toggle.addEventListener("click", () => {
      const isOpen = byId("context").classList.toggle("is-open");
      toggle.setAttribute("aria-expanded", String(isOpen));
    });
    talk.subscribe((state) => this.#update(state));
    running.subscribe(() => this.#update(talk.value));
    context.subscribe(() => this.#columns.forEach((column) => column.suggest()));
    front.subscribe(() => this.#bringToFront());
  }

  /** The view is shown: what came meanwhile is to be seen. */
  show() {
    this.#columns.forEach((column) => column.follow());
  }

  /** One more conversation, if there is room, and write there. */
  add() {
    const next = addConversation(talk.value);
    if (next === talk.value) return;
    const known = new Set(talk.value.conversations.map((each) => each.id));
    const added = next.conversations.find((each) => !known.has(each.id));
    talk.set(next);
    front.set(added.id);
    requestAnimationFrame(() => this.focus());
  }

  /** Write in the conversation in front. */
  focus() {
    (this.#columns.get(front.value) ?? this.#columns.values().next().value)?.focus();
  }

  #update(state) {
    for (const [id, column] of this.#columns) {
      if (state.conversations.some((each) => each.id === id)) continue;
      column.element.remove();
      this.#columns.delete(id);
    }
    const columns = state.conversations.map((conversation) => {
      let column = this.#columns.get(conversation.id);
      if (!column) this.#columns.set(conversation.id, (column = this.#made(conversation)));
      return column;
    });
    columns.forEach(({ element }, index) => {
      // Those that are there stay where they are: one that is put in anew forgets how far it was read.
      const there = this.#place.children[index] ?? null;
      if (there !== element) this.#place.insertBefore(element, there);
    });
    for (const column of columns) column.update(state);
    this.#add.hidden = state.conversations.length >= MAX_CONVERSATIONS;
    this.#place.dataset.count = String(columns.length);
    if (!this.#columns.has(front.value)) front.set(state.conversations[0].id);
    this.#bringToFront();
  }

  #made(conversation) {
    const column = new Column(conversation);
    column.element.addEventListener("focusin", () => front.set(conversation.id));
    return column;
  }

  #bringToFront() {
    for (const [id, column] of this.#columns) {
      column.element.classList.toggle("is-front", id === front.value);
    }
    // Where there is room for one only, it was hidden.
    this.#columns.get(front.value)?.follow();
    showTabs(talk.value);
  }
}
