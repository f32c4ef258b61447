/** What comes before every conversation: the system prompt and the documents. */

import { byId, fill, h, setText } from "../base/dom.js";
import { counted } from "../base/format.js";
import { postJson } from "../base/api.js";
import { DOCUMENTS, PRESETS } from "./documents.js";
import { context, OWN, settings, systemText } from "./workspace.js";

const COUNT_AFTER_MS = 300;

/** Tokens of the system message; null while nobody has counted. For the picture of what is shared. */
export function showSidebar(onCount) {
  const instructions = byId("instructions");
  const preset = byId("preset");
  instructions.value = context.value.instructions;
  fill(
    preset,
    PRESETS.map((each, index) => h("option", { value: String(index) }, each.name)),
    h("option", { value: "" }, "Your own"),
  );
  preset.addEventListener("change", () => {
    if (preset.value !== "") instructions.value = PRESETS[Number(preset.value)].text;
    instructions.dispatchEvent(new Event("input"));
    if (preset.value === "") instructions.focus();
  });
  instructions.addEventListener("input", () => context.patch({ instructions: instructions.value }));

  const own = byId("own-text");
  own.addEventListener("input", () => context.patch({ own: own.value }));
  const list = byId("documents");
  fill(
    list,
    DOCUMENTS.map((each) => choice(each.id, each.name, each.kind)),
    choice(OWN, "Your own text", "any"),
  );

  context.subscribe((value) => {
    const index = PRESETS.findIndex((each) => each.text === value.instructions);
    preset.value = index < 0 ? "" : String(index);
    own.hidden = !value.chosen.includes(OWN);
    const preview = DOCUMENTS.filter((each) => value.chosen.includes(each.id)).map((each) => each.text);
    setText(byId("document-preview"), preview.join("\n\n"));
    byId("preview").hidden = preview.length === 0;
  });
  countTokens(onCount);
}

/** A document to be chosen or not. */
function choice(id, name, kind) {
  const box = h("input", {
    type: "checkbox",
    value: id,
    checked: context.value.chosen.includes(id),
    on: {
      change: () => {
        const others = context.value.chosen.filter((each) => each !== id);
        context.patch({ chosen: box.checked ? [...others, id] : others });
        if (id === OWN && box.checked) byId("own-text").focus();
      },
    },
  });
  return h("label", { class: "document" }, box, h("span", { class: "document-name" }, name), h("span", { class: "kind" }, kind));
}

/** Keep the tokens counted that all conversations begin with, some time after each change. */
function countTokens(onCount) {
  let timer = 0;
  let latest = null;
  const label = byId("context-tokens");
  const recount = () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const text = systemText();
      const { model } = settings.value;
      if (model === null || text === latest) return;
      latest = text;
      let tokens = null;
      try {
        tokens = await sharedTokens(model, text);
      } catch {
        // Then the picture estimates; asking anything tells what is wrong.
      }
      if (text !== systemText()) return;
      setText(label, tokens === null ? "" : counted(tokens, "token"));
      onCount(tokens);
    }, COUNT_AFTER_MS);
  };
  context.subscribe(recount);
  settings.subscribe(recount);
}

/** How many tokens two conversations have in common that begin with different words. */
async function sharedTokens(model, text) {
  const system = text === "" ? [] : [{ role: "system", content: text }];
  const [one, other] = await Promise.all(
    ["A", "7"].map((content) =>
      postJson("tokenize", { model, messages: [...system, { role: "user", content }] }),
    ),
  );
  const parting = one.tokens.findIndex((token, index) => token !== other.tokens[index]);
  return parting < 0 ? one.count : parting;
}
