/** Says things to those who hear the page instead of seeing it, politely and once. */

import { byId } from "./dom.js";

export function announce(text) {
  byId("announcements").textContent = text;
}
