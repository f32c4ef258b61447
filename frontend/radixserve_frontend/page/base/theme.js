/**
 * Light or dark: as the system has it, until somebody switches. The choice is remembered; it is the
 * only thing that outlives the session.
 */

import { local } from "./storage.js";
import { Store } from "./store.js";

const NAME = "radixserve.theme";
const ORDER = ["system", "light", "dark"];
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

const remembered = local.get(NAME);
const choice = new Store(ORDER.includes(remembered) ? remembered : "system");

/** What is shown, {choice, isDark}: canvases read their colours anew when it changes. */
export const theme = new Store(present());

choice.subscribe(apply);
systemIsDark.addEventListener("change", apply);

/** The next of system, light and dark. */
export function switchTheme() {
  const next = ORDER[(ORDER.indexOf(choice.value) + 1) % ORDER.length];
  local.set(NAME, next);
  choice.set(next);
}

function present() {
  const isDark = choice.value === "dark" || (choice.value === "system" && systemIsDark.matches);
  return { choice: choice.value, isDark };
}

function apply() {
  const now = present();
  document.documentElement.dataset.theme = now.isDark ? "dark" : "light";
  theme.set(now);
}
