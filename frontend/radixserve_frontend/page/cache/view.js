/** The Cache view: the live tree, what is selected in it, and the figures of the last minutes. */

import { announce } from "../base/announce.js";
import { byId, fill, h, setText } from "../base/dom.js";
import { counted } from "../base/format.js";
import { theme } from "../base/theme.js";
import { recordOf } from "../explain/records.js";
import { colourReader, COLOURINGS, css } from "./colours.js";
import { Feed } from "./feed.js";
import { Figures } from "./figures.js";
import { bindInput } from "./input.js";
import { Panel } from "./panel.js";
import { pathOf } from "./path.js";
import { Picture } from "./picture.js";
import { showLargest } from "./table.js";
import { Texts } from "./texts.js";

const TABLE_EVERY_MS = 2000;
const FIGURES_EVERY_MS = 1000;
/** The feed tells of a request's last nodes up to half a second later. */
const SEEK_AGAIN_MS = 700;
const MAX_SEEKS = 4;
const TOLD_PHASES = ["live", "waiting", "missing"];

export class CacheView {
  feed = new Feed({
    hello: (hello) => this.#begin(hello),
    lost: () => this.#clear(),
    nodes: (event) => this.picture.apply(event),
    whole: () => this.#nowWhole(),
    figures: (figures) => this.figures.add(figures, this.picture.now),
  });
  figures = new Figures(byId("figures"));
  picture;
  #texts = new Texts(this.feed, () => this.picture.draw());
  #panel;
  #isWhole = false;
  #sought = null;
  #note = "";
  #isShown = false;
  #toldPhase = "live";
  #tableAt = 0;

  constructor() {
    const canvas = byId("tree");
    this.picture = new Picture(canvas, this.#texts, {
      onSelect: (slot) => this.#panel?.show(slot),
      onSettle: () => this.#settled(),
    });
    this.#panel = new Panel(byId("node-panel"), this.picture, this.#texts);
    bindInput(canvas, this.picture);
    byId("zoom-in").addEventListener("click", () => this.picture.view.zoom(1.6, 0.5, 0.5));
    byId("zoom-out").addEventListener("click", () => this.picture.view.zoom(1 / 1.6, 0.5, 0.5));
    byId("zoom-all").addEventListener("click", () => this.picture.view.showAll());
    this.#offerColourings();
    theme.subscribe(() => this.#showLegend());
    this.feed.state.subscribe(() => this.#summarise());
    byId("largest").addEventListener("toggle", () => this.#showTable());
    setInterval(() => {
      if (this.feed.state.value.phase === "live") this.figures.goOn(this.picture.now);
    }, FIGURES_EVERY_MS);
  }

  /** The view is shown; `record`: mark the way of this request, or null. */
  show(record) {
    this.#isShown = this.picture.isShown = true;
    this.feed.open();
    this.#sought = record;
    if (record === null) {
      this.picture.markPath([]);
      this.#say("");
    } else if (this.#isWhole) this.#seek();
  }

  hide() {
    this.#isShown = this.picture.isShown = false;
    this.#sought = null;
  }

  /** There is another key now, or none: what the one before showed is gone. */
  reconnect() {
    this.#clear();
    this.figures.clear();
    this.feed.reopen();
  }

  /** There is a connection, perhaps by another key than before. */
  #begin({ tenant }) {
    this.#clear();
    // Of the whole server only administrators are told.
    if (tenant) this.figures.clear();
  }

  #clear() {
    this.#isWhole = false;
    this.figures.pause();
    this.#texts.forget();
    this.picture.clear();
    this.#summarise();
  }

  #settled() {
    this.#summarise();
    this.#panel?.refresh();
    if (performance.now() - this.#tableAt > TABLE_EVERY_MS) this.#showTable();
  }

  #nowWhole() {
    this.#isWhole = true;
    this.picture.settle();
    this.#summarise();
    this.#showTable();
    if (this.#sought !== null) this.#seek();
  }

  async #seek(round = 1) {
    const sought = this.#sought;
    const record = recordOf(sought);
    if (!record) {
      this.#say("That request is not known here any more.");
      return;
    }
    this.#say("Looking for the way of the request");
    try {
      const { path, isWhole } = await pathOf(record, this.picture.tree, this.#texts);
      if (this.#sought !== sought) return;
      this.picture.markPath(path);
      if (!isWhole && round < MAX_SEEKS) {
        setTimeout(() => this.#sought === sought && this.#seek(round + 1), SEEK_AGAIN_MS);
      }
      this.#say(
        path.length === 0
          ? "The request is not in the tree any more."
          : `Outlined: the way of the request from ${record.at.toLocaleTimeString("en-GB")}, ${counted(path.length, "node")} long.`,
      );
    } catch (error) {
      this.#say(`The way of the request cannot be found: ${error.message}`);
    }
  }

  #say(note) {
    this.#note = note;
    if (note !== "" && this.#isShown) announce(note);
    this.#summarise();
  }

  #summarise() {
    if (!this.picture) return;
    const { tree } = this.picture;
    const { phase, error, hello } = this.feed.state.value;
    const size = `${counted(tree.size, "node")}, ${counted(tree.totalTokens, "token")}`;
    const words = {
      off: "Not connected.",
      connecting: "Connecting.",
      live: this.#isWhole ? `${size}.` : `Loading: ${size}.`,
      waiting: `Connection lost (${error}); trying again.`,
      missing: `There is no tree to see: ${error}`,
    }[phase];
    setText(byId("cache-summary"), this.#note === "" ? words : `${words} ${this.#note}`);
    // How many nodes there are is not said at each change; that no more is told is, and that it is again.
    if (this.#isShown && TOLD_PHASES.includes(phase) && phase !== this.#toldPhase) {
      announce(words);
      this.#toldPhase = phase;
    }
    const place = byId("tree-place");
    place.dataset.nodes = String(tree.size);
    place.dataset.phase = this.#isWhole && phase === "live" ? "whole" : phase;
    place.dataset.path = String(this.picture.path.size);
    this.#showEmpty(phase === "live" && this.#isWhole && tree.size === 0, hello?.tenant);
  }

  #showEmpty(isEmpty, isTenant) {
    const empty = byId("tree-empty");
    empty.hidden = !isEmpty;
    if (!isEmpty || empty.hasChildNodes()) return;
    fill(
      empty,
      h("h2", {}, "Nothing is cached yet"),
      h(
        "p",
        {},
        isTenant
          ? "Here you will see what the server keeps of your prompts, and of the public ones that they begin with."
          : "Here you will see what the server keeps of prompts and answers, as a tree: what they have in common is kept once.",
      ),
      h("a", { href: "#chat" }, "Ask something"),
    );
  }

  #showTable() {
    const details = byId("largest");
    if (!details.open) return;
    this.#tableAt = performance.now();
    showLargest(byId("largest-table"), this.picture, this.#texts, (slot) => {
      this.picture.select(slot);
      this.picture.zoomTo(slot);
    });
  }

  #offerColourings() {
    const choose = (name) => {
      this.picture.colourBy(name);
      this.#showLegend();
    };
    const options = Object.entries(COLOURINGS).map(([name, { name: label }]) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "colouring",
          value: name,
          checked: name === this.picture.colouring,
          on: { change: () => choose(name) },
        }),
        label,
      ),
    );
    byId("colouring").append(...options);
  }

  #showLegend() {
    const element = byId("legend");
    const colouring = COLOURINGS[this.picture.colouring];
    const colours = colouring.colours(colourReader(element)).map(css);
    const entries = colouring.legend.map(([label, bucket]) => {
      const swatch = h("i", { class: "legend-swatch" });
      swatch.style.backgroundColor = colours[bucket];
      return h("span", { class: "legend-entry" }, swatch, label);
    });
    fill(element, h("span", { class: "legend-axes" }, "Left to right: position in the prompt. Height: share of the tokens."), entries);
  }
}
