/** Numbers and times as people read them. */

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 12,345 */
export function count(number) {
  return WHOLE.format(number);
}

/** 12.3K */
export function compact(number) {
  return number < 10_000 ? WHOLE.format(number) : COMPACT.format(number);
}

/** "1 page", "2 pages" */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** 43 ms, 1.20 s, 12 s */
export function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(2)} s` : `${Math.round(seconds)} s`;
}

/** How long ago: "now", "12 s", "5 min", "3 h", "2 d" */
export function ago(seconds) {
  if (seconds < 1.5) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129_600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

/** 87%, and never 100% of what is not all */
export function percent(part, whole) {
  if (whole === 0) return "–";
  const rounded = Math.round((100 * part) / whole);
  return `${part < whole ? Math.min(rounded, 99) : rounded}%`;
}

/** 8.4, 120 */
export function rate(number) {
  return number < 10 ? number.toFixed(1) : WHOLE.format(number);
}

/** 14:03:07 */
export function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

/** Text for a place that is one line high: white space and control characters made visible. */
export function oneLine(text) {
  return text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥").replace(/\p{Cc}/gu, "·");
}
