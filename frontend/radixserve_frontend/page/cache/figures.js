/**
 * The last five minutes as small charts: pool, hit rate, queue and batch, evictions, preemptions.
 *
 * The feed's figures come at most twice a second; counters become differences between two samples.
 */

import { fill, h, setText, svg } from "../base/dom.js";
import { compact, count, percent } from "../base/format.js";

const SPAN_S = 300;
const WIDTH = 200;
const HEIGHT = 44;
/** A hit rate is of the last so many seconds: single requests make it jump. */
const RATE_S = 15;
/** After so long without figures they are taken to be the same. */
const SILENCE_S = 1;

/** Each: title; layers drawn over each other, [class, of a sample]; most; what it is now. */
const CHARTS = [
  {
    title: "Pool",
    layers: [
      ["area-cached", (s) => s.in_use + s.cached],
      ["area-in-use", (s) => s.in_use],
    ],
    most: (samples) => samples.at(-1).total,
    now: (s) => `${percent(s.in_use + s.cached, s.total)} full`,
    more: (s) => `${compact(s.in_use)} in use, ${compact(s.cached)} cached, ${compact(s.free)} free pages`,
  },
  {
    title: "Hit rate",
    layers: [["line-cached", (s) => s.hitRate]],
    most: () => 1,
    now: (s) => percent(s.cached_tokens, s.prompt_tokens),
    more: (s) => `of ${compact(s.prompt_tokens)} prompt tokens`,
  },
  {
    title: "Requests",
    layers: [
      ["area-waiting", (s) => s.running + s.waiting],
      ["area-running", (s) => s.running],
    ],
    most: (samples) => greatest(samples, (s) => s.running + s.waiting, 4),
    now: (s) => `${count(s.running)} running`,
    more: (s) => `${count(s.waiting)} waiting`,
  },
  {
    title: "Tokens a step",
    layers: [["line-ink", (s) => s.perStep]],
    most: (samples) => greatest(samples, (s) => s.perStep ?? 0, 16),
    now: (s) => (s.perStep === null ? "–" : compact(s.perStep)),
    more: (s) => `${compact(s.perSecond)} tokens/s computed`,
  },
  {
    title: "Evicted pages",
    layers: [["area-computed", (s) => s.evicted]],
    most: (samples) => greatest(samples, (s) => s.evicted, 8),
    now: (s) => `${compact(s.evicted)}/s`,
    more: (s) => `${compact(s.evicted_pages)} since the start`,
  },
  {
    title: "Preemptions",
    layers: [["area-computed", (s) => s.preempted]],
    most: (samples) => greatest(samples, (s) => s.preempted, 2),
    now: (s) => `${compact(s.preempted)}/s`,
    more: (s) => `${compact(s.preemptions)} since the start`,
  },
];

export class Figures {
  samples = [];
  /** Whether figures come: what they were before says nothing of now. */
  #isFed = false;
  #charts;
  #element;

  constructor(element) {
    this.#element = element;
    this.#charts = CHARTS.map((chart) => new Chart(chart));
    fill(element, this.#charts.map((chart) => chart.element));
    element.hidden = true;
  }

  /** The connection is lost, or is a new one: until it tells figures, nobody knows them. */
  pause() {
    this.#isFed = false;
  }

  clear() {
    this.pause();
    this.samples = [];
    this.#element.hidden = true;
  }

  /** Take a `figures` event at `now`, in seconds. */
  add(figures, now) {
    this.#isFed = true;
    const before = this.samples.at(-1);
    // Older than that if the server had nothing to say since: until now all was as it was then.
    const back = this.samples.find((each) => each.at >= now - RATE_S) ?? before;
    this.samples.push({ ...figures, ...derived(figures, before, back, now), at: now });
    while (this.samples[0].at < now - SPAN_S) this.samples.shift();
    this.#element.hidden = false;
    this.#element.dataset.samples = String(this.samples.length);
    for (const chart of this.#charts) chart.draw(this.samples, now);
  }

  /** It is `now`, and the connection lives: who tells nothing has nothing new to tell. */
  goOn(now) {
    const latest = this.samples.at(-1);
    if (this.#isFed && latest && now - latest.at >= SILENCE_S) this.add(latest, now);
  }
}

/** How the figures have changed since the sample `before`, and since `back`, if there are any. */
function derived(figures, before, back, now) {
  if (!before) return { hitRate: null, perStep: null, perSecond: 0, evicted: 0, preempted: 0 };
  const seconds = Math.max(now - before.at, 0.001);
  // An engine that was restarted counts from nothing.
  const since = (sample, name) => Math.max(figures[name] - sample[name], 0);
  const steps = since(before, "steps");
  const computed = since(before, "computed_tokens");
  const prompts = since(back, "prompt_tokens");
  return {
    hitRate: prompts > 0 ? since(back, "cached_tokens") / prompts : null,
    perStep: steps > 0 ? computed / steps : null,
    perSecond: computed / seconds,
    evicted: since(before, "evicted_pages") / seconds,
    preempted: since(before, "preemptions") / seconds,
  };
}

function greatest(samples, value, least) {
  return samples.reduce((most, sample) => Math.max(most, value(sample)), least);
}

/** One small chart. */
class Chart {
  #chart;
  #now = h("output", {});
  #more = h("p", { class: "hint" });
  #paths;
  #picture;

  constructor(chart) {
    this.#chart = chart;
    this.#paths = chart.layers.map(([style]) => svg("path", { class: style }));
    this.#picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      ...this.#paths,
    );
    this.element = h(
      "figure",
      { class: "multiple" },
      h("figcaption", {}, h("span", {}, chart.title), this.#now),
      this.#picture,
      this.#more,
    );
  }

  draw(samples, now) {
    const { title, layers, most, now: nowText, more } = this.#chart;
    const latest = samples.at(-1);
    const scale = (HEIGHT - 2) / Math.max(most(samples), 1e-9);
    layers.forEach(([style, value], index) => {
      const points = samples.map((sample) => [
        WIDTH - ((now - sample.at) / SPAN_S) * WIDTH,
        value(sample) === null ? null : HEIGHT - value(sample) * scale,
      ]);
      this.#paths[index].setAttribute("d", style.startsWith("area") ? area(points) : line(points));
    });
    setText(this.#now, nowText(latest));
    setText(this.#more, more(latest));
    this.#picture.setAttribute("aria-label", `${title}, last five minutes: now ${nowText(latest)}, ${more(latest)}`);
  }
}

/** A line through the points, with gaps where there is no value. */
function line(points) {
  let isBegun = false;
  return points
    .map(([x, y]) => {
      if (y === null) {
        isBegun = false;
        return "";
      }
      const command = isBegun ? "L" : "M";
      isBegun = true;
      return `${command}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}

function area(points) {
  if (points.length === 0) return "";
  const from = points[0][0].toFixed(1);
  const to = points.at(-1)[0].toFixed(1);
  return `${line(points)}L${to} ${HEIGHT}L${from} ${HEIGHT}Z`;
}
