/**
 * The page: three views over one server. This module joins them and owns nothing but the address.
 *
 *     #chat    #cache    #cache/path/RECORD    #explain    #explain/RECORD
 */

import { getJson } from "./base/api.js";
import { prepareHelp, prepareKeys } from "./base/dialogs.js";
import { byId, setText } from "./base/dom.js";
import { bindShortcuts } from "./base/shortcuts.js";
import { switchTheme, theme } from "./base/theme.js";
import { CacheView } from "./cache/view.js";
import { ChatView } from "./chat/view.js";
import { settings } from "./chat/workspace.js";
import { ExplainView } from "./explain/view.js";

const VIEWS = ["chat", "cache", "explain"];
/** A server that could not tell its models is asked again after so long. */
const MODELS_AGAIN_MS = 3000;

let modelsTimer = 0;

export const chat = new ChatView();
export const cache = new CacheView();
export const explain = new ExplainView();

const openHelp = prepareHelp();
prepareKeys(() => {
  loadModels();
  cache.reconnect();
});
byId("theme-button").addEventListener("click", switchTheme);
theme.subscribe(({ choice }) => setText(byId("theme-name"), { system: "Auto", light: "Light", dark: "Dark" }[choice]));
bindShortcuts({
  1: () => go("chat"),
  2: () => go("cache"),
  3: () => go("explain"),
  t: switchTheme,
  "?": openHelp,
  n: () => {
    go("chat");
    chat.add();
  },
  "/": () => {
    go("chat");
    chat.focus();
  },
});
byId("skip").addEventListener("click", (event) => {
  // The address says which view is shown, so it cannot also say where in the page one is.
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", route);
route();
loadModels();

function go(view) {
  if (shownView() !== view) {
    location.hash = view;
    route();
  }
}

function shownView() {
  const [view] = location.hash.slice(1).split("/");
  return VIEWS.includes(view) ? view : "chat";
}

function route() {
  const shown = shownView();
  const [, ...rest] = location.hash.slice(1).split("/");
  for (const view of VIEWS) {
    byId(`view-${view}`).hidden = view !== shown;
    const link = byId(`link-${view}`);
    if (view === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.documentElement.dataset.view = shown;
  document.title = `${shown[0].toUpperCase()}${shown.slice(1)} · radixserve`;
  if (shown === "chat") chat.show();
  if (shown === "cache") cache.show(rest[0] === "path" ? Number(rest[1]) : null);
  else cache.hide();
  if (shown === "explain") explain.show(rest[0] ? Number(rest[0]) : null);
}

async function loadModels() {
  clearTimeout(modelsTimer);
  const notice = byId("notice");
  try {
    const { data } = await getJson("v1/models");
    const kept = data.some((each) => each.id === settings.value.model);
    settings.patch({ models: data, model: kept ? settings.value.model : data[0].id });
    notice.hidden = true;
  } catch (error) {
    // A missing key is asked for; there is nothing more to say about it.
    notice.hidden = error.status === 401;
    if (error.status !== 401) {
      // What is no ApiError (an answer that is not JSON, say) knows no time.
      const wait = Math.max(MODELS_AGAIN_MS, 1000 * (error.retryAfterS ?? 0));
      modelsTimer = setTimeout(loadModels, wait);
    }
    setText(notice, `The models are not known: ${error.message}`);
  }
}
