/** The state of the Chat view: what is said, over which documents, with which settings. */

import { Store } from "../base/store.js";
import { DOCUMENTS, PRESETS, systemMessage } from "./documents.js";
import { emptyState } from "./turns.js";

/** The conversations: see turns.js. */
export const talk = new Store(emptyState());

/** Which conversation is in front where there is room for one only. */
export const front = new Store(talk.value.conversations[0].id);

/** What comes before all conversations. `own` is text of the user's, `chosen` has ids. */
export const context = new Store({
  instructions: PRESETS[0].text,
  chosen: [DOCUMENTS[0].id],
  own: "",
});

/** The server's models, [{id, max_model_len}], and how it is asked. */
export const settings = new Store({ models: [], model: null, temperature: 0, maxTokens: 160 });

/** The id of the user's own document among the chosen ones. */
export const OWN = "own";

/** The system message as it is now. */
export function systemText({ instructions, chosen, own } = context.value) {
  const texts = DOCUMENTS.filter((each) => chosen.includes(each.id)).map((each) => each.text);
  return systemMessage(instructions, chosen.includes(OWN) ? [...texts, own] : texts);
}

/** What `path` (turns) is as messages of a request; answers without text say nothing. */
export function messagesOf(path) {
  const system = systemText();
  const said = path.filter((turn) => turn.text !== "");
  return [
    ...(system === "" ? [] : [{ role: "system", content: system }]),
    ...said.map(({ role, text }) => ({ role, content: text })),
  ];
}
