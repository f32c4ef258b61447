/** Temperature, length and model: how the server is asked. */

import { byId, fill, h, setText } from "../base/dom.js";
import { settings } from "./workspace.js";

export function showSettings() {
  const temperature = byId("temperature");
  const maxTokens = byId("max-tokens");
  temperature.value = String(settings.value.temperature);
  maxTokens.value = String(settings.value.maxTokens);
  temperature.addEventListener("input", () => settings.patch({ temperature: Number(temperature.value) }));
  maxTokens.addEventListener("change", () => {
    const wanted = Math.round(Number(maxTokens.value));
    settings.patch({ maxTokens: wanted >= 1 ? wanted : 1 });
    maxTokens.value = String(settings.value.maxTokens);
  });
  const model = byId("model");
  model.addEventListener("change", () => settings.patch({ model: model.value }));
  settings.subscribe((value) => {
    setText(byId("temperature-value"), value.temperature === 0 ? "0, always the likeliest" : value.temperature.toFixed(1));
    const names = value.models.map((each) => each.id);
    if (names.join("\n") !== [...model.options].map((each) => each.value).join("\n")) {
      fill(model, names.map((name) => h("option", { value: name }, name)));
    }
    if (value.model !== null) model.value = value.model;
    setText(byId("model-name"), value.model ?? "");
    byId("model-choice").hidden = names.length < 2;
    byId("model-name").hidden = names.length >= 2;
  });
}
